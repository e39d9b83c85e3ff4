//! The command line that every program of the benchmark understands.

use crate::SMALL_LINES;

/// The flags, for a program's usage line.
pub const USAGE: &str = "--work grep|wordcount|running|window|topk|small [--lines N] [--batches N] [--threads N] [--seed N] [--variant V]";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Per batch, the number of lines that contain the needle.
    Grep,
    /// Per batch, the count of every word.
    WordCount,
    /// Per batch, the count so far, over all batches, of every word of the batch.
    Running,
    /// After each batch, the count of every word over the last ten batches.
    Window,
    /// After each batch, the ten most frequent words of that window.
    TopK,
    /// The word count of 1,000-line batches, one at a time: latency.
    Small,
}

impl Work {
    /// All of them, in the order they are run and shown.
    pub const ALL: [Self; 6] = [
        Self::Grep,
        Self::WordCount,
        Self::Running,
        Self::Window,
        Self::TopK,
        Self::Small,
    ];

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grep => "grep",
            Self::WordCount => "wordcount",
            Self::Running => "running",
            Self::Window => "window",
            Self::TopK => "topk",
            Self::Small => "small",
        }
    }

    /// The work of that name.
    pub fn parse(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|work| work.name() == name);
        known.ok_or_else(|| {
            format!("unknown work {name:?}: one of grep, wordcount, running, window, topk, small")
        })
    }
}

/// The command line, read.
#[derive(Debug, Clone)]
pub struct Args {
    /// What to measure.
    pub work: Work,
    /// Lines in all batches together.
    pub lines: usize,
    /// Batches; `small` always has one per 1,000 lines.
    pub batches: usize,
    /// Threads that may work at once.
    pub threads: usize,
    /// Seed of vocabulary and text.
    pub seed: u64,
    /// Which way of doing it, where a program has several; empty is the program's default.
    pub variant: String,
    /// Flags that only one program knows, as `(name, value)`.
    pub others: Vec<(String, String)>,
}

impl Args {
    /// Reads the flags after the program's name. Every flag takes a value.
    pub fn parse(flags: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut flags = flags.into_iter();
        let (mut work, mut lines, mut batches) = (None, None, 20);
        let (mut threads, mut seed, mut variant, mut others) = (2, 1, String::new(), Vec::new());
        while let Some(flag) = flags.next() {
            let name = flag
                .strip_prefix("--")
                .ok_or_else(|| format!("not a flag: {flag:?}; usage: {USAGE}"))?;
            let value = flags
                .next()
                .ok_or_else(|| format!("--{name} needs a value; usage: {USAGE}"))?;
            match name {
                "work" => work = Some(Work::parse(&value)?),
                "lines" => lines = Some(number(name, &value)?),
                "batches" => batches = number(name, &value)?,
                "threads" => threads = number(name, &value)?,
                "seed" => seed = number(name, &value)? as u64,
                "variant" => variant = value,
                _ => others.push((name.to_owned(), value)),
            }
        }
        let work = work.ok_or_else(|| format!("--work is needed; usage: {USAGE}"))?;
        let small = work == Work::Small;
        let lines = lines.unwrap_or(if small { 2_200_000 } else { 5_000_000 });
        let batches = if small { lines / SMALL_LINES } else { batches };
        if batches == 0 || threads == 0 || lines == 0 || lines % batches != 0 {
            return Err(format!(
                "{lines} lines do not make {batches} equal batches on {threads} threads"
            ));
        }
        Ok(Self {
            work,
            lines,
            batches,
            threads,
            seed,
            variant,
            others,
        })
    }

    /// Lines of one batch.
    pub fn batch_lines(&self) -> usize {
        self.lines / self.batches
    }

    /// Batches of `small` that run first and are not measured: 200 of 2,200.
    pub fn warm_up(&self) -> usize {
        self.batches / 11
    }
}

fn number(name: &str, value: &str) -> Result<usize, String> {
    value
        .replace('_', "")
        .parse()
        .map_err(|_| format!("--{name} needs a whole number, not {value:?}"))
}
