//! `dstreams demo`: the engine at work, fed through the client library over loopback.

mod feed;
mod screen;
mod zipf;

use std::io::IsTerminal;
use std::time::Duration;

use dstreams::{Clients, StreamContext};
use tokio::time::{MissedTickBehavior, interval};

use self::feed::Feed;
use self::screen::Screen;
use crate::arguments::Times;
use crate::error::Error;
use crate::plain::{self, say};
use crate::signals::Signals;
use crate::word_count::{Found, WordCount};

/// Name of the stream that is fed.
const LINES: &str = "lines";
/// How often the screen is drawn between batches: the memory and the feed move.
const REDRAW: Duration = Duration::from_millis(250);

/// See the engine at work: random words, counted over a window, live
///
/// Feeds itself through the client library over loopback. q, Ctrl-C or SIGTERM ends it; then every
/// line that was acknowledged must have been counted.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    times: Times,
    /// Lines a second, of eight words each
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: u64,
    /// End after so many batches
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batches: Option<u64>,
    /// Print one line a batch, as without a terminal
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Error> {
    let window = args.times.window()?;
    let mut signals = Signals::catch()?;

    let mut ctx = StreamContext::new(args.times.interval)?;
    let clients = Clients::listen("127.0.0.1:0");
    let lines = ctx.clients::<String>(LINES, &clients);
    let mut program = WordCount::start(ctx, &lines, &args.times).await?;
    let address = program.address(LINES)?;
    let mut feed = Feed::start(address, LINES, args.rate).await?;

    let how = format!("dstreams send {address} --stream {LINES} FILE");
    let mut view = View::open(&args, window, how)?;
    watch(
        &mut program,
        &mut feed,
        &mut view,
        &mut signals,
        args.batches,
    )
    .await?;
    // The terminal is as it was from here on.
    drop(view);

    // First the feed ends, so that all it sent is acknowledged; then the program, so that all that
    // was acknowledged is counted.
    let fed = tokio::select! {
        fed = feed.finish() => fed?,
        () = signals.next() => return Err(Error::Unfinished { unfinished: 1 }),
    };
    program.begin_stop(signals);
    while program.next().await?.is_some() {}
    let done = program.end().await?;
    let acknowledged = fed.records_acknowledged;
    let (counted, batches) = (done.records, done.batches);
    if counted < acknowledged {
        return Err(Error::Lost {
            acknowledged,
            counted,
        });
    }
    say(format_args!(
        "fed {} lines, {acknowledged} acknowledged; counted {counted} in {batches} batches",
        fed.records_sent
    ))
}

/// Shows batches until there were enough, or someone ends it.
async fn watch(
    program: &mut WordCount,
    feed: &mut Feed,
    view: &mut View,
    signals: &mut Signals,
    batches: Option<u64>,
) -> Result<(), Error> {
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = 0;
    while batches.is_none_or(|batches| shown < batches) {
        tokio::select! {
            found = program.next() => match found? {
                Some(found) => {
                    view.batch(found)?;
                    shown += 1;
                }
                None => return Ok(()),
            },
            error = feed.failed() => return Err(error),
            () = signals.next() => return Ok(()),
            () = view.quit() => return Ok(()),
            _ = ticks.tick() => {}
        }
        view.draw(program, feed)?;
    }
    Ok(())
}

/// Where batches are shown.
enum View {
    Screen(Box<Screen>),
    Plain(Duration),
}

impl View {
    /// A screen if there is a terminal and it is wanted, else lines.
    fn open(args: &Args, window: Duration, how: String) -> Result<Self, Error> {
        let interval = args.times.interval;
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !args.plain && !dumb && std::io::stdout().is_terminal() {
            let screen = Screen::open(interval, window, args.batches, how)?;
            return Ok(View::Screen(Box::new(screen)));
        }
        say(format_args!(
            "words of the last {window:?}, every {interval:?}"
        ))?;
        say(format_args!("feed it too: {how}"))?;
        plain::header()?;
        Ok(View::Plain(interval))
    }

    fn batch(&mut self, found: Found) -> Result<(), Error> {
        match self {
            View::Screen(screen) => {
                screen.batch(found);
                Ok(())
            }
            View::Plain(interval) => plain::batch(&found, *interval),
        }
    }

    fn draw(&mut self, program: &WordCount, feed: &Feed) -> Result<(), Error> {
        match self {
            View::Screen(screen) => screen.draw(&program.status(), feed.acknowledged()),
            View::Plain(_) => Ok(()),
        }
    }

    /// Waits until someone presses the key that ends it.
    async fn quit(&mut self) {
        match self {
            View::Screen(screen) => screen.quit().await,
            View::Plain(_) => std::future::pending().await,
        }
    }
}
