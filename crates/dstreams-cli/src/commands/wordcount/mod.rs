//! `dstreams wordcount`: counts the words that anyone sends, in this process or on workers.

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
use crate::cluster::{Gathering, Tell, Workers, watch};
use crate::ending::{End, Ending};
use crate::error::Error;
use crate::output::warn;
use crate::program::{LINES, Program, TEXT, WordCount};

/// Count the words of a window over lines that anyone sends over TCP (`nc` will do)
///
/// In this process with --listen; on worker processes with --workers, or with --master on those that
/// others start: these take the lines of `dstreams send`.
///
/// SIGTERM or Ctrl-C ends it: what was received is counted and printed before, for as long as --drain says. A second
/// one ends it at once. What nobody reads holds up the batches after it, and so the producers.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("where").required(true).args(["listen", "workers", "master"])))]
pub struct WordcountArgs {
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
    ends: Drain,
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
pub async fn run(args: WordcountArgs) -> Result<(), Error> {
    logs::to_stderr();
    let drain = args.ends.drain;
    let mut ending = Ending::new(drain)?;
    let report = Report::new(args.json, args.times.interval);
    if let Some(text) = &args.listen {
        let program = Program::new(&args.times, Some(text.clone()), args.clients.clone())?;
        let program = program.kept_in(args.state.as_deref())?;
        let program = WordCount::start(&program).await?;
        let clients = args.clients.is_some().then(|| program.address(LINES));
        report
            .listening(program.address(TEXT)?, clients.transpose()?)
            .await?;
        return count(program, None, report, args.batches, ending, drain).await;
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
        _ = ending.next() => return report.end(0).await,
    };
    report.cluster(&master, &workers.now()).await?;
    count(program, Some(workers), report, args.batches, ending, drain).await
}

/// Prints batches until there were enough, or until someone ends the program; ends its workers.
pub async fn count(
    mut program: WordCount,
    mut workers: Option<Workers>,
    mut report: Report,
    batches: Option<u64>,
    mut ending: Ending,
    drain: Duration,
) -> Result<(), Error> {
    let engine = program.engine();
    // Workers end with the program: from its last batch on, that is no failure.
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

/// Shows batches to the end of the program, or so many; and what they come to.
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

/// Stops the program, whose output nobody reads.
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
