//! `replay`: runs a batch that was set aside alone, in this process.

use std::path::PathBuf;

use dstreams::{BatchTime, Result, StreamContext};

use super::error::Error;
use super::say;
use crate::logs;

/// Run a batch that was set aside alone: what is wrong with its records, and does a changed program bear them?
///
/// Nothing is received, states are empty, and nothing in the directory changes. Closures and prints are called; sinks are
/// left out.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The directory that the program is kept in
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The batch, in milliseconds since the epoch: as the log and the directory `failed` name it
    #[arg(long, value_name = "T")]
    batch: u64,
    /// Arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs it; fails with the error of the batch. Must be called inside a tokio runtime.
pub async fn replay(
    args: &ReplayArgs,
    app: &dyn Fn(&[String]) -> Result<StreamContext>,
) -> std::result::Result<(), Error> {
    logs::to_stderr();
    let context = app(&args.arguments)?;
    let records = context.replay(&args.dir, BatchTime(args.batch)).await?;
    say(format_args!(
        "batch {}: {records} record(s), and no error",
        args.batch
    ))
}
