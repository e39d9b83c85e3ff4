//! `drain`: has a worker leave without a loss.

use std::time::Duration;

use arrow_flight::Action;

use super::arguments::{Secret, address};
use super::error::Error;
use super::say;
use super::status::call;

/// How long a worker may take to give away what it has.
const PATIENCE: Duration = Duration::from_secs(600);

/// Have a worker leave: its blocks and its state go to the others first, then its process ends
///
/// Returns when it may leave. The program goes on meanwhile; clients that sent to it send to another one.
#[derive(Debug, Clone, clap::Args)]
pub struct DrainArgs {
    /// Where the master listens
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    master: String,
    /// The worker's number, as `status` shows it
    worker: u32,
    #[command(flatten)]
    secret: Secret,
}

/// Asks, and says when it is so.
pub async fn drain(args: &DrainArgs) -> Result<(), Error> {
    let action = Action::new("drain", args.worker.to_string());
    call(&args.master, args.secret.read()?, action, PATIENCE).await?;
    say(format_args!("worker {} has left", args.worker))
}
