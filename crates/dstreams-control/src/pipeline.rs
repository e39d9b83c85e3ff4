//! [`Pipeline`]: batches that are cut and not committed. The first few run at once, the others wait in order.
//!
//! A batch is first run, as often as needed, then committed, when all before it are; once a `Commit` was given it is
//! never run again, since its effect may be visible. A batch that is lost is given up when its turn to commit comes:
//! what is before it does not suffer.

use std::collections::VecDeque;

use crate::{BatchReport, BatchTime, BlockMeta, Command, Timestamp};

/// A batch that was cut.
#[derive(Debug)]
struct Pending {
    batch: BatchTime,
    blocks: Vec<BlockMeta>,
    cut_at: Timestamp,
}

/// What an active batch waits for.
#[derive(Debug)]
enum Stage {
    /// `Finished` or `Failed` of the current attempt.
    Running,
    /// The commits of those before it.
    Finished { at: Timestamp },
    /// The same, to be given up then.
    Lost,
    /// `Committed` or `CommitFailed`.
    Committing { tries: u32, finished_at: Timestamp },
    /// Nothing: it was aborted or given up.
    Over,
}

/// A batch that is run or committed.
#[derive(Debug)]
struct Active {
    pending: Pending,
    attempt: u32,
    first_started_at: Timestamp,
    started_at: Timestamp,
    stage: Stage,
}

/// Decides what runs and what commits.
#[derive(Debug)]
pub(crate) struct Pipeline {
    max_attempts: u32,
    max_running: usize,
    /// In their order.
    active: VecDeque<Active>,
    /// Without bound here: the memory of blocks is bounded where they are received.
    waiting: VecDeque<Pending>,
    last_committed: Option<BatchTime>,
}

impl Pipeline {
    pub(crate) fn new(max_attempts: u32, max_running: usize) -> Self {
        Self {
            max_attempts,
            max_running: max_running.max(1),
            active: VecDeque::new(),
            waiting: VecDeque::new(),
            last_committed: None,
        }
    }

    /// An earlier controller committed up to this batch.
    pub(crate) const fn go_on_after(&mut self, committed: Option<BatchTime>) {
        self.last_committed = committed;
    }

    /// Takes a batch that was cut.
    pub(crate) fn push(&mut self, batch: BatchTime, blocks: Vec<BlockMeta>, now: Timestamp) {
        self.waiting.push_back(Pending {
            batch,
            blocks,
            cut_at: now,
        });
    }

    /// Starts what waits, as far as there is room.
    pub(crate) fn start_next(&mut self, now: Timestamp, out: &mut Vec<Command>) {
        while self.active.len() < self.max_running
            && let Some(pending) = self.waiting.pop_front()
        {
            out.push(Command::Run {
                batch: pending.batch,
                attempt: 1,
            });
            self.active.push_back(Active {
                pending,
                attempt: 1,
                first_started_at: now,
                started_at: now,
                stage: Stage::Running,
            });
        }
    }

    /// An attempt finished, if it is current.
    pub(crate) fn finished(&mut self, batch: BatchTime, attempt: u32, now: Timestamp) {
        if let Some(active) = self.running(batch, attempt) {
            active.stage = Stage::Finished { at: now };
        }
    }

    /// An attempt failed: run it again, if it is current and that may help.
    pub(crate) fn failed(
        &mut self,
        (batch, attempt): (BatchTime, u32),
        retryable: bool,
        now: Timestamp,
        out: &mut Vec<Command>,
    ) {
        let max_attempts = self.max_attempts;
        let Some(active) = self.running(batch, attempt) else {
            return;
        };
        if retryable && attempt < max_attempts {
            active.attempt += 1;
            active.started_at = now;
            out.push(Command::Run {
                batch,
                attempt: active.attempt,
            });
        } else {
            active.stage = Stage::Lost;
        }
    }

