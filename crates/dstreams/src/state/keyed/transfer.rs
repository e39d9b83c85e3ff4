//! Deltas and whole partitions as bytes, and back.
//!
//! A delta: its batch, flags (1: it says what it was built on, 2: it is whole), what it was built on
//! or 0 (`u64` each); then two Arrow IPC streams, each after its length: its rows (keys, values, last
//! event), and the keys it deletes. A partition: flags (1: it has a version, 2: it has a low
//! watermark), version, low watermark, the number of deltas; then each delta, sealed, after its
//! length: what is there at the low watermark as a whole one, then one for each batch above. The
//! frame is that of [`Format`]. Caches are made anew, so bytes that lie cannot make a partition
//! whose pieces do not fit each other.

use std::sync::Arc;

use bytes::Buf;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt64Type;
use dstreams_control::BatchTime;

use super::delta::{Delta, last_of};
use super::partition::KeyedPartition;
use super::piece::Piece;
use super::shape::Shape;
use crate::error::Result;
use crate::replicate::{Format, read_batches, write_batches};
use crate::state::bytes::{put_bytes, put_number};
use crate::state::columns::read_partial;

pub(super) const DELTA: Format = Format {
    what: "changes of a keyed state",
    magic: *b"dstr-kdl",
    version: 1,
};

pub(super) const PARTITION: Format = Format {
    what: "a partition of a keyed state",
    magic: *b"dstr-kst",
    version: 1,
};

impl Delta {
    /// The bytes of it, of the length of its columns and some hundred.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let of = (self.batch, self.on, self.whole);
        delta_bytes(&self.shape, of, &self.changed, &self.deleted)
    }

    /// The delta of such bytes, for a state with columns `shape`.
    ///
    /// # Errors
    ///
    /// [`Error::Bytes`](crate::Error::Bytes), [`Error::Schema`](crate::Error::Schema) or
    /// [`Error::Duplicate`](crate::Error::Duplicate): any other bytes are one, be they damaged, of
    /// another format or state, or made up.
    pub fn from_bytes(shape: &Arc<Shape>, bytes: &[u8]) -> Result<Self> {
        let mut from = DELTA.open(bytes)?;
        let batch = BatchTime(number(&DELTA, &mut from)?);
        let flags = number(&DELTA, &mut from)?;
        let on = number(&DELTA, &mut from)?;
        let rows = part(&DELTA, &mut from)?;
        let keys = part(&DELTA, &mut from)?;
        end(&DELTA, from)?;
        let mut changed = Vec::new();
        for rows in read_partial(DELTA.what, rows, &shape.row_schema(), shape.highs())? {
            let Some((last, columns)) = rows.columns().split_last() else {
                continue;
            };
            let last = last_of(batch, last.as_primitive::<UInt64Type>(), last.len())?;
            let rows = shape.rows(columns.to_vec())?;
            changed.push(Piece::new(shape, &rows, last)?);
        }
        let mut deleted = Vec::new();
        for keys in read_batches(DELTA.what, keys, shape.key_schema())? {
            deleted.push(Piece::of_keys(shape, keys.columns(), batch)?);
        }
        changed.retain(|piece| piece.rows() > 0);
        deleted.retain(|piece| piece.rows() > 0);
        let mut delta = Delta::of_pieces(shape, batch, changed, deleted)?;
        delta.whole = flags & 2 > 0;
        delta.on = (flags & 1 > 0).then_some(BatchTime(on));
        let lie = flags > 3 || on > 0 && flags & 1 == 0;
        let backward = delta.on.is_some_and(|on| on >= batch);
        match lie || backward || delta.whole && (flags & 1 > 0 || !delta.deleted.is_empty()) {
            true => Err(DELTA.wrong(format!("flags {flags} and version {on} do not fit them"))),
            false => Ok(delta),
        }
    }
}

impl KeyedPartition {
    /// All versions that can be read, and what changed between them, as bytes.
    ///
    /// Costs as much as the state has rows; bytes are in memory as a whole.
    pub fn export(&self) -> Result<Vec<u8>> {
        let mut deltas = Vec::new();
        if let Some(low) = self.low {
            deltas.push(self.snapshot(low)?);
        }
        let mut last = self.low;
        for segment in self.after(|segment| Some(segment.batch) <= self.low) {
            if Some(segment.batch) > last {
                deltas.push(self.changes(segment.batch)?);
                last = Some(segment.batch);
            }
        }
        let mut bytes = PARTITION.begin(0);
        let flags = u64::from(self.version.is_some()) | u64::from(self.low.is_some()) << 1;
        put_number(&mut bytes, flags);
        put_number(&mut bytes, self.version.map_or(0, |version| version.0));
        put_number(&mut bytes, self.low.map_or(0, |low| low.0));
        put_number(&mut bytes, deltas.len() as u64);
        for delta in deltas {
            put_bytes(&mut bytes, &delta.to_bytes()?);
        }
        Ok(PARTITION.seal(bytes))
    }

