//! [`Program`]: the model of what a batch without blocks does. Records stay in a window for some intervals, and some
//! intervals after the last one something times out.

use dstreams_control::{BatchTime, Due};

use crate::ledger::Cut;

/// Lengths in intervals.
#[derive(Copy, Clone, Default, Debug)]
pub struct Program {
    pub window: u64,
    /// 0: nothing times out.
    pub timeout: u64,
}

impl Program {
    /// The last batch with blocks, the last batch in which they are in the window, and the one in which they time out.
    fn ends(&self, cuts: &[Cut], interval_ms: u64) -> Option<(u64, u64, u64)> {
        let last = cuts
            .iter()
            .rev()
            .find(|cut| !cut.blocks.is_empty())?
            .batch
            .0;
        let after = |intervals: u64| last.saturating_add(intervals.saturating_mul(interval_ms));
        Some((last, after(self.window), after(self.timeout)))
    }

    /// Whether a batch after these does something, without blocks.
    pub fn is_due(&self, cuts: &[Cut], interval_ms: u64, batch: BatchTime) -> bool {
        let ends = self.ends(cuts, interval_ms);
        ends.is_some_and(|(last, window, timeout)| {
            batch.0 > last && (batch.0 <= window || batch.0 == timeout)
        })
    }

    /// The first batches after these for which that holds.
    pub fn due(&self, cuts: &[Cut], interval_ms: u64) -> Option<Due> {
        let last_cut = cuts.last()?.batch.0;
        let (_, window, timeout) = self.ends(cuts, interval_ms)?;
        let due = |from, to| {
            Some(Due {
                from: BatchTime(from),
                to: BatchTime(to),
            })
        };
        match (window > last_cut, timeout > last_cut) {
            (true, _) => due(last_cut + interval_ms, window),
            (false, true) => due(timeout, timeout),
            (false, false) => None,
        }
    }
}
