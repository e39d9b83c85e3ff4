//! Settings of a context, each with its unit, default and reason.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// Shortest batch interval: below it the fixed cost of a batch takes most of the interval.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Longest batch interval: received records stay in memory that long, and times stay well below 64 bits.
const MAX_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);

/// Longest line: two of them stay below the 4 GiB that a text view can point into.
const MAX_LINE_BYTES: usize = 1 << 30;

/// Settings of a context. [`Config::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "settings do nothing before a context has them"]
pub struct Config {
    /// Batch interval: whole milliseconds, 10 ms or more, and 366 days at most.
    pub interval: Duration,
    /// Threads that run tasks, and partitions of keyed data. Default: the cores of the machine.
    pub threads: usize,
    /// Backpressure: bytes of received records in memory until their batch is done. At this bound receiving waits:
    /// TCP producers through the socket, clients through their window. Default: 256 MiB, some seconds of a fast
    /// feed.
    pub block_memory: usize,
    /// Bytes of one block: an open block is sealed at this size. Default: 4 MiB, so that a fast feed gives tasks of
    /// equal size.
    pub block_bytes: usize,
    /// Bytes of one line of text, 1 GiB at most; a longer one is a dead letter. Default: 1 MiB, more than any log
    /// line, and little compared with the block memory. Unfinished lines longer than 16 KiB may take half as much
    /// as the block memory in addition to it.
    pub line_bytes: usize,
    /// Connections at once to one address, of TCP text or of clients; more are refused. Default: 16 384, each of
    /// which may take 16 KiB when it is idle. The process needs a third more file descriptors than that: a quarter
    /// of its limit (32 to 1,024) is reserved for files, and connections beyond the rest wait to be accepted.
    pub connections: usize,
    /// Rows of the Arrow batches that operators work on. Default: 2048, so that the output of one closure is still
    /// in the core's first-level cache when the next one reads it.
    pub rows_per_batch: usize,
    /// Batches with fewer rows run as one task, since starting more costs more than they save. Default: 4096.
    pub rows_per_task: usize,
    /// How often a batch is attempted before the context stops. Default: 4, as in Spark. The pause before a retry
    /// is 50 ms at first and doubles up to 10 s.
    pub attempts: u32,
    /// How to handle a batch that failed for good. Default: the program stops.
    pub on_failure: OnFailure,
    /// Number of batches that may be set aside in a directory ([`OnFailure::SetAside`]); the next one that fails
    /// stops the program. Default: 16: enough for an occasional bad record, not for a program that fails on every
    /// batch. Moving a batch out of the directory makes room for another at the next start.
    pub set_aside_batches: u32,
    /// Whether a long downtime skips the intervals in which nothing happens. If more than 100 intervals were missed at
    /// once (the program was down, the machine was suspended), an interval gets no batch in which no record came, no
    /// window holds a record, nothing is due (a time-out, a result of event time, a record that is released, delayed or
    /// leaves a join), and no output has a row. All others run, each with its own batch
    /// time, so states and rows are the same. For a skipped interval, outputs and listeners see nothing. A program
    /// skips nothing if an output has rows without any record, such as a count of all records, or
    /// [`State::all`](crate::State::all); the log says which one. Default: no, each interval has a batch: a sink may
    /// count batches, or take an empty one for a sign of life. Two days at 100 ms are then 1.7 million batches, of
    /// which few wait at a time.
    pub skip_quiet: bool,
    /// Batches between two checkpoints, if there is a directory for them
    /// ([`StreamContext::persist_in`](crate::StreamContext::persist_in)). Default: 10: a restart replays
    /// about as many.
    pub checkpoint_every: u32,
    /// Unconnected producers whose offsets are remembered, for each stream of clients. Beyond it the least recently
    /// active are forgotten; records that such a producer sends again are received again. Default: 100 000, some 20
    /// MB.
    pub producers: usize,
    /// Bytes of memory for keyed states, in each process. Beyond it the least recently changed rows spill to files;
    /// the location of each key's row stays in memory, some 12 bytes a key, and so do the rows of the newest
    /// batches. Default: none, all state is in memory.
    pub state_memory: Option<usize>,
    /// The directory for spilled state. Default: the system's directory for temporary files, which may itself be in
    /// memory.
    pub spill_dir: PathBuf,
    /// For tests that closures are deterministic: runs the tasks of each stage in an order derived from this seed,
    /// and one of them twice. Results must not change. Default: none.
    pub shuffle_tasks: Option<u64>,
}

