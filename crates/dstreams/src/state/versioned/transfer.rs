//! The encoding of deltas and full partitions.
//!
//! A delta: its batch, flags (1: it names its base version, 2: it is full), its base version or 0 (`u64` each);
//! then two Arrow IPC streams, each after its length: its rows (keys, values, last event), and the keys it
//! deletes. In format 2 there are more flags, one at least: 4, if rows have the first event of their key after the last
//! one; 8, if they have its timer after these (`u64::MAX` for none). A delta without either is written in format 1. A
//! partition: flags (1: it has a version, 2: it has a low watermark), version, low watermark, the
//! number of deltas; then each delta, sealed, after its length: a full one at the low watermark, then one for each
//! batch above. The frame is that of [`FrameFormat`]. Caches are rebuilt, so invalid bytes cannot create an
//! inconsistent partition. Everything is written and read piece by piece: lengths are determined by encoding
//! twice.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::UInt64Type;
use dstreams_control::BatchTime;

use super::delta::{Delta, last_of};
use super::partition::KeyedPartition;
use super::rows::{MaskedRows, RowChunk};
use super::shape::{Shape, TimesStored};
use super::times::{RowTimes, TimeColumn};
use crate::encoding::{ByteInput, ByteOutput, FrameFormat};
use crate::encoding::{each_batch, encode_in_parts, length_of};
use crate::error::Result;
use crate::state::accumulators::each_partial;

/// The bytes of a frame besides its body.
const FRAME: u64 = 12 + 8;

pub(super) const DELTA: FrameFormat = FrameFormat {
    what: "changes of a keyed state",
    magic: *b"dstr-kdl",
    version: 1,
};

/// The same with first events or timers.
pub(super) const DELTA_2: FrameFormat = FrameFormat {
    version: 2,
    ..DELTA
};

/// The flag of rows with first events, and of rows with timers.
const FIRST_EVENTS: u64 = 4;
const TIMERS: u64 = 8;

pub(super) const PARTITION: FrameFormat = FrameFormat {
    what: "a partition of a keyed state",
    magic: *b"dstr-kst",
    version: 1,
};

impl Delta {
    /// Reads a delta for a state with columns `shape`.
    ///
    /// # Errors
    ///
    /// [`Error::Bytes`](crate::Error::Bytes), [`Error::Schema`](crate::Error::Schema) or
    /// [`Error::Duplicate`](crate::Error::Duplicate) for any other bytes: damaged, of another format or state, or
    /// made up.
    pub fn read(shape: &Arc<Shape>, from: &mut ByteInput<'_>) -> Result<Self> {
        let is_newer = from.open_one_of([&DELTA_2, &DELTA])? == 0;
        let batch = BatchTime(from.number()?);
        let (flags, on) = (from.number()?, from.number()?);
        let stored = TimesStored {
            first: is_newer && flags & FIRST_EVENTS > 0,
            timer: is_newer && flags & TIMERS > 0,
        };
        let (mut changed, mut deleted) = (Vec::new(), Vec::new());
        from.part(|from| {
            each_partial(
                DELTA.what,
                from,
                &shape.row_schema(stored),
                shape.highs(),
                |rows| {
                    if rows.num_rows() > 0 {
                        let columns = shape.schema().fields().len();
                        let (columns, times) = rows.columns().split_at(columns);
                        let times = times_of(shape, batch, stored, times)?;
                        let rows = shape.rows(columns.to_vec())?;
                        changed.push(RowChunk::new(shape, &rows, times)?);
                    }
                    Ok(())
                },
            )
        })?;
        from.part(|from| {
            each_batch(
                DELTA.what,
                from,
                std::slice::from_ref(shape.key_schema()),
                |keys| {
                    if keys.num_rows() > 0 {
                        deleted.push(RowChunk::of_keys(shape, keys.columns(), batch)?);
                    }
                    Ok(())
                },
            )
        })?;
        let mut delta = Delta::of_pieces(shape, batch, changed, deleted)?;
        delta.whole = flags & 2 > 0;
        delta.on = (flags & 1 > 0).then_some(BatchTime(on));
        let most = if is_newer { 15 } else { 3 };
        let without = is_newer && flags & (FIRST_EVENTS | TIMERS) == 0;
        let lie = flags > most || without || on > 0 && flags & 1 == 0;
        let backward = delta.on.is_some_and(|on| on >= batch);
        match lie || backward || delta.whole && (flags & 1 > 0 || !delta.deleted.is_empty()) {
            true => Err(DELTA.wrong(format!("flags {flags} and version {on} are inconsistent"))),
            false => from.close().map(|()| delta),
        }
    }
}

