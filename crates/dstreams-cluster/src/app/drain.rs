//! `drain`: a worker hands over its blocks and state, then leaves.

use std::time::Duration;

use arrow_flight::Action;

use super::arguments::{Masters, Secret};
use super::error::Error;
use super::print_line;
use super::status::{call, leader};

/// How long a worker may take to hand over its blocks and state.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// Drain a worker: its blocks and state move to other workers, then its process ends
///
/// Returns when the worker may leave. The program keeps running; clients of the worker switch to another one.
#[derive(Debug, Clone, clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    masters: Masters,
    /// The worker's number, as `status` shows it
    worker: u32,
    #[command(flatten)]
    secret: Secret,
}

/// Asks the master that leads, and reports when the worker has left.
pub async fn drain(args: &DrainArgs) -> Result<(), Error> {
    let action = Action::new("drain", args.worker.to_string());
    let token = args.secret.read()?;
    let (master, _) = leader(&args.masters, token.clone()).await?;
    call(master, token, action, DRAIN_TIMEOUT).await?;
    print_line(format_args!("worker {} has left", args.worker))
}
