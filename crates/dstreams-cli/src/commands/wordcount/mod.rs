//! `dstreams wordcount`: counts the words of lines sent to it, in this process or on workers.

mod report;

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::ArgGroup;
use dstreams_cluster::app::{ClusterArgs, Drain, address};
use dstreams_cluster::logs;
use tokio::sync::Notify;

pub use self::report::Report;
use crate::arguments::Times;
use crate::cluster::{Gathering, ReportTo, Workers, watch};
use crate::ending::{End, Ending};
use crate::error::Error;
use crate::output::warn;
use crate::program::{LINES, Program, TEXT, WordCount};

/// Count words over a window, from lines sent over TCP (e.g. with `nc`)
///
/// --listen runs in this process; --workers starts worker processes; --master uses workers that others
/// start. Workers accept the lines of `dstreams send`.
///
/// SIGTERM or Ctrl-C stops it after the lines received so far are counted and printed, within the time of --drain. A
/// second one stops it at once. If nobody reads the output, later batches wait, and so do the producers.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("where").required(true).args(["listen", "workers", "master"])))]
pub struct WordcountArgs {
    /// Address for producers of lines of text over TCP; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    listen: Option<String>,
    /// Also accept lines, with acknowledgements, from `dstreams send HOST:PORT --stream lines`
    #[arg(long, value_name = "HOST:PORT", value_parser = address,
          conflicts_with_all = ["workers", "master"])]
    clients: Option<String>,
    /// Persist the program in this directory: after a crash at any moment, a restart resumes it; workers must reach it
    /// by the same path
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Count on N worker processes, started and ended with this one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Count on workers that others start, with `dstreams worker --master HOST:PORT`
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    master: Option<String>,
    /// Workers to wait for before the first batch
    #[arg(long, value_name = "N", default_value_t = 1,
          conflicts_with_all = ["listen", "workers"],
          value_parser = clap::value_parser!(u16).range(1..))]
    min_workers: u16,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    ends: Drain,
    #[command(flatten)]
    times: Times,
    /// End after N batches, empty ones included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batches: Option<u64>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: WordcountArgs) -> Result<(), Error> {
    logs::to_stderr();
    let drain = args.ends.drain;
    let mut ending = Ending::new(drain)?;
    let report = Report::new(args.json, args.times.interval);
    if let Some(text) = &args.listen {
        let program = Program::new(&args.times, Some(text.clone()), args.clients.clone())?;
        let program = program.with_state_dir(args.state.as_deref())?;
        let program = WordCount::start(&program).await?;
        let clients = args.clients.is_some().then(|| program.address(LINES));
        report
            .listening(program.address(TEXT)?, clients.transpose()?)
            .await?;
        return count(program, None, report, args.batches, ending, drain).await;
    }

    let program = Program::of_clients(&args.times)?.with_state_dir(args.state.as_deref())?;
    let gathering = match (args.workers, &args.master) {
        (None, Some(listen)) => {
            let wanted = args.min_workers;
            let gathering = Gathering::others(&program, &args.cluster, listen, wanted).await?;
            let how = format_args!("dstreams worker --master {}", gathering.address());
            warn(format_args!("waiting for {wanted} worker(s): {how}"));
            gathering
        }
        (workers, _) => Gathering::own(&program, &args.cluster, workers.unwrap_or(1)).await?,
    };
    let master = gathering.address().to_owned();
    let (program, workers) = tokio::select! {
        begun = gathering.begin(ReportTo::Aside) => begun?,
        // Nothing has been received.
        _ = ending.next() => return report.end(0).await,
    };
    report.cluster(&master, &workers.now()).await?;
    count(program, Some(workers), report, args.batches, ending, drain).await
}

/// Prints batches until there were enough or the program is stopped; ends its workers.
pub async fn count(
    mut program: WordCount,
    mut workers: Option<Workers>,
    mut report: Report,
    batches: Option<u64>,
    mut ending: Ending,
    drain: Duration,
) -> Result<(), Error> {
    let engine = program.engine();
    // Workers end with the program: after its last batch, their end is no failure.
    let over = Notify::new();
    let counted = {
        let mut watches = true;
        let mut shown = pin!(show(&mut program, &mut report, batches, drain, &over));
        loop {
            tokio::select! {
                biased;
                shown = &mut shown => break shown.map(Some),
                () = over.notified(), if watches => watches = false,
                error = watch(&mut workers), if watches => break Err(error),
                end = ending.next() => match end {
                    End::Gracefully => engine.request_stop_within(drain),
                    End::AtOnce => engine.request_abort(),
                    End::Now => break Ok(None),
                },
            }
        }
    };
    let counted = match counted {
        Ok(Some(())) => Ok(()),
        Ok(None) => Err(not_shown(&mut program, &report, batches).await),
        Err(error) => {
            program.abandon().await;
            Err(error)
        }
    };
    if let Some(workers) = workers {
        workers.finish().await;
    }
    counted
}

/// Prints batches to the end of the program, or the first `left`; then the total.
async fn show(
    program: &mut WordCount,
    report: &mut Report,
    mut left: Option<u64>,
    drain: Duration,
    over: &Notify,
) -> Result<(), Error> {
    while let Some(found) = program.next().await? {
        if left == Some(0) {
            continue;
        }
        report.dead_letters(program.status().dead_letters.values().sum());
        report.batch(&found).await?;
        left = left.map(|left| left - 1);
        if left == Some(0) {
            program.engine().request_stop_within(drain);
        }
    }
    over.notify_one();
    report.dead_letters(program.status().dead_letters.values().sum());
    let counted = program.end().await?.records;
    report.end(counted).await
}

/// Stops a program whose output nobody reads.
async fn not_shown(program: &mut WordCount, report: &Report, wanted: Option<u64>) -> Error {
    let left = program.abandon().await;
    let counted = program.status().batches;
    let hidden = report.not_shown(wanted.map_or(counted, |wanted| wanted.min(counted)));
    let mut what = format!("{hidden} batch(es) were counted and not shown");
    if left > 0 {
        what += &format!(", {left} were left uncounted");
    }
    Error::NotShown(what)
}
