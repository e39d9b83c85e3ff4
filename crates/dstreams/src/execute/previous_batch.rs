//! [`PreviousBatch`]: the batch before another one, by which a state knows that nothing is missing.
//!
//! Batches follow each other interval by interval, except where intervals were skipped. A state whose input has RDDs
//! less often has a batch at some of them only.

use dstreams_control::BatchTime;
use serde::{Deserialize, Serialize};

/// The batch before another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousBatch {
    pub batch: BatchTime,
    /// The first batch from which on no interval was skipped up to this one, as far as is known.
    since: BatchTime,
}

impl PreviousBatch {
    /// The last batch up to this one that is some multiples of `every_ms` before `batch`; none if that was before
    /// skipped intervals.
    pub fn in_steps(self, every_ms: u64, batch: BatchTime) -> Option<BatchTime> {
        let apart = batch.minus(self.batch.millis())?.millis();
        let last = batch.minus(apart.checked_next_multiple_of(every_ms)?)?;
        (last >= self.since).then_some(last)
    }
}

/// Follows the batches of a program in their order.
#[derive(Debug, Clone, Copy)]
pub struct BatchSequence {
    interval_ms: u64,
    last: Option<PreviousBatch>,
}

impl BatchSequence {
    /// After this batch; what was before it is not known.
    pub fn after(batch: Option<BatchTime>, interval_ms: u64) -> Self {
        let last = batch.map(|batch| PreviousBatch {
            batch,
            since: batch,
        });
        BatchSequence { interval_ms, last }
    }

    /// The next batch; returns the one before it.
    pub fn next(&mut self, batch: BatchTime) -> Option<PreviousBatch> {
        let before = self.last;
        let follows = before.filter(|before| before.batch.plus(self.interval_ms) >= batch);
        let since = follows.map_or(batch, |before| before.since);
        self.last = Some(PreviousBatch { batch, since });
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_may_have_been_no_batch_before_a_skip() {
        let mut batches = BatchSequence::after(Some(BatchTime(300)), 100);
        let mut before = |batch| {
            let before = batches.next(BatchTime(batch)).unwrap();
            [100, 200].map(|every| before.in_steps(every, BatchTime(batch)))
        };
        let time = |batch| Some(BatchTime(batch));
        assert_eq!(before(400), [time(300), None]);
        assert_eq!(before(500), [time(400), time(300)]);
        assert_eq!(before(20_100), [time(500), time(500)]);
        assert_eq!(before(20_200), [time(20_100), None]);
        assert_eq!(before(20_300), [time(20_200), time(20_100)]);
        assert_eq!(before(30_200), [time(20_300), time(20_200)]);
        assert_eq!(BatchSequence::after(None, 100).next(BatchTime(100)), None);
    }
}
