//! Event time: the interval that a record belongs to by its own time, and whether it arrives in time.

use std::marker::PhantomData;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use super::record::{ColumnReader, Columns, Record};
use super::rejects::OffTimeReaders;
use super::rows::{Closure, RowsFn, RowsTask};
use crate::error::Result;

/// Intervals of event time, and when their results are emitted and final. All in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IntervalRule {
    /// The length of an interval.
    pub every: i64,
    /// The time that a result covers, up to the end of its interval: some intervals.
    pub over: i64,
    /// From the end of an interval to its first result.
    pub slack: i64,
    /// From the first result to the final one.
    pub correct: i64,
    /// How far the end of an interval may be ahead of the batch.
    pub ahead: i64,
}

/// The flag of the version of a result that is final, while later results need the records of its interval.
pub(crate) const ENDED: u32 = 1 << 31;

/// Whether a record arrives in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    InTime,
    /// Its interval is final.
    Late,
    /// Its interval is too far in the future.
    Ahead,
}

impl IntervalRule {
    /// The end of the interval of a time.
    pub fn interval_of(&self, time: i64) -> i64 {
        let number = time.div_euclid(self.every).saturating_add(1);
        number.saturating_mul(self.every)
    }

    /// How a record of an interval arrives in a batch.
    pub fn arrival(&self, interval: i64, batch: BatchTime) -> Arrival {
        let batch = millis(batch);
        if self.final_at(interval) < batch {
            Arrival::Late
        } else if interval > batch.saturating_add(self.ahead) {
            Arrival::Ahead
        } else {
            Arrival::InTime
        }
    }

    /// The batch with the first results of an interval.
    pub fn first_result_at(&self, interval: i64) -> i64 {
        interval.saturating_add(self.slack)
    }

    /// The batch with the final results of an interval.
    pub fn final_at(&self, interval: i64) -> i64 {
        self.first_result_at(interval).saturating_add(self.correct)
    }

    /// The batch with the final results of the last interval that covers an interval.
    pub fn dropped_at(&self, interval: i64) -> i64 {
        self.final_at(interval)
            .saturating_add(self.over - self.every)
    }

    /// The number of intervals that a result covers.
    pub fn panes(&self) -> i64 {
        self.over / self.every
    }

    /// Whether a batch has first results: those of an interval whose slack ends with it, and of earlier intervals
    /// that a longer slack of an earlier run left.
    pub fn has_first_results(&self, batch: BatchTime) -> bool {
        (millis(batch) - self.slack).rem_euclid(self.every) == 0
    }

    /// Whether a batch has final results.
    pub fn ends(&self, batch: BatchTime) -> bool {
        (millis(batch) - self.slack - self.correct).rem_euclid(self.every) == 0
    }

    /// The batch at which something happens next to a result of an interval, given its version so far.
    pub fn due(&self, interval: i64, version: u32) -> BatchTime {
        let at = match version {
            0 => self.first_result_at(interval),
            version if version & ENDED > 0 => self.dropped_at(interval),
            _ => self.final_at(interval),
        };
        BatchTime(at.max(0) as u64)
    }
}

/// A batch time as a time of records.
pub(crate) fn millis(batch: BatchTime) -> i64 {
    i64::try_from(batch.millis()).unwrap_or(i64::MAX)
}

/// Selects the records that arrive in one way, behind the end of their interval.
pub(super) struct Arrivals<V, F> {
    pub time: Arc<F>,
    pub rule: IntervalRule,
    pub wanted: Arrival,
    /// Columns before the value's.
    pub skip: usize,
    /// The interval, then the columns of the input.
    pub schema: SchemaRef,
    /// Only where records in time are selected.
    pub off_time: Option<OffTimeReaders>,
    pub value: PhantomData<fn() -> V>,
}

struct ArrivalsTask<V, F> {
    of: Arrivals<V, F>,
    batch: BatchTime,
    late: usize,
    ahead: usize,
}

impl<V: Record, F: for<'a> Fn(V::Ref<'a>) -> i64 + Closure> RowsFn for Arrivals<V, F> {
    fn start(&self, batch: BatchTime) -> Box<dyn RowsTask> {
        Box::new(ArrivalsTask {
            of: Arrivals::<V, F> {
                time: Arc::clone(&self.time),
                rule: self.rule,
                wanted: self.wanted,
                skip: self.skip,
                schema: Arc::clone(&self.schema),
                off_time: self.off_time.clone(),
                value: PhantomData,
            },
            batch,
            late: 0,
            ahead: 0,
        })
    }
}

impl<V: Record, F: for<'a> Fn(V::Ref<'a>) -> i64 + Closure> RowsTask for ArrivalsTask<V, F> {
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        let (of, rows) = (&self.of, input.num_rows());
        let mut reader = ColumnReader::new(&input.columns()[of.skip..]);
        let values = V::Cols::try_new(&mut reader)?;
        let interval = |row| of.rule.interval_of((of.time)(values.get(row)));
        let all: Vec<i64> = (0..rows).map(interval).collect();
        let wanted = BooleanBuffer::collect_bool(rows, |row| {
            let arrival = of.rule.arrival(all[row], self.batch);
            self.late += usize::from(arrival == Arrival::Late);
            self.ahead += usize::from(arrival == Arrival::Ahead);
            arrival == of.wanted
        });
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(all))];
        columns.extend(input.columns().iter().cloned());
        let selected = RecordBatch::try_new(Arc::clone(&of.schema), columns)?;
        let selected = match wanted.count_set_bits() {
            count if count == rows => selected,
            _ => filter_record_batch(&selected, &BooleanArray::new(wanted, None))?,
        };
        Ok((selected, rows))
    }
}

impl<V, F> Drop for ArrivalsTask<V, F> {
    fn drop(&mut self) {
        if let Some(off_time) = &self.of.off_time {
            off_time.miss(self.late, self.ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: IntervalRule = IntervalRule {
        every: 1000,
        over: 3000,
        slack: 2000,
        correct: 3000,
        ahead: 1000,
    };

    #[test]
    fn an_interval_is_named_by_its_end() {
        let times = [0, 999, 1000, 10_400, -1, -1000, -1001];
        let ends = times.map(|time| RULE.interval_of(time));
        assert_eq!(ends, [1000, 1000, 2000, 11_000, 0, 0, -1000]);
        assert_eq!(RULE.interval_of(i64::MAX), i64::MAX);
        assert!(RULE.interval_of(i64::MIN) < i64::MIN + 1000);
    }

    #[test]
    fn something_happens_to_a_result_at_most_three_times() {
        let due = [0, 1, 7, 7 | ENDED].map(|version| RULE.due(11_000, version).millis());
        assert_eq!(due, [13_000, 16_000, 16_000, 18_000]);
        assert_eq!(RULE.due(-9000, 0), BatchTime(0));
    }

    #[test]
    fn a_record_is_late_once_its_interval_is_final() {
        let arrivals = [10, 11, 16, 17].map(|s| RULE.arrival(11_000, BatchTime(s * 1000)));
        let [first, on, last, after] = arrivals;
        assert_eq!([first, on, last], [Arrival::InTime; 3]);
        assert_eq!(after, Arrival::Late);
        assert_eq!(RULE.arrival(11_000, BatchTime(9000)), Arrival::Ahead);
        assert_eq!(RULE.arrival(i64::MAX, BatchTime(9000)), Arrival::Ahead);
        assert_eq!(
            RULE.arrival(RULE.interval_of(i64::MIN), BatchTime(9000)),
            Arrival::Late
        );
    }
}
