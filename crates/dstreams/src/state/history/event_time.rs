//! Records by event time: on time, late or ahead.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use datafusion::arrow::array::{AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::Int64Type;
use dstreams_control::BatchTime;

use crate::error::Result;

/// The intervals that are complete: their records were released, and what comes of them is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Released {
    /// The last one with the version before the newest.
    pub before: i64,
    /// The last one with the newest version.
    pub now: i64,
}

impl Default for Released {
    fn default() -> Self {
        Released {
            before: i64::MIN,
            now: i64::MIN,
        }
    }
}

impl Released {
    /// A batch releases the interval that ended so long before it.
    pub fn next(self, batch: BatchTime, wait_ms: u64) -> Self {
        let complete = (batch.millis() as i64).saturating_sub_unsigned(wait_ms);
        Released {
            before: self.now,
            now: complete,
        }
    }
}

/// The records of a batch that belong to no interval that is waited for, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct OffTime {
    pub late: Option<RecordBatch>,
    pub ahead: Option<RecordBatch>,
}

/// The records of a batch by their interval, which is their first column.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// By interval, each in order of arrival.
    pub on_time: Vec<(i64, RecordBatch)>,
    pub off_time: OffTime,
}

impl Sorted {
    /// `rows`, which are of the interval in which they came.
    pub fn all(batch: BatchTime, rows: RecordBatch) -> Self {
        Sorted {
            on_time: vec![(batch.millis() as i64, rows)],
            off_time: OffTime::default(),
        }
    }

    /// `rows`, of which these intervals are on time.
    pub fn of(rows: &RecordBatch, on_time: RangeInclusive<i64>) -> Result<Self> {
        let intervals = rows.column(0).as_primitive::<Int64Type>().values();
        let (mut late, mut ahead) = (Vec::new(), Vec::new());
        let mut picks: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        let mut row = 0;
        // Most records come in runs of one interval.
        for run in intervals.chunk_by(|one, other| one == other) {
            let interval = run[0];
            let to = if interval < *on_time.start() {
                &mut late
            } else if interval > *on_time.end() {
                &mut ahead
            } else {
                picks.entry(interval).or_default()
            };
            let end = row + run.len() as u32;
            to.extend(row..end);
            row = end;
        }
        let take = |picks: Vec<u32>| -> Result<RecordBatch> {
            match picks.len() == rows.num_rows() {
                true => Ok(rows.clone()),
                false => Ok(take_record_batch(rows, &UInt32Array::from(picks))?),
            }
        };
        let some = |picks: Vec<u32>| match picks.is_empty() {
            true => Ok(None),
            false => take(picks).map(Some),
        };
        let off_time = OffTime {
            late: some(late)?,
            ahead: some(ahead)?,
        };
        let on_time = picks.into_iter();
        let on_time = on_time.map(|(interval, picks)| Ok((interval, take(picks)?)));
        Ok(Sorted {
            on_time: on_time.collect::<Result<_>>()?,
            off_time,
        })
    }
}
