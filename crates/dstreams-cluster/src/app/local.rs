//! `local`: the whole program in this process.

use dstreams::{Result, StreamContext};

use super::arguments::Drain;
use super::error::Error;
use crate::logs;

/// Run in this process alone
///
/// SIGTERM or Ctrl-C stops the program after the records received so far are run and committed.
#[derive(Debug, clap::Args)]
pub struct LocalRoleArgs {
    #[command(flatten)]
    ends: Drain,
    /// Arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the role.
pub async fn run(
    args: &LocalRoleArgs,
    app: &dyn Fn(&[String]) -> Result<StreamContext>,
) -> Result<(), Error> {
    logs::to_stderr();
    let running = app(&args.arguments)?.start().await?;
    match running.run_until_signal(args.ends.drain).await?.unfinished {
        0 => Ok(()),
        unfinished => Err(Error::Unfinished { unfinished }),
    }
}
