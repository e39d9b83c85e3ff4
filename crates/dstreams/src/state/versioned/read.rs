//! Reading: all rows at a version, the changes of a batch, and expiring keys.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, BooleanArray, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::interleave;
use dstreams_control::BatchTime;

use super::delta::Delta;
use super::keys::KeyColumns;
use super::partition::KeyedPartition;
use super::rows::{MaskedRows, RowChunk};
use super::segment::{Segment, place};
use super::shape::Shape;
use super::times::RowTimes;
use crate::error::{Error, Result};

impl KeyedPartition {
    /// All rows at a version: keys and values, in the order in which they were last changed (by batch, and within
    /// a batch by their place in its delta). The same versions give the same order, regardless of compaction,
    /// exports and restores; the split into batches may differ.
    ///
    /// Visits all rows.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] if the version is released or not there yet.
    pub fn read(&self, version: BatchTime) -> Result<Vec<RecordBatch>> {
        let pieces = self.pieces(version)?;
        let pieces = pieces.iter();
        pieces
            .map(|piece| piece.shown()?.batch(&self.shape))
            .collect()
    }

    /// All rows at a version, as a full delta.
    ///
    /// # Errors
    ///
    /// Those of [`KeyedPartition::read`].
    pub fn snapshot(&self, version: BatchTime) -> Result<Delta> {
        let changed = self.pieces(version)?;
        let changed = changed.iter().map(MaskedRows::shown);
        let changed = changed.collect::<Result<Vec<_>>>()?;
        Ok(Delta {
            hashes: changed.iter().map(|piece| piece.keys.hashes()).collect(),
            shape: Arc::clone(&self.shape),
            batch: version,
            on: None,
            whole: true,
            changed,
            deleted: Vec::new(),
        })
    }

    /// The changes and deletions of a batch, in the order of its delta; empty if it installed nothing. The version
    /// on which they build is not recorded.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] if the batch is not above the low watermark, or not installed yet.
    pub fn changes(&self, batch: BatchTime) -> Result<Delta> {
        self.check_version(batch)?;
        if self.low == Some(batch) {
            return Err(Error::Version {
                asked: batch,
                oldest: self.low,
                newest: self.version,
            });
        }
        let (mut changed, mut deleted) = (Vec::new(), Vec::new());
        for segment in self.after(|segment| segment.batch < batch) {
            if segment.batch > batch {
                break;
            }
            match segment.deleted {
                true => deleted.push(segment.piece.clone()),
                false => changed.push(segment.piece.clone()),
            }
        }
        let pieces = changed.iter().chain(&deleted);
        Ok(Delta {
            hashes: pieces.map(|piece| piece.keys.hashes()).collect(),
            shape: Arc::clone(&self.shape),
            batch,
            on: None,
            whole: false,
            changed,
            deleted,
        })
    }

    /// The unsettled segments from the first that is not `before`.
    pub(super) fn after(
        &self,
        before: impl Fn(&Segment) -> bool,
    ) -> impl Iterator<Item = &Segment> {
        let from = self
            .unsettled
            .partition_point(|slot| self.segment(*slot).is_some_and(&before));
        let slots = self.unsettled.range(from..);
        slots.filter_map(|slot| self.segment(*slot))
    }

