//! `dstreams checkpoint inspect`: shows the contents of a state directory.

use std::path::PathBuf;

use clap::Subcommand;
use dstreams::{Inspection, inspect};

use crate::error::Error;
use crate::output::{json, print};

/// Inspect the state directory of a program
#[derive(Debug, clap::Args)]
pub struct CheckpointArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what a restart would find: the newest checkpoint and the journal
    ///
    /// Reads and checks everything; reports damage with file and position. Changes nothing.
    Inspect {
        /// The directory, as given to `--state` or `StreamContext::persist_in`
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(args: CheckpointArgs) -> Result<(), Error> {
    let What::Inspect { dir, json: as_json } = args.what;
    let found = inspect(dir)?;
    match as_json {
        true => print(json(&found)?),
        false => show(&found),
    }
}

fn show(found: &Inspection) -> Result<(), Error> {
    match &found.checkpoint {
        None => print(format_args!("no checkpoint"))?,
        Some(of) => {
            let (batch, process) = (of.batch, of.incarnation + 1);
            print(format_args!(
                "checkpoint of batch {batch} ms, {} bytes in {} file(s), by process {process} of this directory",
                of.bytes, of.files
            ))?;
            let (every, partitions) = (of.interval_ms, of.partitions);
            print(format_args!(
                "  every {every} ms, {partitions} partitions, {} producer(s)",
                of.producers
            ))?;
            for input in &of.inputs {
                print(format_args!("  input {input}"))?;
            }
            for state in &of.states {
                let (name, holds) = (&state.name, &state.holds);
                print(format_args!("  state {name}: {holds}"))?;
                let (whole, changed) = (state.whole_bytes, state.changed_bytes);
                print(format_args!(
                    "    {whole} bytes as a whole, {changed} of later changes, {} part(s)",
                    state.parts
                ))?;
            }
        }
    }
    let journal = &found.journal;
    print(format_args!(
        "journal of {} process(es): {} block(s), {} bytes; after the checkpoint {} batch(es) cut, {} of them took effect",
        journal.processes,
        journal.blocks,
        journal.block_bytes,
        journal.cut.len(),
        journal.committed
    ))?;
    if journal.torn > 0 {
        print(format_args!(
            "  {} bytes at its end were never synced",
            journal.torn
        ))?;
    }
    for batch in &found.set_aside {
        print(format_args!(
            "batch {batch} ms was set aside: its records and the reason are in failed/batch={batch}"
        ))?;
    }
    Ok(())
}