/// How to handle a batch that failed for good because of its content: a closure panics on one of its records, a
/// query fails on it, or a sink cannot prepare it within [`Config::attempts`]. Failures of the system, such as a
/// disk, or the loss of workers, stop the program in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFailure {
    /// The program stops with the error. With a directory, it runs the same batch again at its next start.
    #[default]
    Stop,
    /// The records of the batch are written to `failed/batch=<milliseconds>/` of the directory with the reason, and
    /// the batch takes effect without them. Each record takes effect once or is set aside once, whatever fails
    /// meanwhile. [`StreamContext::replay`](crate::StreamContext::replay) runs such a batch alone.
    ///
    /// Needs [`StreamContext::persist_in`](crate::StreamContext::persist_in). Costs one more sync of the
    /// journal before each batch takes effect. If the program has state, setting a batch aside recovers the state
    /// from the newest checkpoint and the batches since; meanwhile records are received, but no batch takes effect.
    /// On one machine that takes twice the memory of the state. On a cluster the master stores the records of these
    /// batches in memory, as after a restart, and no partition of state has a standby until it is done: if a worker
    /// is lost meanwhile, recovery starts again; if one is lost soon after, the program may end, and resumes from
    /// its directory when it is started again.
    ///
    /// A commit that fails for good still stops the program, since it may have taken effect. So does a batch that
    /// an earlier process began to commit.
    SetAside,
}

impl Config {
    /// The defaults, with this batch interval.
    pub fn new(interval: Duration) -> Self {
        Config {
            interval,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            block_memory: 256 << 20,
            block_bytes: 4 << 20,
            line_bytes: 1 << 20,
            connections: 16 << 10,
            rows_per_batch: 2048,
            rows_per_task: 4096,
            attempts: 4,
            on_failure: OnFailure::Stop,
            set_aside_batches: 16,
            skip_quiet: false,
            checkpoint_every: 10,
            producers: 100_000,
            state_memory: None,
            spill_dir: std::env::temp_dir(),
            shuffle_tasks: None,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |setting, message: String| Err(Error::Config { setting, message });
        let nanos = self.interval.subsec_nanos();
        let fits = (MIN_INTERVAL..=MAX_INTERVAL).contains(&self.interval);
        if !fits || !nanos.is_multiple_of(1_000_000) {
            return wrong(
                "interval",
                format!(
                    "{:?} does not fit; a batch interval is a whole number of milliseconds, {} or more, and \
                     366 days at most",
                    self.interval,
                    MIN_INTERVAL.as_millis()
                ),
            );
        }
        let positive = [
            ("threads", self.threads),
            ("block_bytes", self.block_bytes),
            ("line_bytes", self.line_bytes),
            ("connections", self.connections),
            ("rows_per_batch", self.rows_per_batch),
            ("rows_per_task", self.rows_per_task),
            ("attempts", self.attempts as usize),
            ("set_aside_batches", self.set_aside_batches as usize),
            ("checkpoint_every", self.checkpoint_every as usize),
            ("producers", self.producers),
        ];
        for (setting, value) in positive {
            if value == 0 {
                return wrong(setting, "0 does not fit; it must be 1 or more".into());
            }
        }
        if self.line_bytes > MAX_LINE_BYTES {
            return wrong(
                "line_bytes",
                format!(
                    "{} bytes do not fit; a line has 1 GiB at most",
                    self.line_bytes
                ),
            );
        }
        let least = self.block_bytes.max(self.line_bytes);
        if self.block_memory < least {
            return wrong(
                "block_memory",
                format!(
                    "{} bytes cannot hold a whole block or line; it must be {least} or more",
                    self.block_memory
                ),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_limit_over_1_gib_is_refused() {
        let mut config = Config::new(Duration::from_secs(1));
        config.block_memory = usize::MAX;
        config.line_bytes = MAX_LINE_BYTES;
        assert!(config.check().is_ok());
        config.line_bytes += 1;
        let error = config.check().unwrap_err().to_string();
        assert!(
            error.contains("line_bytes") && error.contains("1 GiB"),
            "{error}"
        );
    }
}
