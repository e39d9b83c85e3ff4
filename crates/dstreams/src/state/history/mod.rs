//! One partition of a history: the rows of the last batches, as they are.

mod event_time;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::error::DataFusionError;
use dstreams_control::{BatchTime, Due};

use super::since_checkpoint::Changes;
use crate::encoding::dense;
use crate::error::{Error, Result};
use crate::plan::HistorySpec;
use crate::stream::graph::View;
use crate::stream::history::Recall;

use event_time::{OffTime, Released, Sorted};
pub(super) use transfer::HistorySnapshot;

/// Rows of one batch that belong to one interval.
#[derive(Debug)]
struct Piece {
    /// The end of their interval, in milliseconds.
    interval: i64,
    /// The batch in which they came.
    batch: BatchTime,
    rows: RecordBatch,
}

/// One partition of a history.
pub(super) struct HistoryPartition {
    spec: Arc<HistorySpec>,
    version: Option<BatchTime>,
    /// The version before the newest, if this process installed that.
    before: Option<BatchTime>,
    /// By interval, then in order of batches; shared with snapshots that are being written.
    pieces: BTreeMap<i64, Vec<Arc<Piece>>>,
    /// The number of rows in them.
    rows: usize,
    /// The intervals that are complete, of records by event time.
    released: Released,
    /// The newest batch's records that are late or ahead; they are not exported. None if this process did not run it.
    off_time: Option<OffTime>,
    /// The pieces of each batch, for the next checkpoint.
    changes: Changes<Vec<Arc<Piece>>>,
}

impl HistoryPartition {
    pub fn new(spec: Arc<HistorySpec>) -> Self {
        HistoryPartition {
            spec,
            version: None,
            before: None,
            pieces: BTreeMap::new(),
            rows: 0,
            released: Released::default(),
            off_time: None,
            changes: Changes::default(),
        }
    }

    /// The history to which it belongs.
    pub fn spec(&self) -> Arc<HistorySpec> {
        Arc::clone(&self.spec)
    }

    /// The last installed batch.
    pub fn version(&self) -> Option<BatchTime> {
        self.version
    }

    /// The first batches after `after` with which its readers get rows, or with which rows leave its table, if its input
    /// has none. Its input has the next RDD with `next`.
    pub fn due(&self, after: BatchTime, next: BatchTime) -> Option<Due> {
        let version = self.version?;
        let millis = |batch: BatchTime| batch.millis() as i64;
        let time = |millis: i64| BatchTime(millis.max(0) as u64);
        let first_after = |after: i64| {
            let mut later = self.pieces.range(after.saturating_add(1)..);
            later.next().map(|(interval, _)| *interval)
        };
        let due = match self.spec.recall {
            // Each RDD has them until they have left.
            Recall::Last { length_ms } => Due {
                from: next,
                to: time(*self.pieces.last_key_value()?.0).plus(length_ms),
            },
            // The newest RDD is there again in each interval until the next one is.
            Recall::Newest => Due {
                from: after.plus(1),
                to: match self.pieces.contains_key(&millis(version)) {
                    true => version.plus(self.spec.every_ms),
                    false => after,
                },
            },
            Recall::Earlier { by_ms: ms } | Recall::Asked { length_ms: ms } => {
                let passed = millis(after).saturating_sub_unsigned(ms);
                Due::at(time(first_after(passed)?).plus(ms))
            }
            Recall::ByTime { wait_ms, .. } => {
                let interval = first_after(self.released.now)?;
                Due::at(time(interval.saturating_add_unsigned(wait_ms)).max(next))
            }
        };
        (due.to > after).then_some(due)
    }

    /// Keeps the rows of a batch, and lets go of those that no reader needs any more.
    pub fn install(&mut self, batch: BatchTime, delta: &[RecordBatch]) -> Result<()> {
        // I7 (ARCHITECTURE.md): installed before.
        if self.version >= Some(batch) {
            return self.recompute_off_time(batch, delta);
        }
        let rows = concat_batches(&self.spec.schema, delta)?;
        let (released, sorted) = match self.spec.recall {
            Recall::ByTime { wait_ms, .. } => {
                let released = self.released.next(batch, wait_ms);
                (released, self.sorted(batch, &rows)?)
            }
            _ => (self.released, Sorted::all(batch, rows)),
        };
        let mut kept = Vec::with_capacity(sorted.on_time.len());
        for (interval, rows) in sorted.on_time {
            if rows.num_rows() > 0 {
                kept.push(Arc::new(Piece {
                    interval,
                    batch,
                    rows: dense(&rows)?,
                }));
            }
        }
        let count = kept.iter().map(|piece| piece.rows.num_rows()).sum();
        self.before = self.version.replace(batch);
        self.released = released;
        self.off_time = Some(sorted.off_time);
        self.evict(batch);
        kept.iter().cloned().for_each(|piece| self.add(piece));
        self.changes.add(batch, count, self.rows, kept);
        Ok(())
    }

