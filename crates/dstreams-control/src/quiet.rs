//! [`Quiet`]: many missed intervals at once, and which of them need no batch.
//!
//! When the clock has passed many boundaries, one `Seal` is for all of them: what comes later belongs to the interval in
//! which it comes. A process that begins after a long downtime has nothing to seal. Of the intervals passed, those are
//! skipped that have no blocks and in which, as the node says, nothing happens by itself.

use crate::{BatchTime, Config, Due, Timestamp};

/// Whether it is known when the program next does something without new records, after the last cut.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Known {
    /// Not asked.
    No,
    /// Asked, not answered.
    Asked,
    Yes(Option<Due>),
}

/// Decides which missed intervals need no batch.
#[derive(Debug)]
pub(crate) struct Quiet {
    interval_ms: u64,
    /// Boundaries that may be missed without skipping any.
    skip_missed: Option<u64>,
    mark_intervals: bool,
    /// Boundaries up to this one need no `Seal` of their own.
    answered: Option<BatchTime>,
    last_cut: Option<BatchTime>,
    known: Known,
}

impl Quiet {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            interval_ms: config.interval_ms.max(1),
            skip_missed: config.skip_missed,
            mark_intervals: config.mark_intervals,
            answered: None,
            last_cut: None,
            known: Known::No,
        }
    }

    /// An earlier controller cut up to this batch.
    pub(crate) const fn resume_after(&mut self, cut: Option<BatchTime>) {
        self.last_cut = cut;
    }

    /// Everything that came up to `now` is in the batch `next` or was asked for with it.
    pub(crate) fn answer(&mut self, next: BatchTime, now: Timestamp) {
        let last = BatchTime::last_reached(now, self.interval_ms);
        let missed = last.0.saturating_sub(next.0) / self.interval_ms;
        let many = self.skip_missed.is_some_and(|most| missed > most);
        self.answered = many.then_some(last);
    }

    /// The clock may have stepped back: what it has not passed any more, nobody was asked for.
    pub(crate) fn observe(&mut self, now: Timestamp) {
        let passed = BatchTime::last_reached(now, self.interval_ms);
        self.answered = self.answered.map(|answered| answered.min(passed));
    }

    /// Whether this boundary needs no `Seal` of its own.
    pub(crate) fn is_answered(&self, next: BatchTime) -> bool {
        self.answered >= Some(next)
    }

    /// Whether the batch for this boundary depends on an answer.
    pub(crate) fn waits(&self, next: BatchTime) -> bool {
        self.is_answered(next) && self.last_cut.is_some() && !matches!(self.known, Known::Yes(_))
    }

    /// The batch after which to ask; once.
    pub(crate) fn ask(&mut self) -> Option<BatchTime> {
        if self.known != Known::No {
            return None;
        }
        self.known = Known::Asked;
        self.last_cut
    }

    /// The answer.
    pub(crate) fn answered_due(&mut self, after: BatchTime, due: Option<Due>) {
        if self.known == Known::Asked && self.last_cut == Some(after) {
            self.known = Known::Yes(due);
        }
    }

    /// The boundary at which something may happen, from `next` on, if no block is there; none at the end of time.
    pub(crate) fn skip_from(&self, next: BatchTime) -> Option<BatchTime> {
        let (Known::Yes(due), Some(answered)) = (self.known, self.answered) else {
            return Some(next);
        };
        if answered < next {
            return Some(next);
        }
        let due = due.and_then(|due| due.from.max(next).rounded_up(self.interval_ms));
        // What has come since is for the first interval after those passed.
        let new = match self.mark_intervals {
            true => Some(answered),
            false => answered.next(self.interval_ms),
        };
        [due, new].into_iter().flatten().min()
    }

    /// A batch was cut.
    pub(crate) fn cut(&mut self, batch: BatchTime, is_empty: bool) {
        self.last_cut = Some(batch);
        let still = match self.known {
            Known::Yes(None) => true,
            Known::Yes(Some(due)) => batch < due.from || batch < due.to,
            Known::No | Known::Asked => false,
        };
        if !(is_empty && still) {
            self.known = Known::No;
        }
    }
}
