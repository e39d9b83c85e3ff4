//! `dstreams wordcount`: counts the words that anyone sends, in this process or on workers.

mod report;

use std::path::PathBuf;

use clap::ArgGroup;
use dstreams_cluster::app::{ClusterArgs, Signals, address};
use dstreams_cluster::logs;

pub use self::report::Report;
use crate::arguments::Times;
use crate::error::Error;
use crate::plain::warn;
use crate::word_count::{Found, LINES, Program, TEXT, WordCount};
use crate::workers::{Gathering, Tell, Workers, watch};

/// Count the words of a window over lines that anyone sends over TCP (`nc` will do)
///
/// In this process with --listen; on worker processes with --workers, or with --master on those that
/// others start: these take the lines of `dstreams send`.
///
/// SIGTERM or Ctrl-C ends it: what was received is counted and printed before.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("where").required(true).args(["listen", "workers", "master"])))]
pub struct Args {
    /// Where producers connect and send lines of text; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    listen: Option<String>,
    /// Takes lines from `dstreams send HOST:PORT --stream lines` too, which get acknowledgements
    #[arg(long, value_name = "HOST:PORT", value_parser = address,
          conflicts_with_all = ["workers", "master"])]
    clients: Option<String>,
    /// Keep the program in this directory: killed at any moment and started again, it goes on where it was; workers must
    /// reach it by the same path
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Count on so many worker processes, which are started and ended with this one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Count on workers that others start, with `dstreams worker --master HOST:PORT`
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    master: Option<String>,
    /// Workers that must be there before the first batch
    #[arg(long, value_name = "N", default_value_t = 1,
          conflicts_with_all = ["listen", "workers"],
          value_parser = clap::value_parser!(u16).range(1..))]
    min_workers: u16,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    times: Times,
    /// End after so many batches, empty ones included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batches: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Error> {
    logs::to_stderr();
    let mut signals = Signals::catch()?;
    let report = Report::new(args.json, args.times.interval);
    if let Some(text) = &args.listen {
        let program = Program::new(&args.times, Some(text.clone()), args.clients.clone())?;
        let program = program.kept_in(args.state.as_deref())?;
        let program = WordCount::start(&program).await?;
        let clients = args.clients.is_some().then(|| program.address(LINES));
        report.listening(program.address(TEXT)?, clients.transpose()?)?;
        return count(program, None, report, args.batches, signals).await;
    }

    let program = Program::of_clients(&args.times)?.kept_in(args.state.as_deref())?;
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
        begun = gathering.begin(Tell::Aside) => begun?,
        // Nothing was received.
        () = signals.next() => return report.end(0),
    };
    report.cluster(&master, &workers.now())?;
    count(program, Some(workers), report, args.batches, signals).await
}

/// Prints batches until there were enough, or until someone ends the program; ends its workers.
pub async fn count(
    mut program: WordCount,
    mut workers: Option<Workers>,
    mut report: Report,
    batches: Option<u64>,
    signals: Signals,
) -> Result<(), Error> {
    let counted = print(&mut program, &mut workers, &mut report, batches, signals).await;
    if counted.is_err() {
        program.abandon().await;
    }
    if let Some(workers) = workers {
        workers.finish().await;
    }
    report.end(counted?)
}

/// Returns how many lines the program has counted.
async fn print(
    program: &mut WordCount,
    workers: &mut Option<Workers>,
    report: &mut Report,
    mut left: Option<u64>,
    mut signals: Signals,
) -> Result<u64, Error> {
    while left != Some(0) {
        let found = tokio::select! {
            found = program.next() => found?,
            error = watch(workers) => return Err(error),
            () = signals.next() => break,
        };
        let Some(found) = found else { break };
        show(program, report, &found)?;
        left = left.map(|left| left - 1);
    }

    program.begin_stop(signals);
    loop {
        let found = tokio::select! {
            found = program.next() => found?,
            error = watch(workers) => return Err(error),
        };
        let Some(found) = found else { break };
        if left != Some(0) {
            show(program, report, &found)?;
            left = left.map(|left| left - 1);
        }
    }
    report.dead_letters(program.status().dead_letters.values().sum());
    Ok(program.end().await?.records)
}

fn show(program: &WordCount, report: &mut Report, found: &Found) -> Result<(), Error> {
    report.dead_letters(program.status().dead_letters.values().sum());
    report.batch(found)
}
