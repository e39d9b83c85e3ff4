//! [`Intake`]: from boundaries and the receivers' reports to cuts.
//!
//! One `Seal` is outstanding at most. Every reported block stays in `fresh` until the next cut takes all of them,
//! so late reports need no special handling.

use std::collections::{BTreeMap, BTreeSet};

use crate::quiet::Quiet;
use crate::seq_set::SeqSet;
use crate::{BatchTime, BlockMeta, Config, Due, ReceiverId, Timestamp};

/// The batch that is being collected.
#[derive(Debug)]
struct Open {
    batch: BatchTime,
    /// Receivers that have not reported for it.
    silent: BTreeSet<ReceiverId>,
    /// Last batch only: when no source is waited for any longer, unless done (elapsed microseconds).
    sources_until: Option<u64>,
    /// Wait for reports after the `Seal`, or after `StopWaiting` (microseconds).
    report_wait: u64,
    /// Latest time of the cut (elapsed microseconds).
    until: u64,
}

/// Decides which blocks are in which batch.
#[derive(Debug)]
pub(crate) struct Intake {
    interval_ms: u64,
    mark_intervals: bool,
    report_timeout_us: u64,
    source_timeout_us: u64,
    final_timeout_us: u64,
    max_overdue: usize,
    /// The present receivers, each with the numbers of all blocks taken from it.
    receivers: BTreeMap<ReceiverId, SeqSet>,
    /// The receivers that have left.
    left_receivers: SeqSet,
    /// The first boundary without a batch; `None` before the start and at the end of time.
    next: Option<BatchTime>,
    /// The first boundary comes after this one.
    begin_after: Option<BatchTime>,
    quiet: Quiet,
    open: Option<Open>,
    /// Blocks reported and not yet in a cut.
    fresh: Vec<BlockMeta>,
    /// Reports that missed their cut.
    overdue: BTreeSet<(BatchTime, ReceiverId)>,
    /// The last batch is sealed (or there is none): none follows the open one.
    last_sealed: bool,
}

impl Intake {
    pub(crate) fn new(config: &Config) -> Self {
        let report_timeout_us = Timestamp::from_millis(config.report_timeout_ms.max(1)).0;
        Self {
            interval_ms: config.interval_ms.max(1),
            mark_intervals: config.mark_intervals,
            report_timeout_us,
            source_timeout_us: Timestamp::from_millis(config.source_timeout_ms).0,
            final_timeout_us: Timestamp::from_millis(config.final_report_timeout_ms)
                .0
                .max(report_timeout_us),
            max_overdue: config.max_overdue_reports,
            receivers: BTreeMap::new(),
            left_receivers: SeqSet::default(),
            next: None,
            begin_after: None,
            quiet: Quiet::new(config),
            open: None,
            fresh: Vec::new(),
            overdue: BTreeSet::new(),
            last_sealed: false,
        }
    }

    /// An earlier controller cut up to this batch, and left these blocks uncut.
    pub(crate) fn resume_after(
        &mut self,
        cut: Option<BatchTime>,
        begin_after: Option<BatchTime>,
        uncut: Vec<BlockMeta>,
    ) {
        self.next = cut.and_then(|cut| cut.next(self.interval_ms));
        self.begin_after = begin_after;
        self.quiet.resume_after(cut);
        self.fresh = uncut;
    }

    /// Boundaries start after `now`, or after those that an earlier controller cut.
    pub(crate) fn start(&mut self, receivers: Vec<ReceiverId>, now: Timestamp) {
        for receiver in receivers {
            self.joined(receiver);
        }
        match self.next {
            // The new receivers have nothing for intervals before them.
            Some(next) => self.quiet.answer(next, now),
            None => {
                let after = self
                    .begin_after
                    .map_or(now, |batch| now.max(batch.timestamp()));
                let first = BatchTime::first_after(after, self.interval_ms);
                let reached = BatchTime::last_reached(after, self.interval_ms);
                let marks = self.mark_intervals && after == now && reached.0 > 0;
                self.next = if marks { Some(reached) } else { first };
            }
        }
    }

