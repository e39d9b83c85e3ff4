//! [`Ledger`]: events and commands so far. It records and does not judge; the invariants read it.
//!
//! It follows the rules, independently of the controller: an event that does not count by the rules (an old
//! attempt, an unknown receiver) is not recorded.

use std::collections::{BTreeMap, BTreeSet};

use dstreams_control::{
    BatchTime, BlockId, BlockMeta, Command, Config, Due, Event, ReceiverId, Timestamp,
};

use crate::program::Program;

/// The outstanding `Seal`.
#[derive(Copy, Clone)]
pub struct Open {
    pub batch: BatchTime,
    /// The ledger's `forward` when it was given.
    pub sealed: u64,
    /// Given after a graceful stop.
    pub last: bool,
    /// The ledger's `forward` when no source is waited for any longer.
    pub sources_until: u64,
    /// No source is waited for any longer.
    pub stopped_waiting: bool,
}

pub struct Cut {
    pub batch: BatchTime,
    pub blocks: Vec<BlockMeta>,
    pub at: Timestamp,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Outcome {
    Finished { at: Timestamp },
    Failed { retryable: bool, of_batch: bool },
}

/// A batch's latest attempt.
#[derive(Copy, Clone, Debug)]
pub struct Attempt {
    pub batch: BatchTime,
    pub attempt: u32,
    pub first_started_at: Timestamp,
    pub started_at: Timestamp,
    pub outcome: Option<Outcome>,
    /// Its records are set aside, after so many attempts.
    pub set_aside: Option<u32>,
}

/// The commit in progress.
#[derive(Copy, Clone, Debug)]
pub struct Commit {
    pub batch: BatchTime,
    pub attempt: u32,
    pub tries: u32,
    /// The last try failed; whether it may be repeated.
    pub failed: Option<bool>,
}

pub struct Stop {
    pub graceful: bool,
    /// In the ledger's `forward`.
    pub deadline: Option<u64>,
}

pub struct Ledger {
    pub config: Config,
    pub program: Program,
    pub now: Timestamp,
    /// Microseconds that the clock went forward so far.
    pub forward: u64,
    pub receivers: BTreeSet<ReceiverId>,
    /// Receivers that have left.
    pub gone: BTreeSet<ReceiverId>,
    /// The first boundary without a batch; `None` before the start.
    pub expected: Option<BatchTime>,
    /// The boundaries up to here had passed at the last `Seal`, and were too many to be sealed each.
    pub answered: Option<BatchTime>,
    /// The time of the last `Seal`, and the number of boundaries missed by then.
    pub sealed_at: Timestamp,
    pub missed: u64,
    /// The outstanding `AskDue`, and the answer for the last cut.
    pub asked: Option<BatchTime>,
    pub due: Option<Option<Due>>,
    /// Batches that were sealed, or needed none.
    pub seals: u64,
    pub open: Option<Open>,
    /// The last batch was sealed.
    pub last_sealed: bool,
    /// Reports asked for and not received.
    pub awaited: BTreeSet<(BatchTime, ReceiverId)>,
    /// Blocks named by a report and in no cut.
    pub uncut: BTreeMap<BlockId, BlockMeta>,
    pub cut_blocks: BTreeSet<BlockId>,
    pub cuts: Vec<Cut>,
    /// The last cut of this step was of a boundary without a `Seal` of its own.
    pub cut_unasked: bool,
    /// Of batches that were started and did not take effect.
    pub attempts: BTreeMap<BatchTime, Attempt>,
    pub commit: Option<Commit>,
    /// The outstanding or failed `SetAside`; whether it failed.
    pub setting_aside: Option<(BatchTime, bool)>,
    /// Batches that are set aside.
    pub set_aside: u32,
    /// The batches that took effect, in order, each with its last attempt.
    pub committed: Vec<(Attempt, Timestamp)>,
    pub completed: u64,
    pub forgotten: Vec<BatchTime>,
    /// The latest `WakeAt`, until a `Tick` uses it up.
    pub timer: Option<Timestamp>,
    pub stop: Option<Stop>,
    pub failed: Option<BatchTime>,
    pub closed: u64,
    pub stopped: Option<u64>,
}

impl Attempt {
    /// The attempts that count for the bound.
    pub fn tries(&self) -> u32 {
        self.attempt - self.set_aside.unwrap_or(0)
    }

