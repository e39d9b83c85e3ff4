//! `local`: the whole program in this process.

use dstreams::{Result, StreamContext};

use super::attend::DRAIN;
use super::error::Error;

/// Run in this process alone
///
/// SIGTERM or Ctrl-C ends the program: what was received is run and committed before.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the role.
pub async fn run(
    args: &Args,
    app: &dyn Fn(&[String]) -> Result<StreamContext>,
) -> Result<(), Error> {
    let running = app(&args.arguments)?.start().await?;
    match running.run_until_signal(DRAIN).await?.unfinished {
        0 => Ok(()),
        unfinished => Err(Error::Unfinished { unfinished }),
    }
}