    /// Adds a receiver, unless it has left: the next `Seal` includes it.
    pub(crate) fn joined(&mut self, receiver: ReceiverId) {
        if !self.left_receivers.contains(receiver.0) {
            self.receivers.entry(receiver).or_default();
        }
    }

    /// Removes a receiver, once. Of its uncut blocks, exactly `blocks` remain.
    pub(crate) fn left(&mut self, receiver: ReceiverId, blocks: Vec<BlockMeta>) {
        if self.is_done() || !self.left_receivers.insert(receiver.0) {
            return;
        }
        let mut seen = self.receivers.remove(&receiver).unwrap_or_default();
        let surviving: BTreeSet<u64> = blocks
            .iter()
            .filter(|block| block.id.receiver == receiver)
            .map(|block| block.id.seq)
            .collect();
        self.fresh
            .retain(|block| block.id.receiver != receiver || surviving.contains(&block.id.seq));
        for block in blocks {
            if block.id.receiver == receiver && seen.insert(block.id.seq) {
                self.fresh.push(block);
            }
        }
        self.overdue.retain(|&(_, owing)| owing != receiver);
        if let Some(open) = self.open.as_mut() {
            open.silent.remove(&receiver);
        }
    }

    /// Takes a report: new blocks go into the next cut, whichever batch the report is for.
    pub(crate) fn report(
        &mut self,
        batch: BatchTime,
        receiver: ReceiverId,
        blocks: Vec<BlockMeta>,
    ) {
        if self.is_done() || !self.receivers.contains_key(&receiver) {
            return;
        }
        for block in blocks {
            let seen = self.receivers.get_mut(&block.id.receiver);
            // I2 (ARCHITECTURE.md): a block that was reported before is not cut again.
            if seen.is_some_and(|seen| seen.insert(block.id.seq)) {
                self.fresh.push(block);
            }
        }
        self.overdue.remove(&(batch, receiver));
        if let Some(open) = self.open.as_mut().filter(|open| open.batch == batch) {
            open.silent.remove(&receiver);
        }
    }

    /// The time is `now`.
    pub(crate) fn observe(&mut self, now: Timestamp) {
        self.quiet.observe(now);
    }

    /// Begins the next batch if the clock has reached its boundary and no `Seal` is outstanding. Returns whether it is
    /// to be sealed; if not, it can be cut at once.
    pub(crate) fn begin_due(&mut self, now: Timestamp, passed: u64) -> Option<(BatchTime, bool)> {
        if self.open.is_some() || self.last_sealed || self.waits_for_due() {
            return None;
        }
        let next = self.next().filter(|next| next.timestamp() <= now)?;
        if self.quiet.is_answered(next) {
            let batch = self.seal(passed, 0)?;
            self.open.iter_mut().for_each(|open| open.silent.clear());
            return Some((batch, false));
        }
        let batch = self.seal(passed, self.report_timeout_us)?;
        self.quiet.answer(batch, now);
        Some((batch, true))
    }

    /// Whether the next batch depends on the answer to an `AskDue`.
    pub(crate) fn waits_for_due(&self) -> bool {
        self.open.is_none()
            && self.fresh.is_empty()
            && self.next.is_some_and(|next| self.quiet.waits(next))
    }

    /// All batches that were cut took effect: the batch after which to ask what is due, if that is to be asked now.
    pub(crate) fn ask_due(&mut self) -> Option<BatchTime> {
        if !self.waits_for_due() {
            return None;
        }
        self.quiet.ask()
    }

    /// The answer.
    pub(crate) fn due(&mut self, after: BatchTime, due: Option<Due>) {
        self.quiet.answered_due(after, due);
    }

    /// Seals the next boundary, ahead of the clock, as the last one; once, and when no `Seal` is outstanding. A
    /// later process must not use its name again: see [`Restored::begin_after`](crate::Restored::begin_after).
    pub(crate) fn seal_last(&mut self, passed: u64, deadline: Option<u64>) -> Option<BatchTime> {
        if self.last_sealed || self.open.is_some() {
            return None;
        }
        self.last_sealed = true;
        let sealed = self.seal(passed, self.final_timeout_us);
        let timeout = self.source_timeout_us;
        let sources_until =
            deadline.map_or(timeout, |deadline| deadline.saturating_sub(passed) / 2);
        if let Some(open) = &mut self.open {
            open.wait_for_sources_until(passed.saturating_add(sources_until));
        }
        sealed
    }