    /// It was set aside and not run since.
    pub fn waits_for_its_run(&self) -> bool {
        self.set_aside == Some(self.attempt)
    }
}

impl Ledger {
    pub fn new(config: Config, program: Program) -> Self {
        Self {
            config,
            program,
            now: Timestamp(0),
            forward: 0,
            receivers: BTreeSet::new(),
            gone: BTreeSet::new(),
            expected: None,
            answered: None,
            sealed_at: Timestamp(0),
            missed: 0,
            asked: None,
            due: None,
            seals: 0,
            open: None,
            last_sealed: false,
            awaited: BTreeSet::new(),
            uncut: BTreeMap::new(),
            cut_blocks: BTreeSet::new(),
            cuts: Vec::new(),
            cut_unasked: false,
            attempts: BTreeMap::new(),
            commit: None,
            setting_aside: None,
            set_aside: 0,
            committed: Vec::new(),
            completed: 0,
            forgotten: Vec::new(),
            timer: None,
            stop: None,
            failed: None,
            closed: 0,
            stopped: None,
        }
    }

    /// The first batch that is cut and not committed.
    pub fn first_pending(&self) -> Option<&Cut> {
        self.cuts.get(self.committed.len())
    }

    /// The batch that takes effect next, if it was started.
    pub fn first_attempt(&self) -> Option<Attempt> {
        let first = self.first_pending()?.batch;
        self.attempts.get(&first).copied()
    }

    /// The batch that takes effect next, if its attempts failed for good.
    pub fn lost(&self) -> Option<Attempt> {
        let most = self.config.max_attempts;
        let attempt = self.first_attempt()?;
        let lost = match attempt.outcome {
            Some(Outcome::Failed { retryable, .. }) => !retryable || attempt.tries() >= most,
            _ => false,
        };
        (lost && !attempt.waits_for_its_run()).then_some(attempt)
    }

    /// Whether a batch that is lost is set aside, and not given up.
    pub fn may_be_set_aside(&self, lost: &Attempt) -> bool {
        let of_batch = matches!(lost.outcome, Some(Outcome::Failed { of_batch: true, .. }));
        of_batch && lost.set_aside.is_none() && self.set_aside < self.config.max_set_aside
    }

    /// The first batch that is cut and was not started.
    pub fn next_to_run(&self) -> Option<BatchTime> {
        let pending = self.cuts.get(self.committed.len()..).unwrap_or_default();
        let mut waiting = pending.iter().map(|cut| cut.batch);
        waiting.find(|batch| !self.attempts.contains_key(batch))
    }

    fn interval_ms(&self) -> u64 {
        self.config.interval_ms.max(1)
    }

    fn last_reached(&self) -> BatchTime {
        BatchTime(self.now.0 / 1_000 / self.interval_ms() * self.interval_ms())
    }

    /// Whether a batch does something, if no blocks come.
    pub fn is_due(&self, batch: BatchTime) -> bool {
        self.program.is_due(&self.cuts, self.interval_ms(), batch)
    }

    /// Whether the next boundary needs no `Seal`.
    pub fn is_answered(&self) -> bool {
        self.expected.is_some() && self.expected <= self.answered
    }

    /// Whether the next batch depends on what is due.
    pub fn waits_for_due(&self) -> bool {
        self.is_answered()
            && self.open.is_none()
            && self.uncut.is_empty()
            && !self.cuts.is_empty()
            && self.due.is_none()
    }

    /// The boundary that must be sealed or cut next.
    pub fn next(&self) -> Option<BatchTime> {
        let (Some(expected), Some(answered), Some(due)) = (self.expected, self.answered, self.due)
        else {
            return self.expected;
        };
        if answered < expected || !self.uncut.is_empty() {
            return Some(expected);
        }
        let interval = self.interval_ms();
        let new = match self.config.mark_intervals {
            true => answered,
            false => BatchTime(answered.0 + interval),
        };
        let due = due.map(|due| BatchTime(due.from.max(expected).0.next_multiple_of(interval)));
        Some(due.map_or(new, |due| due.min(new)))
    }

    /// Whether so many empty batches wait that no boundary is sealed.
    pub fn is_held_back(&self) -> bool {
        let pending = self.cuts.get(self.committed.len()..).unwrap_or_default();
        let waiting = pending
            .iter()
            .filter(|cut| cut.blocks.is_empty() && !self.attempts.contains_key(&cut.batch));
        waiting.count() >= self.config.max_empty_waiting.max(1)
    }

    /// How many batches may run at once.
    pub fn max_running(&self) -> usize {
        self.config.max_running.max(1)
    }

    pub fn stop_is_abrupt(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| !stop.graceful)
    }

    pub fn deadline_passed(&self) -> bool {
        self.stop
            .as_ref()
            .and_then(|stop| stop.deadline)
            .is_some_and(|deadline| deadline <= self.forward)
    }