    /// The partition that was exported: the same versions, rows and order, and it goes on the same.
    ///
    /// # Errors
    ///
    /// Those of [`Delta::from_bytes`]: any other bytes are one.
    pub fn import(shape: Arc<Shape>, bytes: &[u8]) -> Result<Self> {
        KeyedPartition::new(shape).filled(bytes)
    }

    /// This empty partition with what was exported.
    pub(super) fn filled(mut self, bytes: &[u8]) -> Result<Self> {
        let mut from = PARTITION.open(bytes)?;
        let flags = number(&PARTITION, &mut from)?;
        let version = BatchTime(number(&PARTITION, &mut from)?);
        let low = BatchTime(number(&PARTITION, &mut from)?);
        let version = (flags & 1 > 0).then_some(version);
        let low = (flags & 2 > 0).then_some(low);
        let lie = |what: String| PARTITION.wrong(format!("{what} does not fit them"));
        if flags > 3 || low > version {
            return Err(lie(format!("low watermark {low:?} of version {version:?}")));
        }
        let deltas = number(&PARTITION, &mut from)?;
        for place in 0..deltas {
            let delta = part(&PARTITION, &mut from)?;
            let delta = Delta::from_bytes(&self.shape, delta)?;
            let first = low.filter(|_| place == 0);
            let batch = delta.batch();
            let starts = delta.is_whole() == first.is_some();
            let fits = starts && first.is_none_or(|low| low == batch) && Some(batch) <= version;
            if !fits || !self.install(&delta)? {
                return Err(lie(format!("batch {batch}")));
            }
        }
        end(&PARTITION, from)?;
        if self.low != low {
            return Err(lie(format!("low watermark {low:?}")));
        }
        // The last batches may have changed nothing.
        self.version = version;
        Ok(self)
    }
}

/// The bytes of a delta: its batch, what it was built on, whether it is whole; its pieces.
pub(super) fn delta_bytes(
    shape: &Shape,
    (batch, on, whole): (BatchTime, Option<BatchTime>, bool),
    changed: &[Piece],
    deleted: &[Piece],
) -> Result<Vec<u8>> {
    let mut bytes = DELTA.begin(0);
    put_number(&mut bytes, batch.0);
    put_number(&mut bytes, u64::from(on.is_some()) | u64::from(whole) << 1);
    put_number(&mut bytes, on.map_or(0, |on| on.0));
    let schema = shape.row_schema();
    let rows = changed.iter().map(|piece| {
        let mut columns = piece.batch(shape)?.columns().to_vec();
        columns.push(Arc::new(piece.last()));
        Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    put_part(&mut bytes, |part| write_batches(part, &schema, &rows))?;
    let keys = deleted.iter().map(|piece| {
        let columns = shape.key_columns(&piece.keys)?;
        shape.key_rows(columns)
    });
    let keys = keys.collect::<Result<Vec<_>>>()?;
    put_part(&mut bytes, |part| {
        write_batches(part, shape.key_schema(), &keys)
    })?;
    Ok(DELTA.seal(bytes))
}

/// Appends what `write` appends, after its length.
fn put_part(to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let head = to.len();
    put_number(to, 0);
    write(to)?;
    let length = (to.len() - head - 8) as u64;
    to[head..head + 8].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn number(format: &Format, from: &mut &[u8]) -> Result<u64> {
    from.try_get_u64_le()
        .map_err(|error| format.wrong(error.to_string()))
}

fn part<'a>(format: &Format, from: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = usize::try_from(number(format, from)?).ok();
    let split = length.and_then(|length| from.split_at_checked(length));
    let (part, rest) = split.ok_or_else(|| format.wrong("a part is longer than they are"))?;
    *from = rest;
    Ok(part)
}

fn end(format: &Format, from: &[u8]) -> Result<()> {
    match from.len() {
        0 => Ok(()),
        left => Err(format.wrong(format!("{left} bytes after the end"))),
    }
}