    /// The rows of a batch by interval.
    fn sorted(&self, batch: BatchTime, rows: &RecordBatch) -> Result<Sorted> {
        let Recall::ByTime { wait_ms, ahead_ms } = self.spec.recall else {
            return Ok(Sorted::default());
        };
        let batch = batch.millis() as i64;
        let first = batch.saturating_sub_unsigned(wait_ms);
        Sorted::of(rows, first..=batch.saturating_add_unsigned(ahead_ms))
    }

    /// Finds the records of the newest batch that are late or ahead if another process installed it.
    fn recompute_off_time(&mut self, batch: BatchTime, delta: &[RecordBatch]) -> Result<()> {
        let by_time = matches!(self.spec.recall, Recall::ByTime { .. });
        if by_time && self.version == Some(batch) && self.off_time.is_none() {
            let rows = concat_batches(&self.spec.schema, delta)?;
            let sorted = self.sorted(batch, &rows)?;
            self.off_time = Some(sorted.off_time);
        }
        Ok(())
    }

    fn add(&mut self, piece: Arc<Piece>) {
        self.rows += piece.rows.num_rows();
        self.pieces.entry(piece.interval).or_default().push(piece);
    }

    fn evict(&mut self, batch: BatchTime) {
        let by_time = matches!(self.spec.recall, Recall::ByTime { .. });
        while let Some(first) = self.pieces.first_entry()
            && match by_time {
                true => *first.key() <= self.released.before,
                false => self.spec.evicts(*first.key(), batch),
            }
        {
            let gone = first.remove();
            self.rows -= gone
                .iter()
                .map(|piece| piece.rows.num_rows())
                .sum::<usize>();
        }
    }

    /// The rows that the readers of the newest version get, the oldest first.
    pub fn read(&self) -> Result<Vec<RecordBatch>> {
        let Some(version) = self.version else {
            return Ok(Vec::new());
        };
        let newest = version.millis() as i64;
        let first = match self.spec.recall {
            Recall::Last { length_ms } => newest.saturating_sub_unsigned(length_ms) + 1,
            Recall::Newest => newest,
            Recall::Earlier { by_ms } => {
                let of = newest.saturating_sub_unsigned(by_ms);
                return Ok(self.between(of, of));
            }
            Recall::Asked { .. } => return Ok(Vec::new()),
            Recall::ByTime { wait_ms, .. } => return self.by_time(newest, wait_ms),
        };
        Ok(self.between(first, newest))
    }

    /// The rows of each view of records by event time: released, late and ahead.
    fn by_time(&self, newest: i64, wait_ms: u64) -> Result<Vec<RecordBatch>> {
        let Some(views) = &self.spec.views else {
            return Ok(Vec::new());
        };
        let off_time = self.off_time.as_ref().ok_or_else(|| {
            let version = self.version;
            let message =
                format!("late records are read at {version:?}, which this process did not run");
            DataFusionError::Internal(message)
        })?;
        let complete = newest.saturating_sub_unsigned(wait_ms);
        if let Some(readers) = &self.spec.off_time {
            let rows = |rows: &Option<RecordBatch>| rows.as_ref().map_or(0, RecordBatch::num_rows);
            readers.miss(rows(&off_time.late), rows(&off_time.ahead));
        }
        views.join(|view| match view {
            View::Released => Ok(self.between(complete, complete)),
            View::Late => Ok(off_time.late.iter().cloned().collect()),
            View::Ahead => Ok(off_time.ahead.iter().cloned().collect()),
            _ => Ok(Vec::new()),
        })
    }

    /// The rows of the intervals from `first` to `last`.
    fn between(&self, first: i64, last: i64) -> Vec<RecordBatch> {
        let pieces = self.pieces.range(first..=last);
        let pieces = pieces.flat_map(|(_, pieces)| pieces);
        pieces.map(|piece| piece.rows.clone()).collect()
    }

    /// The rows that can be asked for as of a committed batch, after a column with their batch times.
    pub fn table(&self, batch: BatchTime) -> Result<Vec<RecordBatch>> {
        let (Recall::Asked { length_ms }, Some(schema), Some(version)) =
            (self.spec.recall, &self.spec.table, self.version)
        else {
            return Ok(Vec::new());
        };
        let oldest = self.before.or(version.minus(self.spec.every_ms));
        if Some(batch) < oldest {
            return Err(Error::Version {
                asked: batch,
                oldest,
                newest: Some(version),
            });
        }
        let newest = version.min(batch).millis() as i64;
        let after = (batch.millis() as i64).saturating_sub_unsigned(length_ms);
        let pieces = self.pieces.range(after + 1..=newest.max(after + 1));
        let pieces = pieces.filter(|(interval, _)| **interval <= newest);
        let with_time = |piece: &Arc<Piece>| {
            let times = Int64Array::from_value(piece.interval, piece.rows.num_rows());
            let mut columns: Vec<ArrayRef> = vec![Arc::new(times)];
            columns.extend(piece.rows.columns().iter().cloned());
            Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
        };
        let pieces = pieces.flat_map(|(_, pieces)| pieces);
        pieces.map(with_time).collect()
    }
}