    /// The rows at a version, by age; rows are shared.
    pub(super) fn pieces(&self, version: BatchTime) -> Result<Vec<MaskedRows>> {
        self.check_version(version)?;
        // Rows that were superseded only after the version.
        let mut still: HashMap<usize, Vec<usize>> = HashMap::new();
        for segment in self.after(|segment| segment.batch <= version) {
            for before in segment.before.iter().flatten() {
                let (slot, row) = place(*before);
                still.entry(slot).or_default().push(row);
            }
        }
        let mut pieces = Vec::new();
        for slot in self.ages.values() {
            let Some(segment) = self.segment(*slot) else {
                continue;
            };
            if segment.batch > version || segment.deleted {
                continue;
            }
            let still = still.get(&(*slot as usize)).map_or(&[][..], Vec::as_slice);
            let piece = match segment.superseded_rows - still.len() {
                0 => MaskedRows::all(segment.piece.clone()),
                hidden if hidden == segment.rows() => continue,
                _ => visible(segment, still),
            };
            let row = segment.key_bytes + segment.value_bytes;
            self.work.read(segment.rows(), segment.rows() * row);
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// When the first row of the newest version is due; none if there are none.
    pub fn due(&self) -> Option<BatchTime> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The rows of the newest version that are due at `until` or before: keys and values, in the order of
    /// [`KeyedPartition::read`]. They stay until a delta deletes them.
    ///
    /// Visits these, superseded rows among them, and their segments; nothing that does not expire. Sorts them.
    pub fn expired(&self, until: BatchTime) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for (_, slot) in self.due.range(..=(until, u32::MAX)) {
            if let Some(segment) = self.segment(*slot) {
                let before = rows.len();
                let expired = segment.expired(until);
                rows.extend(expired.map(|row| (segment.age, *slot, row)));
                bytes += (rows.len() - before) * (segment.key_bytes + segment.value_bytes);
            }
        }
        self.work.read(rows.len(), bytes);
        rows.sort_unstable();
        let chunks = rows.chunks(self.sizes.segment);
        chunks.map(|rows| self.gather(rows)).collect()
    }

    /// The same as of a version, which need not be the newest. Visits all rows.
    ///
    /// # Errors
    ///
    /// Those of [`KeyedPartition::read`].
    pub fn expired_at(&self, until: BatchTime, version: BatchTime) -> Result<Vec<RecordBatch>> {
        let pieces = self.pieces(version)?;
        let expired = pieces.iter().map(|piece| {
            let rows = piece.shown()?;
            let due = (0..rows.rows()).map(|row| Some(rows.times.due(row) <= until));
            rows.shown(&due.collect())?.batch(&self.shape)
        });
        expired.collect()
    }

    /// The rows with these ages, slots and places.
    fn gather(&self, rows: &[(u64, u32, usize)]) -> Result<RecordBatch> {
        let mut segments: Vec<&Segment> = Vec::new();
        let mut at = Vec::with_capacity(rows.len());
        for (age, slot, row) in rows {
            if segments.last().is_none_or(|last| last.age != *age) {
                segments.extend(self.segment(*slot));
            }
            at.push((segments.len().saturating_sub(1), *row));
        }
        copy_rows(&self.shape, &segments, &at)?.batch(&self.shape)
    }
}

/// Copies rows of segments, each given by the index of its segment and its place there. Strings still point into
/// the segments' buffers.
pub(super) fn copy_rows(
    shape: &Shape,
    segments: &[&Segment],
    at: &[(usize, usize)],
) -> Result<RowChunk> {
    let columns = segments.first().map_or(0, |first| first.piece.values.len());
    let keys: Vec<&dyn Array> = segments
        .iter()
        .map(|segment| segment.piece.keys.array().as_ref())
        .collect();
    let mut values = Vec::with_capacity(columns);
    for column in 0..columns {
        let sources = segments.iter();
        let sources: Vec<&dyn Array> = sources
            .map(|segment| segment.piece.values[column].as_ref())
            .collect();
        values.push(interleave(&sources, at)?);
    }
    let times: Vec<&RowTimes> = segments
        .iter()
        .map(|segment| &segment.piece.times)
        .collect();
    Ok(RowChunk {
        keys: KeyColumns::new(interleave(&keys, at)?)?,
        values,
        times: RowTimes::gather(shape, &times, at),
    })
}

/// The rows of a segment that are not superseded, or `still` visible nevertheless.
fn visible(segment: &Segment, still: &[usize]) -> MaskedRows {
    let mut hidden = segment.superseded.clone();
    still.iter().for_each(|row| hidden.remove(*row));
    let mask = BooleanBuffer::collect_bool(segment.rows(), |row| !hidden.has(row));
    MaskedRows {
        piece: segment.piece.clone(),
        rows: Some(BooleanArray::new(mask, None)),
    }
}
