//! `dstreams master`: the master of the word count, for workers that others start.

use std::path::PathBuf;

use dstreams_cluster::app::MasterArgs;
use dstreams_cluster::logs;

use crate::arguments::Times;
use crate::cluster::{Gathering, ReportTo};
use crate::commands::wordcount::{Report, count};
use crate::ending::Ending;
use crate::error::Error;
use crate::program::Program;

/// Run the word count as its master; workers receive and count lines
///
/// Prints its address, joins and departures, and every batch. SIGTERM or Ctrl-C stops the program, its workers and its
/// standbys after the lines received so far are counted and printed. A standby leaves at once.
#[derive(Debug, clap::Args)]
pub struct WordcountMasterArgs {
    #[command(flatten)]
    master: MasterArgs,
    #[command(flatten)]
    times: Times,
    /// Persist the program in this directory, which workers reach by the same path: after a crash at any moment, a
    /// restart resumes it
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Also count words since the start, and write the counts that each batch has changed to files below this directory,
    /// as JSON lines, exactly once
    #[arg(long, value_name = "DIR")]
    totals: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(args: WordcountMasterArgs) -> Result<(), Error> {
    logs::to_stderr();
    let MasterArgs {
        listen,
        workers,
        cluster,
        json,
        ends,
        standby,
        ..
    } = args.master;
    let mut ending = Ending::new(ends.drain)?;
    let program = Program::of_clients(&args.times)?.with_state_dir(args.state.as_deref())?;
    let program = program.with_totals(args.totals.as_deref())?;
    let report = Report::new(json, args.times.interval);
    let gathering = async {
        if !standby {
            let gathering = Gathering::others(&program, &cluster, &listen, workers);
            return gathering.await.map(Some);
        }
        report.standby().await?;
        Gathering::stand_by(&program, &cluster, &listen, workers).await
    };
    let gathering = tokio::select! {
        gathering = gathering => gathering?,
        // It leads nothing.
        _ = ending.next() => return Ok(()),
    };
    let Some(gathering) = gathering else {
        // The program has ended, under another master.
        return Ok(());
    };
    report.master(gathering.address()).await?;
    let (program, workers) = tokio::select! {
        begun = gathering.begin(ReportTo::Lines { json }) => begun?,
        // Nothing has been received.
        _ = ending.next() => return report.end(0).await,
    };
    count(program, Some(workers), report, None, ending, ends.drain).await
}
