//! `dstreams send`: feeds a running program from a file or standard input.

mod bar;
mod input;
mod rate_limit;

use std::fmt;
use std::time::{Duration, Instant};

use dstreams_client::{Client, LineSender, Options, Report};
use dstreams_cluster::app::{Secret, Signals, address};
use indicatif::HumanBytes;
use tokio::time::timeout;

use self::bar::Bar;
use self::input::Pieces;
use self::rate_limit::Pace;
use crate::error::Error;
use crate::output::{print_line, written};

/// How long a program may take to accept the stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to try to reconnect to a program.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Feed a running program from a file or standard input
///
/// Exits once the program has acknowledged every line, or with an error that says how many it has.
#[derive(Debug, clap::Args)]
pub struct SendArgs {
    /// Client address(es) of the program or its master, comma-separated; one that answers is enough
    #[arg(value_name = "HOST:PORT", value_parser = address)]
    address: String,
    /// Name of the program's stream
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// File to send, line by line; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
    /// Maximum number of lines per second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    #[command(flatten)]
    secret: Secret,
}

/// Runs the command.
pub async fn run(args: SendArgs) -> Result<(), Error> {
    let mut signals = Signals::catch()?;
    let pieces = Pieces::open(&args.file)?;

    let name = pieces.name.clone();
    let lines = tokio::select! {
        lines = open(&args) => lines?,
        () = signals.next() => return Err(Error::Interrupted { name }),
    };

    let mut feed = InputFeed {
        bar: Bar::new(pieces.size),
        pace: Pace::new(args.rate),
        name,
        started: Instant::now(),
        lines,
    };
    let sent = feed.all(pieces, &mut signals).await;
    let safe = feed.acknowledged(&mut signals).await;
    feed.bar.clear();
    let report = feed.report();
    let shown = async {
        print_line(&report).await?;
        written().await
    };
    tokio::select! {
        shown = shown => shown?,
        () = signals.next() => return Err(Error::NotShown(report.to_string())),
    }
    safe.and(sent)?;
    feed.lines.finish().await?;
    Ok(())
}

async fn open(args: &SendArgs) -> Result<LineSender, Error> {
    let mut options = Options::default();
    options.retry.elapsed = RECONNECT_TIMEOUT;
    options.token = args.secret.read()?;
    let client = Client::connect(&args.address, options).await?;
    // A peer that accepts the connection but does not answer is no program of ours: no retry.
    match timeout(ANSWER_TIMEOUT, client.lines(&args.stream)).await {
        Ok(lines) => Ok(lines?),
        Err(_) => Err(Error::Client(dstreams_client::Error::NoAnswer {
            address: args.address.clone(),
            after: ANSWER_TIMEOUT,
        })),
    }
}

/// Sends the input.
struct InputFeed {
    lines: LineSender,
    pace: Pace,
    bar: Bar,
    name: String,
    started: Instant,
}

impl InputFeed {
    /// Sends all pieces, until a signal comes.
    async fn all(&mut self, mut pieces: Pieces, signals: &mut Signals) -> Result<(), Error> {
        let pass_on = async {
            while let Some(piece) = pieces.next().await {
                self.piece(&piece?).await?;
            }
            Ok(())
        };
        tokio::select! {
            sent = pass_on => sent,
            () = signals.next() => Err(self.interrupted()),
        }
    }

    async fn piece(&mut self, piece: &[u8]) -> Result<(), Error> {
        let mut rest = piece;
        while !rest.is_empty() {
            let now;
            (now, rest) = self.pace.cut(rest).await;
            self.text(now).await?;
            let (sent, safe) = (self.lines.sent(), self.lines.acknowledged());
            self.bar.moved(now.len() as u64, sent, safe);
        }
        Ok(())
    }

    /// Sends whole lines; if one is invalid, those before it.
    async fn text(&mut self, text: &[u8]) -> Result<(), Error> {
        use dstreams_client::Error::{NotText, TooLarge};
        match self.lines.send_text(text).await {
            Ok(_) => Ok(()),
            Err(NotText { valid_up_to }) => {
                let good = text.get(..valid_up_to).unwrap_or_default();
                let good = input::whole_lines(good);
                self.lines.send_text(good).await?;
                Err(self.line("it is not UTF-8 text".to_owned()))
            }
            // Only the first line, which began in an earlier piece, can be so long.
            Err(error @ TooLarge { .. }) => Err(self.line(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the program has acknowledged all sent lines.
    async fn acknowledged(&mut self, signals: &mut Signals) -> Result<(), Error> {
        tokio::select! {
            flushed = self.lines.flush() => Ok(flushed?),
            () = signals.next() => Err(self.interrupted()),
        }
    }

    fn report(&self) -> Sent {
        Sent(self.lines.report(), self.started.elapsed())
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted {
            name: self.name.clone(),
        }
    }

    fn line(&self, problem: String) -> Error {
        Error::Line {
            name: self.name.clone(),
            line: self.lines.sent() + 1,
            problem,
        }
    }
}

/// The summary: what was sent, and how long it took.
struct Sent(Report, Duration);

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sent(report, took) = self;
        let (sent, safe) = (report.records_sent, report.records_acknowledged);
        let rate = safe as f64 / took.as_secs_f64();
        let (bytes, messages) = (HumanBytes(report.bytes), report.messages);
        write!(f, "sent {sent} lines, acknowledged {safe} (")?;
        write!(
            f,
            "{bytes} in {messages} messages, {:.2} s, ",
            took.as_secs_f64()
        )?;
        write!(f, "{rate:.0} lines/s")?;
        if report.reconnects > 0 {
            write!(
                f,
                ", {} reconnects, {} resends",
                report.reconnects, report.resends
            )?;
        }
        write!(f, ")")
    }
}