/// The times of rows, from their columns after the values. Where first events are not stored, keys had theirs with the
/// last.
fn times_of(
    shape: &Shape,
    batch: BatchTime,
    stored: TimesStored,
    columns: &[ArrayRef],
) -> Result<RowTimes> {
    if shape.has_due() {
        return Ok(RowTimes::new(shape, TimeColumn::Same(batch)));
    }
    let mut columns = columns
        .iter()
        .map(|times| times.as_primitive::<UInt64Type>());
    let mut events = || {
        let column = columns.next();
        column
            .map(|times| last_of(batch, times, times.len()))
            .transpose()
    };
    let last = events()?.unwrap_or(TimeColumn::Same(batch));
    let mut times = RowTimes::new(shape, last);
    if stored.first
        && let Some(first) = events()?
        && shape.has_first()
    {
        times.first = first;
    }
    if stored.timer
        && let Some(timer) = columns.next()
        && shape.has_timers()
    {
        times.timer = TimeColumn::of(timer.values().to_vec().into());
    }
    Ok(times)
}

/// The rows of a delta to be written, shared with the state, which may change meanwhile.
#[derive(Debug)]
pub struct Rows {
    pub(super) shape: Arc<Shape>,
    /// Its batch, its base version, whether it is full.
    pub(super) of: (BatchTime, Option<BatchTime>, bool),
    pub(super) changed: Vec<MaskedRows>,
    pub(super) deleted: Vec<MaskedRows>,
}

/// The encoded lengths of the rows of a delta, and of the keys that it deletes.
type Lengths = (u64, u64);

impl Rows {
    /// Writes the delta.
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        self.write_of(self.lengths()?, to)
    }

    fn write_of(&self, (rows, keys): Lengths, to: &mut ByteOutput<'_>) -> Result<()> {
        let (batch, on, whole) = self.of;
        let TimesStored { first, timer } = self.stored();
        to.begin(if first || timer { &DELTA_2 } else { &DELTA })?;
        to.put_number(batch.millis())?;
        let flags = u64::from(on.is_some()) | u64::from(whole) << 1;
        let times = (u64::from(first) * FIRST_EVENTS) | (u64::from(timer) * TIMERS);
        to.put_number(flags | times)?;
        to.put_number(on.map_or(0, |on| on.0))?;
        to.put_number(rows)?;
        self.encode_rows(&mut |bytes| to.put(bytes))?;
        to.put_number(keys)?;
        self.encode_keys(&mut |bytes| to.put(bytes))?;
        to.seal()
    }

    fn lengths(&self) -> Result<Lengths> {
        let rows = length_of(|each| self.encode_rows(each))?;
        Ok((rows, length_of(|each| self.encode_keys(each))?))
    }

    /// What is stored besides last events: only what some rows have.
    fn stored(&self) -> TimesStored {
        let mut pieces = self.changed.iter().map(|shown| &shown.piece);
        TimesStored {
            first: self.shape.has_first() && !self.changed.is_empty(),
            timer: pieces.any(|piece| piece.times.has_timers()),
        }
    }

    fn encode_rows(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let stored = self.stored();
        let schema = self.shape.row_schema(stored);
        let rows = self.changed.iter().map(|shown| {
            let mut columns = shown.piece.batch(&self.shape)?.columns().to_vec();
            let (times, rows) = (&shown.piece.times, shown.piece.rows());
            let each = [
                Some(&times.last),
                stored.first.then_some(&times.first),
                stored.timer.then_some(&times.timer),
            ];
            let each = each.into_iter().flatten();
            columns.extend(each.map(|times| Arc::new(times.column(rows)) as ArrayRef));
            let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
            Ok((rows, shown.rows.as_ref()))
        });
        encode_in_parts(&schema, rows, each)
    }

    fn encode_keys(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let keys = self.deleted.iter().map(|shown| {
            let columns = self.shape.key_columns(&shown.piece.keys)?;
            Ok((self.shape.key_rows(columns)?, shown.rows.as_ref()))
        });
        encode_in_parts(self.shape.key_schema(), keys, each)
    }
}

/// All readable versions of a partition, as a full one and the changes after it. Rows are shared with the
/// partition, which may change meanwhile.
#[derive(Debug)]
pub struct Versions {
    version: Option<BatchTime>,
    low: Option<BatchTime>,
    deltas: Vec<Rows>,
}

impl Versions {
    /// Writes it after its length. Encodes rows twice, because lengths come first; only some are copied at a time.
    pub fn write(&self, to: &mut ByteOutput<'_>) -> Result<()> {
        let lengths = self.deltas.iter().map(Rows::lengths);
        let lengths = lengths.collect::<Result<Vec<_>>>()?;
        let delta = |(rows, keys): &Lengths| FRAME + 3 * 8 + 8 + rows + 8 + keys;
        let deltas = lengths.iter().map(|lengths| 8 + delta(lengths));
        to.put_number(FRAME + 4 * 8 + deltas.sum::<u64>())?;
        to.begin(&PARTITION)?;
        let flags = u64::from(self.version.is_some()) | u64::from(self.low.is_some()) << 1;
        to.put_number(flags)?;
        to.put_number(self.version.map_or(0, |version| version.millis()))?;
        to.put_number(self.low.map_or(0, |low| low.0))?;
        to.put_number(self.deltas.len() as u64)?;
        for (rows, lengths) in self.deltas.iter().zip(lengths) {
            to.put_number(delta(&lengths))?;
            rows.write_of(lengths, to)?;
        }
        to.seal()
    }
}

