//! [`Pipeline`]: batches that are cut and not committed. The first few run concurrently, the others wait in order.
//!
//! A batch runs as often as needed, then commits after all before it. Once its `Commit` was given it never runs
//! again, since its effect may be visible. A lost batch is set aside or given up when its turn to commit comes, so
//! earlier ones are not affected. A batch that was set aside runs once more, without its records.

use std::collections::VecDeque;

use crate::{BatchReport, BatchTime, BlockMeta, Command, Config, Timestamp};

/// A batch that was cut.
#[derive(Debug)]
struct Pending {
    batch: BatchTime,
    blocks: Vec<BlockMeta>,
    cut_at: Timestamp,
    /// Its records are set aside: it takes effect without them.
    set_aside: bool,
    /// An earlier process may have committed it: it cannot be set aside.
    committing: bool,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// Whether the batch itself failed, not its environment.
    pub of_batch: bool,
}

/// The event that an active batch waits for.
#[derive(Debug)]
enum Stage {
    /// `Finished` or `Failed` of the current attempt.
    Running,
    /// The commits of earlier batches.
    Finished { at: Timestamp },
    /// The same; then it is set aside or given up.
    Lost { of_batch: bool },
    /// `SetAside` or `SetAsideFailed`.
    SettingAside,
    /// `Committed` or `CommitFailed`.
    Committing { tries: u32, finished_at: Timestamp },
    /// Nothing: it was aborted or given up.
    Over,
}

/// A batch that runs or commits.
#[derive(Debug)]
struct Active {
    pending: Pending,
    attempt: u32,
    /// Attempts before it was set aside; they do not count towards the bound.
    attempts_before: u32,
    first_started_at: Timestamp,
    started_at: Timestamp,
    stage: Stage,
}

/// Decides which batches run and commit.
#[derive(Debug)]
pub(crate) struct Pipeline {
    max_attempts: u32,
    max_running: usize,
    max_set_aside: u32,
    /// Batches that were set aside.
    set_aside: u32,
    /// In batch order.
    active: VecDeque<Active>,
    /// Batches with blocks are unbounded here: the memory of blocks is bounded where they are received.
    waiting: VecDeque<Pending>,
    /// The number of these without blocks.
    empty_waiting: usize,
    last_committed: Option<BatchTime>,
}

