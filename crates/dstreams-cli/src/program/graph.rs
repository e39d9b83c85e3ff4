//! The graph of the word count: the same in this process alone, on a master and on its workers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dstreams::{Clients, Result, StreamContext, agg, text};
use humantime::format_duration;

use super::results::{Outcome, Sender};
use crate::arguments::Times;
use crate::error::Error;

/// Words that are shown of each window.
const TOP: usize = 10;
/// Name of the stream of text over TCP.
pub const TEXT: &str = "text";
/// Name of the stream for `dstreams send` and the client library.
pub const LINES: &str = "lines";

/// What tells the graph: the arguments that every process of a cluster has.
#[derive(Debug, Clone, clap::Parser)]
#[command(no_binary_name = true)]
pub struct Program {
    #[arg(long, value_parser = dstreams_cluster::app::duration)]
    pub interval: Duration,
    #[arg(long, value_parser = dstreams_cluster::app::duration)]
    pub window: Duration,
    /// Where text is taken over TCP, if it is.
    #[arg(long)]
    text: Option<String>,
    /// Where clients send lines, if they do. On a cluster they send them to the workers.
    #[arg(long)]
    lines: Option<String>,
    /// The directory it is kept in, if it is.
    #[arg(long)]
    state: Option<PathBuf>,
}

impl Program {
    /// A program that takes lines from these addresses.
    pub fn new(times: &Times, text: Option<String>, lines: Option<String>) -> Result<Self, Error> {
        Ok(Program {
            interval: times.interval,
            window: times.window()?,
            text,
            lines,
            state: None,
        })
    }

    /// The same, kept in a directory. On a cluster all processes reach it by this path.
    pub fn kept_in(mut self, state: Option<&Path>) -> Result<Self, Error> {
        let state = state.map(std::path::absolute).transpose();
        self.state = state.map_err(|error| Error::Usage(format!("--state: {error}")))?;
        Ok(self)
    }

    /// A program whose lines are sent by clients alone.
    pub fn of_clients(times: &Times) -> Result<Self, Error> {
        Self::new(times, None, Some("127.0.0.1:0".to_owned()))
    }

    /// As it was written by [`Program::arguments`].
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let parsed = <Self as clap::Parser>::try_parse_from(arguments);
        parsed.map_err(|error| dstreams::Error::Config {
            setting: "arguments",
            message: format!("the master's are not those of a word count: {error}"),
        })
    }

    /// As text, for other processes.
    pub fn arguments(&self) -> Vec<String> {
        let time = |time| format_duration(time).to_string();
        let mut arguments = vec![
            "--interval".to_owned(),
            time(self.interval),
            "--window".to_owned(),
            time(self.window),
        ];
        for (name, address) in [("--text", &self.text), ("--lines", &self.lines)] {
            if let Some(address) = address {
                arguments.extend([name.to_owned(), address.clone()]);
            }
        }
        if let Some(state) = &self.state {
            arguments.extend(["--state".to_owned(), state.display().to_string()]);
        }
        arguments
    }

    /// Describes the program. What batches find comes to `found` in the process that commits them.
    pub fn describe(&self, found: Sender) -> Result<StreamContext> {
        match &self.state {
            Some(state) => StreamContext::restore_or_new(state, || self.graph(found)),
            None => self.graph(found),
        }
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
        let counts = lines
            .flat_map::<String>(|line, out| text::words(line).for_each(|word| out.push(word)))
            .keyed()
            .window_agg(self.window, self.interval, agg::count())?;
        // Summed where the counts are: one row comes to the process that prints it.
        let words = counts
            .pairs()
            .sql::<i64>("select coalesce(sum(value), 0) from this")?;

        let outcome = Outcome::new(found);
        let (top, total) = (outcome.clone(), outcome.clone());
        counts
            .top(TOP)
            .for_each_rdd(move |rdd| top.top(rdd.collect()));
        words.for_each_rdd(move |rdd| total.window_words(rdd.collect()));
        ctx.add_listener(outcome);
        Ok(ctx)
    }
}
