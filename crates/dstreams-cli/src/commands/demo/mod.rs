//! `dstreams demo`: the engine at work, fed through the client library over loopback.

mod faults;
mod feed;
mod screen;
mod zipf;

use std::io::IsTerminal;
use std::time::Duration;

use dstreams::Summary;
use dstreams_cluster::app::{ClusterArgs, DRAIN, duration};
use tokio::time::{MissedTickBehavior, interval};

use self::faults::Faults;
use self::feed::{Fed, Producer};
use self::screen::{CurrentStatus, Screen};
use crate::arguments::Times;
use crate::cluster::{Gathering, ReportTo, Workers, watch};
use crate::commands::table;
use crate::ending::{End, Ending};
use crate::error::Error;
use crate::output::{print_line, written};
use crate::program::{BatchResults, LINES, Program, WordCount};

/// How often the screen is redrawn between batches, for memory and feed.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest and the longest time between two faults.
const KILL_EVERY: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(24 * 60 * 60)];

/// See the engine at work: random words, counted over a window, live
///
/// Feeds itself through the client library over loopback. q, Ctrl-C or SIGTERM ends it; then it checks
/// that every acknowledged line was counted.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    #[command(flatten)]
    times: Times,
    /// Lines a second, of eight words each
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: u64,
    /// Run on N worker processes, started and ended with this one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Kill a worker every so often (kill -9) and start another one; at the end, compare the count of every word with
    /// the lines that were sent. The program is kept in a temporary directory
    #[arg(long, value_name = "D", requires = "workers", value_parser = kill_every)]
    kill_every: Option<Duration>,
    /// End after N batches
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batches: Option<u64>,
    /// Print one line per batch, as without a terminal
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
pub async fn run(args: DemoArgs) -> Result<(), Error> {
    let mut ending = Ending::new(DRAIN)?;
    let mut faults = args.kill_every.map(Faults::every).transpose()?;
    let mut program = Program::of_clients(&args.times)?;
    if let Some(faults) = &faults {
        program = faults.program(program)?;
    }
    let (mut shown, address) = tokio::select! {
        started = start(&args, &program) => started?,
        _ = ending.next() => return Ok(()),
    };
    let window = program.window;
    let ended = show(
        (&args, window, &address),
        &mut shown,
        &mut faults,
        &mut ending,
    )
    .await;
    if ended.is_err() {
        shown.program.abandon().await;
    }
    if let Some(workers) = shown.workers {
        workers.finish().await;
    }
    let DemoResult { fed, done } = ended?;
    let sent = &fed.report;
    let (acknowledged, counted) = (sent.records_acknowledged, done.records);
    if counted < acknowledged {
        return Err(Error::Lost {
            acknowledged,
            counted,
        });
    }
    let mut total = format!(
        "fed {} lines, {acknowledged} acknowledged; counted {counted} in {} batches",
        sent.records_sent, done.batches
    );
    if let Some(faults) = faults {
        total += "\n";
        total += &match counted == acknowledged {
            true => faults.check(&fed.words)?,
            false => "others fed it too, so the counts of words are not compared".to_owned(),
        };
    }
    let shown = async {
        print_line(&total).await?;
        written().await
    };
    tokio::select! {
        shown = shown => shown,
        _ = ending.next() => Err(Error::NotShown(total)),
    }
}

/// The running program, and its workers.
struct DemoView {
    program: WordCount,
    /// `None` if it runs in this process alone.
    workers: Option<Workers>,
}

/// The result of the demo.
struct DemoResult {
    fed: Fed,
    done: Summary,
}

/// Starts the program; returns it with the address for clients.
async fn start(args: &DemoArgs, program: &Program) -> Result<(DemoView, String), Error> {
    let Some(count) = args.workers else {
        let program = WordCount::start(program).await?;
        let address = program.address(LINES)?.to_string();
        let workers = None;
        return Ok((DemoView { program, workers }, address));
    };
    let gathering = Gathering::own(program, &ClusterArgs::default(), count).await?;
    let address = gathering.address().to_owned();
    let (program, workers) = gathering.begin(ReportTo::Aside).await?;
    let workers = Some(workers);
    Ok((DemoView { program, workers }, address))
}