impl Pipeline {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_attempts: config.max_attempts,
            max_running: config.max_running.max(1),
            max_set_aside: config.max_set_aside,
            set_aside: 0,
            active: VecDeque::new(),
            waiting: VecDeque::new(),
            empty_waiting: 0,
            last_committed: None,
        }
    }

    /// An earlier controller committed up to this batch, and set so many aside.
    pub(crate) const fn resume_after(&mut self, committed: Option<BatchTime>, set_aside: u32) {
        self.last_committed = committed;
        self.set_aside = set_aside;
    }

    /// Adds a cut batch.
    pub(crate) fn push(&mut self, batch: BatchTime, blocks: Vec<BlockMeta>, now: Timestamp) {
        self.empty_waiting += usize::from(blocks.is_empty());
        self.waiting.push_back(Pending {
            batch,
            blocks,
            cut_at: now,
            set_aside: false,
            committing: false,
        });
    }

    /// Records the outcome in an earlier process of the batch that was added last.
    pub(crate) fn set_outcome_of_last(&mut self, set_aside: bool, committing: bool) {
        if let Some(last) = self.waiting.back_mut() {
            (last.set_aside, last.committing) = (set_aside, committing);
        }
    }

    /// Starts waiting batches, up to the bound.
    pub(crate) fn start_next(&mut self, now: Timestamp, out: &mut Vec<Command>) {
        while self.active.len() < self.max_running
            && let Some(pending) = self.waiting.pop_front()
        {
            self.empty_waiting -= usize::from(pending.blocks.is_empty());
            out.push(Command::Run {
                batch: pending.batch,
                attempt: 1,
            });
            self.active.push_back(Active {
                pending,
                attempt: 1,
                attempts_before: 0,
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

    /// An attempt failed: run it again, if it is current and a retry may help.
    pub(crate) fn failed(
        &mut self,
        (batch, attempt): (BatchTime, u32),
        failure: Failure,
        now: Timestamp,
        out: &mut Vec<Command>,
    ) {
        let max_attempts = self.max_attempts;
        let Some(active) = self.running(batch, attempt) else {
            return;
        };
        if failure.retryable && attempt - active.attempts_before < max_attempts {
            active.attempt += 1;
            active.started_at = now;
            out.push(Command::Run {
                batch,
                attempt: active.attempt,
            });
        } else {
            let of_batch = failure.of_batch;
            active.stage = Stage::Lost { of_batch };
        }
    }

    /// All batches before the first are committed: commit it or give it up, if that is due.
    pub(crate) fn settle(&mut self, out: &mut Vec<Command>) {
        // I8 (ARCHITECTURE.md): only the first batch commits.
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
            Stage::Lost { of_batch: true }
                if first.pending.may_be_set_aside() && self.set_aside < self.max_set_aside =>
            {
                first.stage = Stage::SettingAside;
                out.push(Command::SetAside {
                    batch,
                    attempts: attempt,
                });
            }
            Stage::Lost { .. } => first.give_up(out),
            Stage::Running | Stage::SettingAside | Stage::Committing { .. } | Stage::Over => {}
        }
    }

    /// The records of the first batch are set aside, if its `SetAside` was given: run it without them.
    pub(crate) fn set_aside(&mut self, batch: BatchTime, now: Timestamp, out: &mut Vec<Command>) {
        let Some(first) = self.setting_aside(batch) else {
            return;
        };
        first.pending.set_aside = true;
        first.attempts_before = first.attempt;
        first.attempt += 1;
        first.started_at = now;
        first.stage = Stage::Running;
        out.push(Command::Run {
            batch,
            attempt: first.attempt,
        });
        self.set_aside += 1;
    }

    /// Setting aside failed: the batch is given up.
    pub(crate) fn set_aside_failed(&mut self, batch: BatchTime, out: &mut Vec<Command>) {
        if let Some(first) = self.setting_aside(batch) {
            first.give_up(out);
        }
    }

    fn setting_aside(&mut self, batch: BatchTime) -> Option<&mut Active> {
        let first = self.active.front_mut();
        first.filter(|first| {
            first.pending.batch == batch && matches!(first.stage, Stage::SettingAside)
        })
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
        let records = sum(|block| block.rows);
        let (records, set_aside) = match active.pending.set_aside {
            false => (records, 0),
            true => (0, records),
        };
        out.push(Command::Completed(BatchReport {
            batch,
            attempts: active.attempt,
            records,
            set_aside,
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
            _ => active.give_up(out),
        }
    }

    /// Aborts running attempts and begins no commit; a commit in progress continues.
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
                Stage::Finished { .. } | Stage::Lost { .. } | Stage::SettingAside => {
                    active.stage = Stage::Over;
                }
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

    /// Whether a commit is in progress.
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

    /// The number of empty batches that wait and do not start next.
    pub(crate) fn empty_waiting(&self) -> usize {
        let room = self.max_running.saturating_sub(self.active.len());
        let next = self.waiting.iter().take(room);
        let next = next.filter(|pending| pending.blocks.is_empty()).count();
        self.empty_waiting - next
    }

    /// The number of batches that are cut and not committed.
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

impl Pending {
    fn may_be_set_aside(&self) -> bool {
        !self.set_aside && !self.committing
    }
}

impl Active {
    fn give_up(&mut self, out: &mut Vec<Command>) {
        self.stage = Stage::Over;
        out.push(Command::Fail {
            batch: self.pending.batch,
            attempts: self.attempt,
        });
    }

    fn is_committing(&self, batch: BatchTime) -> bool {
        matches!(self.stage, Stage::Committing { .. }) && self.pending.batch == batch
    }
}
