//! `dstreams demo`: the engine at work, fed through the client library over loopback.

mod faults;
mod feed;
mod screen;
mod slowdown;
mod stage;
mod totals;
mod zipf;

use std::io::IsTerminal;
use std::pin::pin;
use std::time::Duration;

use dstreams::Summary;
use dstreams_cluster::app::{DRAIN, duration};
use tokio::time::{MissedTickBehavior, interval};

use self::faults::Faults;
use self::feed::{Fed, Producer};
use self::screen::{CurrentStatus, Screen};
use self::slowdown::Slowdown;
use self::stage::Stage;
use crate::arguments::Times;
use crate::commands::table;
use crate::ending::{End, Ending};
use crate::error::Error;
use crate::output::{print_line, warn, written};
use crate::program::{BatchResults, LINES, Program};

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
    /// Kill the master and a worker in turn, the master first; a standby takes over
    #[arg(long, requires = "kill_every")]
    kill_master: bool,
    /// Slow one worker down: its slow tasks run again elsewhere, and soon the other workers do its work
    #[arg(long, requires = "workers")]
    slow_one: bool,
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
    let new = |every| Faults::new(every, args.kill_master);
    let mut faults = args.kill_every.map(new).transpose()?;
    let mut program = Program::of_clients(&args.times)?;
    if let Some(faults) = &faults {
        program = faults.program(program)?;
    }
    let (mut stage, address) = tokio::select! {
        started = Stage::start(&args, &program) => started?,
        _ = ending.next() => return Ok(()),
    };
    let window = program.window;
    let ended = show(
        (&args, window, &address),
        &mut stage,
        &mut faults,
        &mut ending,
    )
    .await;
    match ended {
        Ok(_) => stage.finish().await,
        Err(_) => stage.abandon().await,
    }
    let DemoResult { fed, done } = ended?;
    let sent = &fed.report;
    let acknowledged = sent.records_acknowledged;
    let mut total = format!(
        "fed {} lines, {acknowledged} acknowledged",
        sent.records_sent
    );
    // A master that is killed may not have said what it has counted.
    if let Some(done) = done {
        let counted = done.records;
        if counted < acknowledged {
            return Err(Error::Lost {
                acknowledged,
                counted,
            });
        }
        total += &format!("; counted {counted} in {} batches", done.batches);
    }
    if let Some(faults) = faults {
        total += "\n";
        total += &match done.is_none_or(|done| done.records == acknowledged) {
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

/// The result of the demo.
struct DemoResult {
    fed: Fed,
    /// `None` if masters are separate processes.
    done: Option<Summary>,
}

/// Feeds the program and shows it, until it has stopped.
async fn show(
    (args, window, address): (&DemoArgs, Duration, &str),
    stage: &mut Stage,
    faults: &mut Option<Faults>,
    ending: &mut Ending,
) -> Result<DemoResult, Error> {
    let mut feed = Producer::start(address, LINES, args.rate).await?;
    // Where lines are not counted, words of other senders would be a mismatch.
    let how = (!args.kill_master).then(|| format!("dstreams send {address} --stream {LINES} FILE"));
    let mut view = View::open(args, window, how).await?;
    let watched = (&mut *stage, &mut feed, &mut view);
    let slowdown = args.slow_one.then(Slowdown::new);
    watch_batches(watched, (faults, slowdown), ending, args.batches).await?;
    // Restores the terminal.
    drop(view);
    if args.slow_one
        && let Some(status) = stage.now(0).cluster
    {
        let (copies, first) = (status.task_copies, status.task_copies_won);
        warn(format_args!(
            "{copies} slow tasks were copied, and {first} of the copies finished first"
        ));
    }

    // First the feed ends, so that all its lines are acknowledged; then the program, so that all
    // acknowledged lines are counted.
    let mut finishing = pin!(feed.finish());
    let fed = loop {
        tokio::select! {
            fed = &mut finishing => break fed?,
            // They are not shown any more.
            found = stage.next() => if found?.is_none() {
                break finishing.await?;
            },
            _ = ending.next() => return Err(Error::Unfinished { unfinished: None }),
        }
    };
    stage.stop();
    loop {
        tokio::select! {
            found = stage.next() => if found?.is_none() {
                break;
            },
            end = ending.next() => match end {
                End::Gracefully | End::AtOnce => stage.abort(),
                End::Now => return Err(Error::Unfinished { unfinished: None }),
            },
        }
    }
    let done = stage.end().await?;
    Ok(DemoResult { fed, done })
}

/// Shows batches until there were enough, or the user quits.
async fn watch_batches(
    (stage, feed, view): (&mut Stage, &mut Producer, &mut View),
    (faults, mut slowdown): (&mut Option<Faults>, Option<Slowdown>),
    ending: &mut Ending,
    batches: Option<u64>,
) -> Result<(), Error> {
    let mut ticks = interval(REDRAW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = batches;
    while left != Some(0) {
        tokio::select! {
            found = stage.next() => match found? {
                Some(found) => {
                    let now = stage.now(feed.acknowledged());
                    tokio::select! {
                        drawn = view.batch(found, &now) => drawn?,
                        error = feed.failed() => return Err(error),
                        _ = ending.next() => return Ok(()),
                    }
                    left = left.map(|left| left - 1);
                    faults.iter_mut().try_for_each(Faults::batch)?;
                }
                None => return Ok(()),
            },
            error = feed.failed() => return Err(error),
            _ = ending.next() => return Ok(()),
            () = view.quit() => return Ok(()),
            () = faults::next(faults) => if let Some(faults) = faults {
                faults.strike(stage)?;
            },
            _ = ticks.tick() => if let Some(slowdown) = &mut slowdown {
                slowdown.look(stage)?;
            },
        }
        view.draw(&stage.now(feed.acknowledged()))?;
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

/// The view of batches.
enum View {
    Screen(Box<Screen>),
    Plain(Duration),
}

impl View {
    /// A screen if there is a terminal and no --plain, else lines.
    async fn open(args: &DemoArgs, window: Duration, how: Option<String>) -> Result<Self, Error> {
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
        if let Some(how) = how {
            print_line(format_args!("feed it too: {how}")).await?;
        }
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