    /// Whether the last batch was cut, or nothing ever started.
    pub fn all_cut(&self) -> bool {
        self.expected.is_none() || self.last_is_cut()
    }

    fn last_is_cut(&self) -> bool {
        self.last_sealed && self.open.is_none()
    }

    /// The `forward` at which the wait for the outstanding `Seal` ends.
    pub fn cut_until(&self, open: Open) -> u64 {
        let config = &self.config;
        let (since, patience) = match open.last {
            true => (open.sources_until, config.final_report_timeout_ms),
            false => (open.sealed, 0),
        };
        since + Timestamp::from_millis(config.report_timeout_ms.max(patience)).0
    }

    /// Records an event; call it before its commands are recorded.
    pub fn event(&mut self, event: &Event, now: Timestamp) {
        if self.now != Timestamp(0) {
            self.forward += now.0.saturating_sub(self.now.0);
        }
        self.now = now;
        self.cut_unasked = false;
        let reached = self.last_reached();
        self.answered = self.answered.map(|answered| answered.min(reached));
        if self.stopped.is_some() {
            return;
        }
        match event {
            Event::Start { receivers } if self.expected.is_none() => {
                let interval = self.config.interval_ms;
                let first = BatchTime((now.0 / 1_000 / interval + 1) * interval);
                let marks = self.config.mark_intervals && reached.0 > 0;
                self.expected = Some(if marks { reached } else { first });
                receivers.iter().for_each(|&receiver| self.joined(receiver));
            }
            Event::Joined { receiver } => self.joined(*receiver),
            Event::Left { receiver, blocks } => self.left(*receiver, blocks),
            Event::Reported {
                batch,
                receiver,
                blocks,
            } => self.reported(*batch, *receiver, blocks),
            Event::Finished { batch, attempt } => {
                self.outcome(*batch, *attempt, Outcome::Finished { at: now })
            }
            Event::Failed {
                batch,
                attempt,
                retryable,
                of_batch,
            } => {
                self.outcome(
                    *batch,
                    *attempt,
                    Outcome::Failed {
                        retryable: *retryable,
                        of_batch: *of_batch,
                    },
                );
            }
            Event::SetAside { batch } => {
                let asked = self
                    .setting_aside
                    .take_if(|asked| *asked == (*batch, false));
                if let Some(attempt) = self.attempts.get_mut(batch).filter(|_| asked.is_some()) {
                    attempt.set_aside = Some(attempt.attempt);
                    self.set_aside += 1;
                }
            }
            Event::SetAsideFailed { batch } => {
                if let Some(asked) = self
                    .setting_aside
                    .as_mut()
                    .filter(|asked| asked.0 == *batch)
                {
                    asked.1 = true;
                }
            }
            Event::Committed { batch } => {
                if self
                    .commit
                    .take_if(|commit| commit.batch == *batch)
                    .is_some()
                {
                    let attempt = self.attempts.remove(batch);
                    self.committed.extend(attempt.map(|attempt| (attempt, now)));
                }
            }
            Event::CommitFailed { batch, retryable } => {
                if let Some(commit) = self.commit.as_mut().filter(|commit| commit.batch == *batch) {
                    commit.failed = Some(*retryable);
                }
            }
            Event::Stop { graceful, deadline } => self.asked_to_stop(*graceful, *deadline),
            Event::Due { after, due } => {
                let asked = self.asked.take_if(|asked| asked == after);
                let last = self.cuts.last().map(|cut| cut.batch);
                if asked.is_some() && last == Some(*after) {
                    self.due = Some(*due);
                }
            }
            Event::Tick => self.timer = None,
            Event::Start { .. } => {}
        }
    }

    fn joined(&mut self, receiver: ReceiverId) {
        if !self.gone.contains(&receiver) {
            self.receivers.insert(receiver);
        }
    }

    fn left(&mut self, receiver: ReceiverId, blocks: &[BlockMeta]) {
        if self.last_is_cut() || !self.gone.insert(receiver) {
            return;
        }
        self.receivers.remove(&receiver);
        self.awaited.retain(|&(_, awaited)| awaited != receiver);
        self.uncut.retain(|id, _| id.receiver != receiver);
        for block in blocks.iter().filter(|block| block.id.receiver == receiver) {
            if !self.cut_blocks.contains(&block.id) {
                self.uncut.entry(block.id).or_insert(*block);
            }
        }
    }

    fn reported(&mut self, batch: BatchTime, receiver: ReceiverId, blocks: &[BlockMeta]) {
        if !self.receivers.contains(&receiver) || self.last_is_cut() {
            return;
        }
        self.awaited.remove(&(batch, receiver));
        for block in blocks {
            if self.receivers.contains(&block.id.receiver) && !self.cut_blocks.contains(&block.id) {
                self.uncut.entry(block.id).or_insert(*block);
            }
        }
    }

