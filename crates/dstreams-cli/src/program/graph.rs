//! The graph of the word count: the same in this process alone, on a master and on its workers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dstreams::files::Format;
use dstreams::{Clients, Result, StreamContext, agg, text};
use humantime::format_duration;

use super::results::{Outcome, Sender};
use crate::arguments::Times;
use crate::error::Error;

/// Number of words shown of each window.
const TOP: usize = 10;
/// Name of the stream of text over TCP.
pub const TEXT: &str = "text";
/// Name of the stream for `dstreams send` and the client library.
pub const LINES: &str = "lines";

/// The arguments that determine the graph, the same in every process of a cluster.
#[derive(Debug, Clone, clap::Parser)]
#[command(no_binary_name = true)]
pub struct Program {
    #[arg(long, value_parser = dstreams_cluster::app::duration)]
    pub interval: Duration,
    #[arg(long, value_parser = dstreams_cluster::app::duration)]
    pub window: Duration,
    /// Address for text over TCP, if any.
    #[arg(long)]
    text: Option<String>,
    /// Address for clients that send lines, if any. On a cluster they send them to the workers.
    #[arg(long)]
    lines: Option<String>,
    /// The state directory, if any.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Directory for the counts of words since the start, if they are wanted.
    #[arg(long)]
    totals: Option<PathBuf>,
}

impl Program {
    /// A program that receives lines at these addresses.
    pub fn new(times: &Times, text: Option<String>, lines: Option<String>) -> Result<Self, Error> {
        Ok(Program {
            interval: times.interval,
            window: times.window()?,
            text,
            lines,
            state: None,
            totals: None,
        })
    }

    /// The same, persisted in a directory. On a cluster all processes reach it by this path.
    pub fn with_state_dir(mut self, state: Option<&Path>) -> Result<Self, Error> {
        let state = state.map(std::path::absolute).transpose();
        self.state = state.map_err(|error| Error::Usage(format!("--state: {error}")))?;
        Ok(self)
    }

    /// The same, which also counts words since the start, and writes those counts that a batch has changed to files in a
    /// directory.
    pub fn with_totals(mut self, totals: Option<&Path>) -> Result<Self, Error> {
        let totals = totals.map(std::path::absolute).transpose();
        self.totals = totals.map_err(|error| Error::Usage(format!("--totals: {error}")))?;
        Ok(self)
    }

    /// A program that receives lines from clients only.
    pub fn of_clients(times: &Times) -> Result<Self, Error> {
        Self::new(times, None, Some("127.0.0.1:0".to_owned()))
    }

    /// Parses the output of [`Program::arguments`].
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let parsed = <Self as clap::Parser>::try_parse_from(arguments);
        parsed.map_err(|error| dstreams::Error::Config {
            setting: "arguments",
            message: format!("those of the master are not for a word count: {error}"),
        })
    }

    /// Its arguments as text, for other processes.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = self.times_and_places();
        for (name, address) in [("--text", &self.text), ("--lines", &self.lines)] {
            if let Some(address) = address {
                arguments.extend([name.to_owned(), address.clone()]);
            }
        }
        arguments
    }

    /// The arguments that `dstreams master` has too: interval, window and directories.
    pub fn times_and_places(&self) -> Vec<String> {
        let time = |time| format_duration(time).to_string();
        let mut arguments = vec![
            "--interval".to_owned(),
            time(self.interval),
            "--window".to_owned(),
            time(self.window),
        ];
        if let Some(state) = &self.state {
            arguments.extend(["--state".to_owned(), state.display().to_string()]);
        }
        if let Some(totals) = &self.totals {
            arguments.extend(["--totals".to_owned(), totals.display().to_string()]);
        }
        arguments
    }

    /// Describes the program. In the process that commits batches, their results are sent to `found`.
    pub fn describe(&self, found: Sender) -> Result<StreamContext> {
        let mut ctx = self.graph(found)?;
        if let Some(state) = &self.state {
            ctx.persist_in(state);
        }
        Ok(ctx)
    }

    fn graph(&self, found: Sender) -> Result<StreamContext> {
        let mut ctx = StreamContext::new(self.interval)?;
        let text = self
            .text
            .as_ref()
            .map(|address| ctx.tcp_text(TEXT, address));
        let sent = self.lines.as_ref().map(|address| {
            let clients = Clients::listen(address);
            ctx.clients::<String>(LINES, &clients)
        });
        let lines = match (text, sent) {
            (Some(text), Some(sent)) => text.union(&sent)?,
            (Some(lines), None) | (None, Some(lines)) => lines,
            (None, None) => ctx.queue::<String>(LINES).1,
        };
        let words = lines
            .flat_map::<String>(|line, out| text::words(line).for_each(|word| out.push(word)))
            .keyed();
        let counts = words.window_agg(self.window, self.interval, agg::count())?;
        // Summed on the workers: only one row goes to the process that prints it.
        let window_words = counts
            .pairs()
            .sql::<i64>("select coalesce(sum(value), 0) from this")?;

        let outcome = Outcome::new(found);
        let (top, total) = (outcome.clone(), outcome.clone());
        counts
            .top(TOP)
            .for_each_rdd(move |rdd| top.top(rdd.collect()));
        window_words.for_each_rdd(move |rdd| total.window_words(rdd.collect()));
        if let Some(directory) = &self.totals {
            let totals = words.running_agg("totals", agg::count())?;
            totals.changes().write_files(directory, Format::JsonLines)?;
        }
        ctx.add_listener(outcome);
        Ok(ctx)
    }
}