impl KeyedPartition {
    /// All readable versions.
    ///
    /// Visits all segments, and costs one bit for each of their superseded rows.
    pub fn versions(&self) -> Result<Versions> {
        let rows = |batch, whole, changed, deleted| Rows {
            shape: Arc::clone(&self.shape),
            of: (batch, None, whole),
            changed,
            deleted,
        };
        let mut deltas: Vec<Rows> = Vec::new();
        if let Some(low) = self.low {
            deltas.push(rows(low, true, self.pieces(low)?, Vec::new()));
        }
        let mut last = self.low;
        for segment in self.after(|segment| Some(segment.batch) <= self.low) {
            if Some(segment.batch) > last {
                deltas.push(rows(segment.batch, false, Vec::new(), Vec::new()));
                last = Some(segment.batch);
            }
            if let Some(delta) = deltas.last_mut() {
                let shown = MaskedRows::all(segment.piece.clone());
                match segment.deleted {
                    true => delta.deleted.push(shown),
                    false => delta.changed.push(shown),
                }
            }
        }
        Ok(Versions {
            version: self.version,
            low: self.low,
            deltas,
        })
    }

    /// This empty partition with exported contents: the same versions, rows and order, and the same behaviour.
    ///
    /// # Errors
    ///
    /// Those of [`Delta::read`], for any other bytes.
    pub(in crate::state) fn filled(mut self, from: &mut ByteInput<'_>) -> Result<Self> {
        from.open(&PARTITION)?;
        let flags = from.number()?;
        let (version, low) = (BatchTime(from.number()?), BatchTime(from.number()?));
        let version = (flags & 1 > 0).then_some(version);
        let low = (flags & 2 > 0).then_some(low);
        let lie = |what: String| PARTITION.wrong(format!("{what} does not match"));
        if flags > 3 || low > version {
            return Err(lie(format!("low watermark {low:?} of version {version:?}")));
        }
        let deltas = from.number()?;
        for place in 0..deltas {
            let delta = from.part(|from| Delta::read(&self.shape, from))?;
            let first = low.filter(|_| place == 0);
            let batch = delta.batch();
            let starts = delta.is_whole() == first.is_some();
            let fits = starts && first.is_none_or(|low| low == batch) && Some(batch) <= version;
            if !fits || !self.install(&delta)? {
                return Err(lie(format!("batch {batch}")));
            }
        }
        from.close()?;
        if self.low != low {
            return Err(lie(format!("low watermark {low:?}")));
        }
        // The last batches may have changed nothing.
        self.version = version;
        Ok(self)
    }
}

/// Encoding in one buffer, for tests.
#[cfg(test)]
mod in_memory {
    use super::*;
    use crate::encoding::in_one;
    use crate::state::versioned::Frozen;

    impl Delta {
        pub fn to_bytes(&self) -> Result<Vec<u8>> {
            let shown = |pieces: &[RowChunk]| pieces.iter().cloned().map(MaskedRows::all).collect();
            let rows = Rows {
                shape: Arc::clone(&self.shape),
                of: (self.batch, self.on, self.whole),
                changed: shown(&self.changed),
                deleted: shown(&self.deleted),
            };
            rows.to_bytes()
        }

        pub fn from_bytes(shape: &Arc<Shape>, bytes: &[u8]) -> Result<Self> {
            Delta::read(shape, &mut ByteInput::of(bytes.to_vec()))
        }
    }

    impl Rows {
        pub fn to_bytes(&self) -> Result<Vec<u8>> {
            in_one(|to| self.write(to))
        }
    }

    impl Frozen {
        pub fn to_bytes(self) -> Result<Vec<u8>> {
            in_one(|to| self.write(to))
        }
    }

    impl KeyedPartition {
        /// Without the length in front.
        pub fn export(&self) -> Result<Vec<u8>> {
            let bytes = in_one(|to| self.versions()?.write(to))?;
            let (length, bytes) = bytes.split_at(8);
            assert_eq!(length, (bytes.len() as u64).to_le_bytes());
            Ok(bytes.to_vec())
        }

        pub fn import(shape: Arc<Shape>, bytes: &[u8]) -> Result<Self> {
            KeyedPartition::new(shape).filled(&mut ByteInput::of(bytes.to_vec()))
        }
    }
}
