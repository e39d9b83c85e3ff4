//! [`Schedule`]: when a checkpoint is due, and how the last attempts went.

use tokio::task::JoinHandle;

use crate::error::Error;

/// Consecutive failed attempts to write a checkpoint.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CheckpointFailures {
    /// How many; 0 if the last attempt succeeded, or none was due yet.
    pub tries: u64,
    /// Why the last one failed.
    pub error: Option<Error>,
}

/// When a checkpoint is due. One is written at a time; after a failure, the next batch retries.
pub(super) struct Schedule {
    /// Batches between two checkpoints.
    every: u64,
    /// Batches since the last one began.
    since: u64,
    /// The number of the last attempt: each has files and answers of its own.
    tried: u64,
    writing: Option<JoinHandle<()>>,
    /// Failed attempts since the last successful checkpoint.
    failed: CheckpointFailures,
}

impl Schedule {
    /// A checkpoint after this many batches.
    pub fn new(every: u64) -> Self {
        Schedule {
            every,
            since: 0,
            tried: 0,
            writing: None,
            failed: CheckpointFailures::default(),
        }
    }

    /// Counts a batch. Returns whether a checkpoint is due.
    pub fn is_due_after_batch(&mut self) -> bool {
        self.since += 1;
        let idle = self.writing.as_ref().is_none_or(JoinHandle::is_finished);
        self.since >= self.every && idle
    }

    /// The number of the next attempt, after this newest checkpoint.
    pub fn next_attempt(&mut self, newest: u64) -> u64 {
        self.tried = self.tried.max(newest) + 1;
        self.tried
    }

    /// A checkpoint is being written.
    pub fn begin(&mut self, writing: JoinHandle<()>) {
        self.since = 0;
        self.writing = Some(writing);
    }

    /// A checkpoint is complete.
    pub fn succeeded(&mut self) {
        self.failed = CheckpointFailures::default();
    }

    /// A checkpoint could not be written.
    pub fn failed(&mut self, error: Error) {
        self.since = self.every;
        self.failed.tries += 1;
        self.failed.error = Some(error);
    }

    /// Failed attempts since the last successful checkpoint.
    pub fn failures(&self) -> CheckpointFailures {
        self.failed.clone()
    }

    /// The checkpoint being written, if any.
    pub fn take_writing(&mut self) -> Option<JoinHandle<()>> {
        self.writing.take()
    }
}
