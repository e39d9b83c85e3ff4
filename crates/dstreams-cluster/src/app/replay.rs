//! `replay`: runs one batch that was set aside, in this process.

use std::path::PathBuf;

use dstreams::{BatchTime, Result, StreamContext};

use super::error::Error;
use super::print_line;
use crate::logs;

/// Run one batch that was set aside: to find the bad record, or to test a changed program
///
/// Receives nothing, starts with empty states and changes nothing in the directory. Runs closures and prints; skips
/// sinks.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// State directory of the program
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Batch time in milliseconds since the Unix epoch, as in the log and in the directory `failed`
    #[arg(long, value_name = "T")]
    batch: u64,
    /// Arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the batch; fails with its error. Must be called inside a tokio runtime.
pub async fn replay(
    args: &ReplayArgs,
    app: &dyn Fn(&[String]) -> Result<StreamContext>,
) -> std::result::Result<(), Error> {
    logs::to_stderr();
    let context = app(&args.arguments)?;
    let records = context.replay(&args.dir, BatchTime(args.batch)).await?;
    print_line(format_args!(
        "batch {}: {records} record(s), and no error",
        args.batch
    ))
}
