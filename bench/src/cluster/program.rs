//! The programs that run on the cluster: a master and its workers build the same one from the same arguments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bench_input::NEEDLE;
use dstreams::agg::count;
use dstreams::arrow::array::AsArray;
use dstreams::arrow::datatypes::Int64Type;
use dstreams::text::words;
use dstreams::{
    Clients, Clock, Config, Error, ManualClock, Queue, Rdd, RddReceiver, Result, StreamContext,
};

use crate::own::flag;

/// The length of the window of the work `window`.
pub const WINDOW: Duration = Duration::from_secs(1);
/// That of the work `window30`.
const LONG_WINDOW: Duration = Duration::from_secs(30);

/// A program, as flags.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `grep`, `words`, `window` or `window30`: a count of words over the last second or half a minute, sliding by a
    /// batch.
    pub work: String,
    /// The origin of the records: `clients`, or `queue`, which is this process.
    pub input: String,
    /// The batch interval in milliseconds.
    pub interval_ms: u64,
    /// Whether intervals end by hand.
    pub manual: bool,
    /// Whether results are collected for checking, or only added up.
    pub collect: bool,
    /// Partitions of keyed data, tasks of a batch, and threads of the local engine.
    pub partitions: usize,
    /// Number of rows from which on a batch is split into tasks.
    pub rows_per_task: usize,
    /// The directory in which it is kept; empty if it is not.
    pub state: String,
    /// The batches between two checkpoints.
    pub checkpoint_every: u32,
}

impl Spec {
    /// Batches that end by hand, in two tasks however small they are, with every result collected.
    pub fn by_hand(work: &str, input: &str) -> Self {
        Spec {
            work: work.into(),
            input: input.into(),
            interval_ms: 1_000,
            manual: true,
            collect: true,
            partitions: 2,
            rows_per_task: 1,
            state: String::new(),
            checkpoint_every: 10,
        }
    }

    /// Batches on the wall clock with records from clients, in two tasks, with results added up.
    pub fn on_the_clock(work: &str, interval_ms: u64) -> Self {
        Spec {
            interval_ms,
            manual: false,
            collect: false,
            ..Spec::by_hand(work, "clients")
        }
    }

    /// The program as flags.
    pub fn arguments(&self) -> Vec<String> {
        let values = [
            ("--work", self.work.clone()),
            ("--input", self.input.clone()),
            ("--interval-ms", self.interval_ms.to_string()),
            ("--manual", self.manual.to_string()),
            ("--collect", self.collect.to_string()),
            ("--partitions", self.partitions.to_string()),
            ("--rows-per-task", self.rows_per_task.to_string()),
            ("--state", self.state.clone()),
            ("--checkpoint-every", self.checkpoint_every.to_string()),
        ];
        let words = values.map(|(name, value)| [name.to_owned(), value]);
        words.into_iter().flatten().collect()
    }

    /// Reads the flags.
    pub fn parse(flags: &[String]) -> Result<Self> {
        let read = || -> crate::own::Outcome<Self> {
            let spec = Spec::by_hand("words", "queue");
            Ok(Spec {
                work: flag(flags, "--work", spec.work)?,
                input: flag(flags, "--input", spec.input)?,
                interval_ms: flag(flags, "--interval-ms", spec.interval_ms)?,
                manual: flag(flags, "--manual", spec.manual)?,
                collect: flag(flags, "--collect", spec.collect)?,
                partitions: flag(flags, "--partitions", spec.partitions)?,
                rows_per_task: flag(flags, "--rows-per-task", spec.rows_per_task)?,
                state: flag(flags, "--state", spec.state)?,
                checkpoint_every: flag(flags, "--checkpoint-every", spec.checkpoint_every)?,
            })
        };
        read().map_err(|error| wrong(error.to_string()))
    }

