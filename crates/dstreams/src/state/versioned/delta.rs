//! [`Delta`]: the changes of one batch to a partition of a state.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::util::display::array_value_to_string;
use dstreams_control::BatchTime;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::keys::KeyColumns;
use super::rows::RowChunk;
use super::shape::Shape;
use super::times::{EventTimes, RowTimes, TimeColumn};
use crate::error::{Error, Result};

/// The rows of the keys that one batch changed and the keys that it deleted, each key once.
///
/// Validated when created, and immutable: so installing it can only fail because of its place among batches.
/// Strings are copied out of shared buffers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Delta {
    pub(super) shape: Arc<Shape>,
    pub(super) batch: BatchTime,
    pub(super) on: Option<BatchTime>,
    pub(super) whole: bool,
    pub(super) changed: Vec<RowChunk>,
    pub(super) deleted: Vec<RowChunk>,
    /// The hashes of the keys of changed pieces, then of deleted ones.
    pub(super) hashes: Vec<Vec<u64>>,
}

impl Delta {
    /// The changes of `batch`: `rows` have the state's columns; `last` is the batch of each key's last event, by
    /// default this one; `deleted` has the key columns of keys to delete (or is empty). A deleted key need not
    /// exist.
    ///
    /// Costs two hash lookups per key in a table of this delta's size.
    ///
    /// # Errors
    ///
    /// [`Error::Duplicate`] if a key occurs twice, [`Error::Schema`] if columns do not match the state, or a last
    /// event has no batch or a later one.
    pub fn new(
        shape: &Arc<Shape>,
        batch: BatchTime,
        rows: &RecordBatch,
        last: Option<&UInt64Array>,
        deleted: &[ArrayRef],
    ) -> Result<Self> {
        let last = match last {
            None => TimeColumn::Same(batch),
            Some(last) => last_of(batch, last, rows.num_rows())?,
        };
        let times = RowTimes::new(shape, last);
        Delta::of_rows(shape, batch, rows, times, deleted)
    }

    /// The same with all times of the keys; as many of each as there are rows.
    pub(in crate::state) fn of_events(
        shape: &Arc<Shape>,
        batch: BatchTime,
        rows: &RecordBatch,
        times: EventTimes,
        deleted: &[ArrayRef],
    ) -> Result<Self> {
        let times = RowTimes::of_events(shape, batch, times);
        Delta::of_rows(shape, batch, rows, times, deleted)
    }

    fn of_rows(
        shape: &Arc<Shape>,
        batch: BatchTime,
        rows: &RecordBatch,
        times: RowTimes,
        deleted: &[ArrayRef],
    ) -> Result<Self> {
        let rows = shape.rows(rows.columns().to_vec())?;
        let mut changed = vec![RowChunk::new(shape, &rows, times)?];
        let mut keys = Vec::new();
        if !deleted.is_empty() {
            shape.key_rows(deleted.to_vec())?;
            keys.push(RowChunk::of_keys(shape, deleted, batch)?);
        }
        changed.retain(|piece| piece.rows() > 0);
        keys.retain(|piece| piece.rows() > 0);
        Delta::of_pieces(shape, batch, changed, keys)
    }

    /// The changes of `batch`, whose keys are known to be distinct, with their hashes.
    pub(super) fn of_distinct(
        shape: &Arc<Shape>,
        batch: BatchTime,
        rows: &RecordBatch,
        hashes: Vec<u64>,
    ) -> Result<Self> {
        let rows = shape.rows(rows.columns().to_vec())?;
        let there = rows.num_rows() > 0;
        let times = RowTimes::new(shape, TimeColumn::Same(batch));
        let piece = there.then(|| RowChunk::new(shape, &rows, times));
        Ok(Delta {
            shape: Arc::clone(shape),
            batch,
            on: None,
            whole: false,
            changed: piece.into_iter().collect::<Result<_>>()?,
            deleted: Vec::new(),
            hashes: there.then_some(hashes).into_iter().collect(),
        })
    }