/// Feeds the program and shows it, until it has stopped.
async fn show(
    (args, window, address): (&DemoArgs, Duration, &str),
    shown: &mut DemoView,
    faults: &mut Option<Faults>,
    ending: &mut Ending,
) -> Result<DemoResult, Error> {
    let mut feed = Producer::start(address, LINES, args.rate).await?;
    let how = format!("dstreams send {address} --stream {LINES} FILE");
    let mut view = View::open(args, window, how).await?;
    let watched = (&mut *shown, &mut feed, &mut view);
    watch_batches(watched, faults, ending, args.batches).await?;
    // Restores the terminal.
    drop(view);

    // First the feed ends, so that all its lines are acknowledged; then the program, so that all
    // acknowledged lines are counted.
    let fed = tokio::select! {
        fed = feed.finish() => fed?,
        error = watch(&mut shown.workers) => return Err(error),
        _ = ending.next() => return Err(Error::Unfinished { unfinished: 1 }),
    };
    let engine = shown.program.engine();
    engine.request_stop_within(DRAIN);
    loop {
        tokio::select! {
            found = shown.program.next() => match (found?, &mut *faults) {
                (Some(found), Some(faults)) => faults.batch(found.totals),
                (Some(_), None) => {}
                (None, _) => break,
            },
            error = watch(&mut shown.workers) => return Err(error),
            end = ending.next() => match end {
                End::Gracefully | End::AtOnce => engine.request_abort(),
                End::Now => return Err(Error::Unfinished { unfinished: 1 }),
            },
        }
    }
    let done = shown.program.end().await?;
    Ok(DemoResult { fed, done })
}

/// Shows batches until there were enough, or the user quits.
async fn watch_batches(
    (shown, feed, view): (&mut DemoView, &mut Producer, &mut View),
    faults: &mut Option<Faults>,
    ending: &mut Ending,
    batches: Option<u64>,
) -> Result<(), Error> {
    let mut ticks = interval(REDRAW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = batches;
    while left != Some(0) {
        tokio::select! {
            found = shown.program.next() => match found? {
                Some(mut found) => {
                    if let Some(faults) = faults {
                        faults.batch(std::mem::take(&mut found.totals));
                    }
                    let now = shown.now(feed);
                    tokio::select! {
                        drawn = view.batch(found, &now) => drawn?,
                        error = feed.failed() => return Err(error),
                        error = watch(&mut shown.workers) => return Err(error),
                        _ = ending.next() => return Ok(()),
                    }
                    left = left.map(|left| left - 1);
                }
                None => return Ok(()),
            },
            error = feed.failed() => return Err(error),
            error = watch(&mut shown.workers) => return Err(error),
            _ = ending.next() => return Ok(()),
            () = view.quit() => return Ok(()),
            () = faults::next(faults) => if let Some(faults) = faults {
                faults.strike(&mut shown.workers)?;
            },
            _ = ticks.tick() => {}
        }
        view.draw(&shown.now(feed))?;
    }
    Ok(())
}

/// Parses the time between two faults: a worker needs about a second to join.
fn kill_every(text: &str) -> Result<Duration, String> {
    let (every, [least, most]) = (duration(text)?, KILL_EVERY);
    match (least..=most).contains(&every) {
        true => Ok(every),
        false => Err("it is shorter than two seconds, or longer than a day".to_owned()),
    }
}

impl DemoView {
    fn now(&self, feed: &Producer) -> CurrentStatus {
        CurrentStatus {
            status: self.program.status(),
            cluster: self.workers.as_ref().and_then(Workers::status),
            acknowledged: feed.acknowledged(),
        }
    }
}

/// The view of batches.
enum View {
    Screen(Box<Screen>),
    Plain(Duration),
}

impl View {
    /// A screen if there is a terminal and no --plain, else lines.
    async fn open(args: &DemoArgs, window: Duration, how: String) -> Result<Self, Error> {
        let interval = args.times.interval;
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !args.plain && !dumb && std::io::stdout().is_terminal() {
            let screen = Screen::open(interval, window, args.batches, how)?;
            return Ok(View::Screen(Box::new(screen)));
        }
        print_line(format_args!(
            "words of the last {window:?}, every {interval:?}"
        ))
        .await?;
        print_line(format_args!("feed it too: {how}")).await?;
        table::header().await?;
        Ok(View::Plain(interval))
    }

    async fn batch(&mut self, found: BatchResults, now: &CurrentStatus) -> Result<(), Error> {
        match self {
            View::Screen(screen) => {
                screen.batch(found);
                Ok(())
            }
            View::Plain(interval) => {
                table::batch(&found, *interval).await?;
                let workers = now.cluster.iter().flat_map(|cluster| &cluster.workers);
                for worker in workers {
                    table::worker(worker).await?;
                }
                Ok(())
            }
        }
    }

    fn draw(&mut self, now: &CurrentStatus) -> Result<(), Error> {
        match self {
            View::Screen(screen) => screen.draw(now),
            View::Plain(_) => Ok(()),
        }
    }

    /// Waits until the user presses the key to quit.
    async fn quit(&mut self) {
        match self {
            View::Screen(screen) => screen.quit().await,
            View::Plain(_) => std::future::pending().await,
        }
    }
}