    /// A first or an earlier deadline was set.
    pub(crate) fn shorten(&mut self, passed: u64, deadline: u64) {
        let sources_until = passed.saturating_add(deadline.saturating_sub(passed) / 2);
        let open = self.open.as_mut();
        if let Some(open) =
            open.filter(|open| open.sources_until.is_some_and(|at| sources_until < at))
        {
            open.wait_for_sources_until(sources_until);
        }
    }

    /// Whether the receivers must now answer the last `Seal` without waiting for their sources; once.
    pub(crate) fn stop_waiting(&mut self, passed: u64) -> Option<BatchTime> {
        let open = self.open.as_mut()?;
        open.sources_until.take_if(|at| *at <= passed)?;
        Some(open.batch)
    }

    fn seal(&mut self, passed: u64, report_wait: u64) -> Option<BatchTime> {
        let batch = self.next()?;
        self.next = batch.next(self.interval_ms);
        self.open = Some(Open {
            batch,
            silent: self.receivers.keys().copied().collect(),
            sources_until: None,
            report_wait,
            until: passed.saturating_add(report_wait),
        });
        Some(batch)
    }

    /// Cuts the sealed batch if all have reported or its wait is over.
    pub(crate) fn cut(&mut self, passed: u64) -> Option<(BatchTime, Vec<BlockMeta>)> {
        let all_reported =
            |open: &Open| open.silent.is_empty() && (!self.last_sealed || self.overdue.is_empty());
        let open = self
            .open
            .take_if(|open| all_reported(open) || open.until <= passed)?;
        self.overdue.extend(
            open.silent
                .into_iter()
                .map(|receiver| (open.batch, receiver)),
        );
        while self.overdue.len() > self.max_overdue {
            self.overdue.pop_first();
        }
        let mut blocks = std::mem::take(&mut self.fresh);
        blocks.sort_unstable_by_key(|block| block.id);
        self.quiet.cut(open.batch, blocks.is_empty());
        Some((open.batch, blocks))
    }

    /// Whether a `Seal` is outstanding.
    pub(crate) const fn is_sealing(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the last cut was made.
    pub(crate) const fn is_done(&self) -> bool {
        self.last_sealed && self.open.is_none()
    }

    /// When the outstanding `Seal` needs action (elapsed microseconds).
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        let open = self.open.as_ref()?;
        Some(open.sources_until.unwrap_or(open.until))
    }

    /// The next boundary that gets a batch, as far as is known.
    pub(crate) fn next(&self) -> Option<BatchTime> {
        let next = self.next?;
        match self.fresh.is_empty() {
            true => self.quiet.skip_from(next),
            false => Some(next),
        }
    }

    /// Reports that missed their cut and are still missing.
    pub(crate) fn overdue(&self) -> usize {
        self.overdue.len()
    }
}

impl Open {
    fn wait_for_sources_until(&mut self, at: u64) {
        self.sources_until = Some(at);
        self.until = at.saturating_add(self.report_wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Even if many receivers are silent: the newest batches' reports are remembered.
    #[test]
    fn overdue_reports_are_bounded() {
        for bound in [0, 1, 3, 9] {
            let config = Config {
                max_overdue_reports: bound,
                ..Config::new(1000).unwrap()
            };
            let mut intake = Intake::new(&config);
            intake.start((0..5).map(ReceiverId).collect(), Timestamp(0));
            let mut overdue = 0;
            for second in 1..4u64 {
                let passed = second * 100_000_000_000;
                assert!(intake.begin_due(Timestamp(passed), passed).is_some());
                assert!(intake.cut(u64::MAX).is_some());
                overdue = bound.min(overdue + 5);
                assert_eq!(intake.overdue(), overdue, "{bound}");
                let newest = intake.overdue.last().copied();
                assert_eq!(
                    newest.map(|(_, receiver)| receiver),
                    (bound > 0).then_some(ReceiverId(4))
                );
            }
        }
    }
}