    /// The batch interval.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

fn wrong(message: String) -> Error {
    Error::Config {
        setting: "bench program",
        message,
    }
}

/// A program that has not started.
pub struct Program {
    /// The context to start.
    pub ctx: StreamContext,
    /// Ends intervals, if they end by hand.
    pub clock: ManualClock,
    /// The input, if this process pushes it.
    pub queue: Option<Queue<String>>,
    /// The results, if they are collected.
    pub answers: Answers,
    /// The results, if they are added up.
    pub totals: Arc<Totals>,
}

/// Where each result goes.
pub enum Answers {
    /// Numbers of lines found.
    Found(RddReceiver<i64>),
    /// Words and their counts.
    Words(RddReceiver<(String, i64)>),
    /// Not collected.
    Totals,
}

/// Results added up.
#[derive(Debug, Default)]
pub struct Totals {
    /// Sum of all counts.
    pub sum: AtomicU64,
    /// Sum of the counts of the last batch.
    pub last: AtomicU64,
}

impl Totals {
    fn add(&self, counts: u64) {
        self.sum.fetch_add(counts, Ordering::SeqCst);
        self.last.store(counts, Ordering::SeqCst);
    }

    fn of_words(self: &Arc<Self>) -> impl Fn(Rdd<(String, i64)>) + Send + Sync + 'static {
        let totals = Arc::clone(self);
        move |rdd| {
            let rows = rdd.partitions().iter().flatten();
            let counts = rows.flat_map(|rows| rows.column(1).as_primitive::<Int64Type>().values());
            totals.add(counts.sum::<i64>() as u64);
        }
    }
}

/// Describes the program; does no input or output.
pub fn build(spec: &Spec) -> Result<Program> {
    let mut config = Config::new(spec.interval());
    config.threads = spec.partitions;
    config.rows_per_task = spec.rows_per_task;
    config.block_memory = 4 << 30;
    config.checkpoint_every = spec.checkpoint_every;
    let mut ctx = StreamContext::with_config(config)?;
    if !spec.state.is_empty() {
        ctx.persist_in(&spec.state);
    }
    let (clock, time) = Clock::manual(Duration::ZERO);
    if spec.manual {
        ctx.set_clock(time);
    }
    let (queue, lines) = match spec.input.as_str() {
        "queue" => {
            let (queue, lines) = ctx.queue::<String>("lines");
            (Some(queue), lines)
        }
        "clients" => {
            let clients = Clients::listen("127.0.0.1:0");
            (None, ctx.clients::<String>("lines", &clients))
        }
        other => return Err(wrong(format!("no input {other:?}: queue or clients"))),
    };
    let totals = Arc::new(Totals::default());
    let split = || lines.flat_map::<String>(|line, out| words(line).for_each(|w| out.push(w)));
    let counts = match spec.work.as_str() {
        "grep" => {
            let needle = memchr::memmem::Finder::new(NEEDLE).into_owned();
            let found = lines.filter(move |line| needle.find(line.as_bytes()).is_some());
            let found = found.count()?;
            let answers = match spec.collect {
                true => Answers::Found(found.collect()),
                false => {
                    let totals = Arc::clone(&totals);
                    found.for_each_rdd(move |rdd| {
                        let found = rdd.collect().unwrap_or_default();
                        totals.add(found.iter().sum::<i64>() as u64);
                    });
                    Answers::Totals
                }
            };
            return Ok(Program {
                ctx,
                clock,
                queue,
                answers,
                totals,
            });
        }
        "words" => split().keyed().agg(count())?,
        "window" | "window30" => {
            let length = if spec.work == "window" {
                WINDOW
            } else {
                LONG_WINDOW
            };
            split()
                .keyed()
                .window_agg(length, spec.interval(), count())?
        }
        other => {
            let message = format!("no work {other:?}: grep, words, window or window30");
            return Err(wrong(message));
        }
    };
    let answers = match spec.collect {
        true => Answers::Words(counts.pairs().collect()),
        false => {
            counts.pairs().for_each_rdd(totals.of_words());
            Answers::Totals
        }
    };
    Ok(Program {
        ctx,
        clock,
        queue,
        answers,
        totals,
    })
}
