//! One partition of a history: the rows of the last batches, as they are.

#[cfg(test)]
mod tests;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use dstreams_control::BatchTime;

use super::since_checkpoint::Changes;
use crate::encoding::dense;
use crate::error::{Error, Result};
use crate::plan::HistorySpec;
use crate::stream::history::Recall;

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
    /// By interval, then in order of batches; shared with snapshots that are being written.
    pieces: BTreeMap<i64, Vec<Arc<Piece>>>,
    /// The number of rows in them.
    rows: usize,
    /// The pieces of each batch, for the next checkpoint.
    changes: Changes<Vec<Arc<Piece>>>,
}

impl HistoryPartition {
    pub fn new(spec: Arc<HistorySpec>) -> Self {
        HistoryPartition {
            spec,
            version: None,
            pieces: BTreeMap::new(),
            rows: 0,
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

    /// Keeps the rows of a batch, and lets go of those that no reader needs any more.
    pub fn install(&mut self, batch: BatchTime, delta: &[RecordBatch]) -> Result<()> {
        // I7 (ARCHITECTURE.md): installed before.
        if self.version >= Some(batch) {
            return Ok(());
        }
        let rows = concat_batches(&self.spec.schema, delta)?;
        let count = rows.num_rows();
        let mut pieces = Vec::new();
        if count > 0 {
            pieces.push(Arc::new(Piece {
                interval: batch.millis() as i64,
                batch,
                rows: dense(&rows)?,
            }));
        }
        pieces.iter().cloned().for_each(|piece| self.add(piece));
        self.version = Some(batch);
        self.let_go(batch);
        self.changes.add(batch, count, self.rows, pieces);
        Ok(())
    }

    fn add(&mut self, piece: Arc<Piece>) {
        self.rows += piece.rows.num_rows();
        self.pieces.entry(piece.interval).or_default().push(piece);
    }

    fn let_go(&mut self, batch: BatchTime) {
        while let Some(first) = self.pieces.first_entry()
            && self.spec.lets_go(*first.key(), batch)
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
        };
        Ok(self.between(first, newest))
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
        let oldest = version.minus(self.spec.every_ms);
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
