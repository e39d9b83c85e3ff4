//! `dstreams wordcount`: counts the words that anyone sends over TCP.

use std::net::SocketAddr;
use std::time::Duration;

use dstreams::{Clients, StreamContext};
use serde::Serialize;

use crate::arguments::{Times, address};
use crate::error::Error;
use crate::plain::{self, say, warn};
use crate::signals::Signals;
use crate::word_count::{Found, WordCount};

/// Name of the stream of text over TCP.
const TEXT: &str = "text";
/// Name of the stream for `dstreams send` and the client library.
const LINES: &str = "lines";

/// Count the words of a window over lines that anyone sends over TCP (`nc` will do)
///
/// SIGTERM or Ctrl-C ends it: what was received is counted and printed before.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where producers connect and send lines of text; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    listen: String,
    /// Takes lines from `dstreams send HOST:PORT --stream lines` too, which get acknowledgements
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    clients: Option<String>,
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
    let mut signals = Signals::catch()?;
    let mut program = start(&args).await?;

    let clients = args
        .clients
        .is_some()
        .then(|| program.address(LINES))
        .transpose()?;
    let mut report = Report::new(&args);
    report.listening(program.address(TEXT)?, clients)?;

    let mut left = args.batches;
    while left != Some(0) {
        let found = tokio::select! {
            found = program.next() => found?,
            () = signals.next() => break,
        };
        let Some(found) = found else { break };
        report.batch(&found)?;
        left = left.map(|left| left - 1);
    }

    program.begin_stop(signals);
    while let Some(found) = program.next().await? {
        if left != Some(0) {
            report.batch(&found)?;
            left = left.map(|left| left - 1);
        }
    }
    let summary = program.end().await?;
    let dead_letters = program.status().dead_letters.values().sum();
    report.end(dead_letters, summary.records)
}

async fn start(args: &Args) -> Result<WordCount, Error> {
    let mut ctx = StreamContext::new(args.times.interval)?;
    let mut lines = ctx.tcp_text(TEXT, &args.listen);
    if let Some(address) = &args.clients {
        let clients = Clients::listen(address);
        lines = lines.union(&ctx.clients::<String>(LINES, &clients))?;
    }
    WordCount::start(ctx, &lines, &args.times).await
}

/// Prints what happens, for programs or for people.
struct Report {
    json: bool,
    interval: Duration,
    records: u64,
}

impl Report {
    fn new(args: &Args) -> Self {
        Report {
            json: args.json,
            interval: args.times.interval,
            records: 0,
        }
    }

    fn listening(&self, text: SocketAddr, clients: Option<SocketAddr>) -> Result<(), Error> {
        if self.json {
            return json(&Listening {
                listening: text,
                clients,
            });
        }
        say(format_args!(
            "listening on {text}: nc {} {} < FILE",
            text.ip(),
            text.port()
        ))?;
        if let Some(clients) = clients {
            let how = format_args!("dstreams send {clients} --stream {LINES} FILE");
            say(format_args!("listening on {clients} for clients: {how}"))?;
        }
        plain::header()
    }

    fn batch(&mut self, found: &Found) -> Result<(), Error> {
        self.records += found.records;
        match self.json {
            true => json(&Batch::of(found)),
            false => plain::batch(found, self.interval),
        }
    }

    fn end(&self, dead_letters: u64, received: u64) -> Result<(), Error> {
        let records_total = self.records;
        if dead_letters > 0 {
            warn(format_args!(
                "{dead_letters} line(s) left out: not UTF-8, too long or cut off"
            ));
        }
        if received > records_total {
            let late = received - records_total;
            warn(format_args!(
                "{late} line(s) came after the last batch that was asked for"
            ));
        }
        match self.json {
            true => json(&End { records_total }),
            false => say(format_args!("{records_total} lines in all")),
        }
    }
}

#[derive(Serialize)]
struct Listening {
    listening: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<SocketAddr>,
}

#[derive(Serialize)]
struct Batch<'a> {
    batch_time: u64,
    records: u64,
    window_words: i64,
    top: &'a [(String, i64)],
    processing_ms: f64,
    scheduling_delay_ms: f64,
}

impl<'a> Batch<'a> {
    fn of(found: &'a Found) -> Self {
        Batch {
            batch_time: found.batch.0,
            records: found.records,
            window_words: found.window_words,
            top: &found.top,
            processing_ms: found.processing.as_micros() as f64 / 1e3,
            scheduling_delay_ms: found.scheduling_delay.as_micros() as f64 / 1e3,
        }
    }
}

#[derive(Serialize)]
struct End {
    records_total: u64,
}

fn json(object: &impl Serialize) -> Result<(), Error> {
    let line = serde_json::to_string(object).map_err(|error| Error::Output(error.into()))?;
    say(line)
}