    pub(super) fn of_pieces(
        shape: &Arc<Shape>,
        batch: BatchTime,
        changed: Vec<RowChunk>,
        deleted: Vec<RowChunk>,
    ) -> Result<Self> {
        let hashes = changed.iter().chain(&deleted);
        let delta = Delta {
            hashes: hashes.map(|piece| piece.keys.hashes()).collect(),
            shape: Arc::clone(shape),
            batch,
            on: None,
            whole: false,
            changed,
            deleted,
        };
        delta.check_once()?;
        Ok(delta)
    }

    /// The same, only for a state at version `on`: elsewhere, installing it is an error. Otherwise (and for the
    /// first delta) the version is not checked.
    pub fn on(mut self, on: BatchTime) -> Self {
        self.on = Some(on);
        self
    }

    /// The batch that made these changes, and the version after them.
    pub fn batch(&self) -> BatchTime {
        self.batch
    }

    /// The version on which they build, if given.
    pub fn built_on(&self) -> Option<BatchTime> {
        self.on
    }

    /// Whether this is a full state, to start with.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The number of rows, and of deleted keys.
    pub fn len(&self) -> (usize, usize) {
        let rows = |pieces: &[RowChunk]| pieces.iter().map(RowChunk::rows).sum();
        (rows(&self.changed), rows(&self.deleted))
    }

    /// Whether it changes nothing but the version.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// The rows: keys and values.
    pub fn rows(&self) -> Result<Vec<RecordBatch>> {
        let pieces = self.changed.iter();
        pieces.map(|piece| piece.batch(&self.shape)).collect()
    }

    /// The batch of the last event of each row's key, in the order of the rows.
    pub fn last(&self) -> Vec<UInt64Array> {
        let pieces = self.changed.iter();
        pieces
            .map(|piece| piece.times.last.column(piece.rows()))
            .collect()
    }

    /// The deleted keys.
    pub fn deleted(&self) -> Result<Vec<RecordBatch>> {
        let pieces = self.deleted.iter().map(|piece| {
            let columns = self.shape.key_columns(&piece.keys)?;
            self.shape.key_rows(columns)
        });
        pieces.collect()
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &RowChunk> {
        self.changed.iter().chain(&self.deleted)
    }

    fn check_once(&self) -> Result<()> {
        let keys: Vec<&KeyColumns> = self.pieces().map(|piece| &piece.keys).collect();
        let rows = keys.iter().map(|keys| keys.len()).sum();
        let mut seen: HashTable<(u32, u32)> = HashTable::with_capacity(rows);
        for (piece, hashes) in self.hashes.iter().enumerate() {
            for (row, hash) in hashes.iter().enumerate() {
                let same = |at: &(u32, u32)| {
                    let theirs = keys[at.0 as usize];
                    theirs.equal(at.1 as usize, keys[piece], row)
                };
                let hash_of = |at: &(u32, u32)| self.hashes[at.0 as usize][at.1 as usize];
                match seen.entry(*hash, same, hash_of) {
                    Entry::Vacant(entry) => entry.insert((piece as u32, row as u32)),
                    Entry::Occupied(_) => return Err(self.twice(keys[piece], row)),
                };
            }
        }
        Ok(())
    }

    fn twice(&self, keys: &KeyColumns, row: usize) -> Error {
        let text = KeyColumns::new(keys.array().slice(row, 1))
            .and_then(|key| self.shape.key_columns(&key))
            .and_then(|columns| {
                let texts = columns.iter().map(|key| array_value_to_string(key, 0));
                Ok(texts.collect::<Result<Vec<_>, _>>()?.join(", "))
            });
        Error::Duplicate {
            batch: self.batch,
            key: text.unwrap_or_else(|error| format!("unprintable: {error}")),
        }
    }
}

/// The batches of last events; none may be missing or later than the delta's batch.
pub(super) fn last_of(batch: BatchTime, last: &UInt64Array, rows: usize) -> Result<TimeColumn> {
    let wrong = |found: String| Error::Schema {
        what: "last events of a state's keys".into(),
        expected: format!("a batch for each of {rows} rows, {batch} at most"),
        found,
    };
    if last.len() != rows || last.null_count() > 0 {
        let nulls = last.null_count();
        return Err(wrong(format!("{} with {nulls} missing", last.len())));
    }
    match last.values().iter().find(|time| **time > batch.millis()) {
        Some(late) => Err(wrong(BatchTime(*late).to_string())),
        None => Ok(TimeColumn::of(last.values().to_vec().into())),
    }
}