    fn outcome(&mut self, batch: BatchTime, attempt: u32, outcome: Outcome) {
        let current = self.attempts.get_mut(&batch);
        let current = current.filter(|now| now.attempt == attempt);
        if let Some(current) = current {
            current.outcome.get_or_insert(outcome);
        }
    }

    fn asked_to_stop(&mut self, graceful: bool, deadline: Option<Timestamp>) {
        let deadline = deadline.map(|at| self.forward + at.0.saturating_sub(self.now.0));
        match &mut self.stop {
            None => self.stop = Some(Stop { graceful, deadline }),
            Some(stop) => {
                stop.graceful &= graceful;
                stop.deadline = [stop.deadline, deadline].into_iter().flatten().min();
            }
        }
        let half = self.half_of_the_deadline();
        if let (Some(half), Some(open)) = (half, self.open.as_mut().filter(|open| open.last)) {
            open.sources_until = open.sources_until.min(half);
        }
    }

    /// The `forward` halfway between now and the deadline.
    fn half_of_the_deadline(&self) -> Option<u64> {
        let deadline = self.stop.as_ref()?.deadline?;
        Some(self.forward + deadline.saturating_sub(self.forward) / 2)
    }

    /// Records a command; call it after the invariants have judged it.
    pub fn command(&mut self, command: &Command) {
        match command {
            Command::Seal { batch } => {
                self.seals += 1;
                self.sealed_at = self.now;
                let reached = self.last_reached();
                self.missed = reached.0.saturating_sub(batch.0) / self.interval_ms();
                let many = |most| self.missed > most;
                if self.stop.is_none() {
                    self.answered = self.config.skip_missed.is_some_and(many).then_some(reached);
                }
                self.last_sealed = self.stop.is_some();
                self.open = Some(Open {
                    batch: *batch,
                    sealed: self.forward,
                    last: self.last_sealed,
                    sources_until: self.half_of_the_deadline().unwrap_or(
                        self.forward + Timestamp::from_millis(self.config.source_timeout_ms).0,
                    ),
                    stopped_waiting: false,
                });
                self.expected = Some(BatchTime(batch.0 + self.config.interval_ms));
                self.awaited
                    .extend(self.receivers.iter().map(|&receiver| (*batch, receiver)));
            }
            Command::Cut { batch, blocks } => {
                self.cut_unasked = self.open.take().is_none();
                if self.cut_unasked {
                    self.seals += 1;
                    self.expected = Some(BatchTime(batch.0 + self.config.interval_ms));
                }
                let still = |due: &Option<Due>| due.is_none_or(|due| *batch < due.to);
                if !(blocks.is_empty() && self.due.as_ref().is_some_and(still)) {
                    self.due = None;
                }
                for block in blocks {
                    self.uncut.remove(&block.id);
                    self.cut_blocks.insert(block.id);
                }
                self.cuts.push(Cut {
                    batch: *batch,
                    blocks: blocks.clone(),
                    at: self.now,
                });
            }
            Command::AskDue { after } => self.asked = Some(*after),
            Command::Run { batch, attempt } => {
                let before = self.attempts.get(batch);
                let now = Attempt {
                    batch: *batch,
                    attempt: *attempt,
                    first_started_at: before.map_or(self.now, |before| before.first_started_at),
                    started_at: self.now,
                    outcome: None,
                    set_aside: before.and_then(|before| before.set_aside),
                };
                self.attempts.insert(*batch, now);
            }
            Command::Commit { batch, attempt } => {
                let tries = self.commit.map_or(0, |commit| commit.tries) + 1;
                self.commit = Some(Commit {
                    batch: *batch,
                    attempt: *attempt,
                    tries,
                    failed: None,
                });
            }
            Command::SetAside { batch, .. } => self.setting_aside = Some((*batch, false)),
            Command::Abort { batch, .. } => drop(self.attempts.remove(batch)),
            Command::Completed(_) => self.completed += 1,
            Command::Forget { batch, .. } => self.forgotten.push(*batch),
            Command::Fail { batch, .. } => self.failed = Some(*batch),
            Command::StopWaiting { .. } => {
                if let Some(open) = &mut self.open {
                    open.stopped_waiting = true;
                }
            }
            Command::CloseReceivers => self.closed += 1,
            Command::Stopped { unfinished } => self.stopped = Some(*unfinished),
            Command::WakeAt(at) => self.timer = Some(*at),
        }
    }
}