    /// All before the first batch are committed: commit it or give it up, if it waits for that.
    pub(crate) fn settle(&mut self, out: &mut Vec<Command>) {
        let Some(first) = self.active.front_mut() else {
            return;
        };
        let (batch, attempt) = (first.pending.batch, first.attempt);
        match first.stage {
            Stage::Finished { at } => {
                first.stage = Stage::Committing {
                    tries: 1,
                    finished_at: at,
                };
                out.push(Command::Commit { batch, attempt });
            }
            Stage::Lost => {
                first.stage = Stage::Over;
                out.push(Command::Fail {
                    batch,
                    attempts: attempt,
                });
            }
            Stage::Running | Stage::Committing { .. } | Stage::Over => {}
        }
    }

    /// The outputs took effect: the batch is done, if its `Commit` was given.
    pub(crate) fn committed(&mut self, batch: BatchTime, now: Timestamp, out: &mut Vec<Command>) {
        let Some(active) = self
            .active
            .pop_front_if(|active| active.is_committing(batch))
        else {
            return;
        };
        let Stage::Committing { finished_at, .. } = active.stage else {
            return;
        };
        let blocks = active.pending.blocks;
        let sum = |of: fn(&BlockMeta) -> u64| blocks.iter().map(of).fold(0, u64::saturating_add);
        self.last_committed = Some(batch);
        out.push(Command::Completed(BatchReport {
            batch,
            attempts: active.attempt,
            records: sum(|block| block.rows),
            bytes: sum(|block| block.bytes),
            cut_at: active.pending.cut_at,
            first_started_at: active.first_started_at,
            started_at: active.started_at,
            finished_at,
            committed_at: now,
        }));
        out.push(Command::Forget {
            batch,
            blocks: blocks.iter().map(|block| block.id).collect(),
        });
    }

    /// A commit failed: commit the same attempt again or give up, if its `Commit` was given.
    pub(crate) fn commit_failed(
        &mut self,
        batch: BatchTime,
        retryable: bool,
        out: &mut Vec<Command>,
    ) {
        let max_attempts = self.max_attempts;
        let Some(active) = self
            .active
            .front_mut()
            .filter(|active| active.is_committing(batch))
        else {
            return;
        };
        let attempt = active.attempt;
        match &mut active.stage {
            Stage::Committing { tries, .. } if retryable && *tries < max_attempts => {
                *tries += 1;
                out.push(Command::Commit { batch, attempt });
            }
            stage => {
                *stage = Stage::Over;
                out.push(Command::Fail {
                    batch,
                    attempts: attempt,
                });
            }
        }
    }

    /// Aborts the attempts that are running, if any, and begins no commit; one that was given is left alone.
    pub(crate) fn abort(&mut self, out: &mut Vec<Command>) {
        for active in &mut self.active {
            match active.stage {
                Stage::Running => {
                    active.stage = Stage::Over;
                    out.push(Command::Abort {
                        batch: active.pending.batch,
                        attempt: active.attempt,
                    });
                }
                Stage::Finished { .. } | Stage::Lost => active.stage = Stage::Over,
                Stage::Committing { .. } | Stage::Over => {}
            }
        }
    }

    /// Whether the first batch was aborted or given up: then nothing more happens here.
    pub(crate) fn is_over(&self) -> bool {
        self.active
            .front()
            .is_some_and(|active| matches!(active.stage, Stage::Over))
    }

    /// Whether a commit is under way.
    pub(crate) fn is_committing(&self) -> bool {
        self.active
            .front()
            .is_some_and(|active| matches!(active.stage, Stage::Committing { .. }))
    }

    /// The active batches and their attempts, in order.
    pub(crate) fn active(&self) -> impl Iterator<Item = (BatchTime, u32)> {
        self.active
            .iter()
            .map(|active| (active.pending.batch, active.attempt))
    }

    /// How many batches are cut and not committed.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.active.len()
    }

    /// The last batch that took effect.
    pub(crate) const fn last_committed(&self) -> Option<BatchTime> {
        self.last_committed
    }

    /// The active batch that is running this attempt.
    fn running(&mut self, batch: BatchTime, attempt: u32) -> Option<&mut Active> {
        self.active.iter_mut().find(|active| {
            matches!(active.stage, Stage::Running)
                && (active.pending.batch, active.attempt) == (batch, attempt)
        })
    }
}

impl Active {
    fn is_committing(&self, batch: BatchTime) -> bool {
        matches!(self.stage, Stage::Committing { .. }) && self.pending.batch == batch
    }
}
