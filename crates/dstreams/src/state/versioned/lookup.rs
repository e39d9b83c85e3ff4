//! Looking up the keys of a batch.

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, UInt64Array, new_null_array,
};
use datafusion::arrow::compute::interleave;
use datafusion::arrow::datatypes::DataType;
use dstreams_control::BatchTime;

use super::delta::Delta;
use super::partition::KeyedPartition;
use super::segment::{NONE, Segment, place};
use super::times::KeyTimes;
use crate::debug::debug_as;
use crate::error::{Error, Result};

impl KeyedPartition {
    /// The rows of keys at the newest version, one for each row of the key columns `keys`; keys may repeat.
    ///
    /// Hashes each key once and looks it up once. Takes 28 bytes of memory per key and 4 per segment, without an
    /// allocation per key.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] if the columns are not those of the state's key.
    pub fn latest(&self, keys: &[ArrayRef]) -> Result<LookedUpRows<'_>> {
        self.look_up(keys, self.version.unwrap_or(BatchTime::MAX))
    }

    /// The rows of keys at a version. Costs as much as [`KeyedPartition::latest`], and a step for each later batch
    /// that changed the key.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] if the version is released or not there yet.
    pub fn latest_at(&self, keys: &[ArrayRef], version: BatchTime) -> Result<LookedUpRows<'_>> {
        self.check_version(version)?;
        self.look_up(keys, version)
    }

    fn look_up(&self, keys: &[ArrayRef], version: BatchTime) -> Result<LookedUpRows<'_>> {
        let keys = self.shape.keys(keys)?;
        let hashes = keys.hashes();
        let mut newest = Vec::with_capacity(keys.len());
        self.newest(&keys, 0, &hashes, &mut newest);
        let mut found = LookedUpRows {
            partition: self,
            at: Vec::with_capacity(keys.len()),
            sources: Vec::new(),
            existing: 0,
            hashes,
            newest: NewestRows {
                edits: self.edits,
                rows: newest,
            },
        };
        // The source of each segment, plus one: source 0 is for missing keys.
        let mut source_of = vec![0; self.segments.len()];
        for newest in &found.newest.rows {
            let Some((slot, at)) = self.visible(*newest, version) else {
                found.at.push((0, 0));
                continue;
            };
            if source_of[slot] == 0 {
                found.sources.push(slot as u32);
                source_of[slot] = found.sources.len();
            }
            found.at.push((source_of[slot], at));
            found.existing += 1;
        }
        Ok(found)
    }

    /// The row of the key of `newest` that is visible at a version.
    fn visible(&self, newest: u32, version: BatchTime) -> Option<(usize, usize)> {
        let mut number = newest;
        while number != NONE {
            let (slot, row) = place(number);
            let segment = self.segment(slot as u32)?;
            if segment.batch <= version {
                return (!segment.deleted).then_some((slot, row));
            }
            number = *segment.before.as_ref()?.get(row)?;
        }
        None
    }

    pub(super) fn check_version(&self, asked: BatchTime) -> Result<()> {
        let newest = self.version.is_some_and(|version| asked <= version);
        match newest && self.low.is_none_or(|low| asked >= low) {
            true => Ok(()),
            false => Err(Error::Version {
                asked,
                oldest: self.low,
                newest: self.version,
            }),
        }
    }
}

/// The rows of keys that were looked up, in the order of the keys.
///
/// It borrows the partition: nothing is installed while it lives.
pub struct LookedUpRows<'a> {
    partition: &'a KeyedPartition,
    /// The source of each key's row and the place in it; source 0 if the key is missing.
    at: Vec<(usize, usize)>,
    /// The slots of the segments.
    sources: Vec<u32>,
    existing: usize,
    hashes: Vec<u64>,
    newest: NewestRows,
}

debug_as!(LookedUpRows<'_>);

/// Where the newest rows of keys are, as long as the partition is not changed.
pub struct NewestRows {
    edits: u64,
    rows: Vec<u32>,
}

debug_as!(NewestRows);

impl NewestRows {
    /// The rows, if the partition is unchanged.
    pub(super) fn rows(&self, edits: u64) -> Option<&[u32]> {
        (self.edits == edits).then_some(&self.rows)
    }
}

impl LookedUpRows<'_> {
    /// A delta of exactly these keys: `rows` have the state's columns and these keys in this order, each once,
    /// which is not checked. No key is hashed again; with the second result, installing looks up none either
    /// ([`KeyedPartition::install_found`]).
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] if the columns do not match the state.
    pub fn delta(self, batch: BatchTime, rows: &RecordBatch) -> Result<(Delta, NewestRows)> {
        if rows.num_rows() != self.len() {
            return Err(Error::Schema {
                what: format!("changes of batch {batch} in a state"),
                expected: format!("{} rows, as many as keys were looked up", self.len()),
                found: rows.num_rows().to_string(),
            });
        }
        let delta = Delta::of_distinct(&self.partition.shape, batch, rows, self.hashes)?;
        Ok((delta, self.newest))
    }

    /// The number of requested keys.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether no key was requested.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// The number of existing keys among them.
    pub fn existing(&self) -> usize {
        self.existing
    }

    /// Whether a key exists.
    #[inline]
    pub fn exists(&self, key: usize) -> bool {
        self.at[key].0 > 0
    }

    /// Whether each key exists.
    pub fn mask(&self) -> BooleanArray {
        self.at.iter().map(|at| Some(at.0 > 0)).collect()
    }

    /// A value column: a row for each key, null for missing keys. One `interleave`.
    ///
    /// Strings may point into the state's buffers.
    ///
    /// # Errors
    ///
    /// [`Error::Schema`] if there is no such column, and those of Arrow.
    pub fn value(&self, column: usize) -> Result<ArrayRef> {
        let shape = &self.partition.shape;
        if column >= shape.values_len() {
            return Err(Error::Schema {
                what: "value of a state".into(),
                expected: format!("one of {}", shape.values_len()),
                found: format!("number {column}"),
            });
        }
        let field = shape.schema().field(shape.key_columns_len() + column);
        self.gather(field.data_type(), |segment| {
            segment.piece.values[column].as_ref()
        })
    }

    /// All value columns: see [`LookedUpRows::value`].
    pub fn values(&self) -> Result<Vec<ArrayRef>> {
        let columns = 0..self.partition.shape.values_len();
        columns.map(|column| self.value(column)).collect()
    }

    /// The batch of each key's last event; null for missing keys.
    pub fn last(&self) -> UInt64Array {
        let segments = self.segments();
        let last = self.at.iter().map(|(source, row)| {
            let segment = segments.get(source.checked_sub(1)?)?;
            Some(segment.piece.times.last.at(*row).0)
        });
        last.collect()
    }

    /// The times of a key; none if it is missing.
    pub fn times(&self, key: usize) -> Option<KeyTimes> {
        let (segment, _, row) = self.place(key)?;
        Some(segment.piece.times.at(row))
    }

    /// The timers of the keys, [`BatchTime::MAX`] for those without; none if no key has one.
    pub fn timers(&self) -> Option<Vec<BatchTime>> {
        let segments = self.segments();
        if !segments.iter().any(|it| it.piece.times.has_timers()) {
            return None;
        }
        let timer = |(source, row): &(usize, usize)| {
            let segment = source
                .checked_sub(1)
                .and_then(|source| segments.get(source));
            segment.map_or(BatchTime::MAX, |segment| segment.piece.times.timer.at(*row))
        };
        Some(self.at.iter().map(timer).collect())
    }

    pub(super) fn partition(&self) -> &KeyedPartition {
        self.partition
    }

    /// The segment of a key's row, its slot, and the place there.
    pub(super) fn place(&self, key: usize) -> Option<(&Segment, u32, usize)> {
        let (source, row) = self.at[key];
        let slot = *self.sources.get(source.checked_sub(1)?)?;
        Some((self.partition.segment(slot)?, slot, row))
    }

    fn segments(&self) -> Vec<&Segment> {
        let slots = self.sources.iter();
        slots
            .filter_map(|slot| self.partition.segment(*slot))
            .collect()
    }

    fn gather<'a>(
        &'a self,
        kind: &DataType,
        column: impl Fn(&'a Segment) -> &'a dyn Array,
    ) -> Result<ArrayRef> {
        let absent = new_null_array(kind, 1);
        let mut sources = Vec::with_capacity(1 + self.sources.len());
        sources.push(absent.as_ref());
        let mut bytes = 0;
        for segment in self.segments() {
            bytes += segment.value_bytes;
            sources.push(column(segment));
        }
        let columns = self.partition.shape.values_len().max(1);
        let row = bytes / columns / self.sources.len().max(1);
        self.partition.work.read(self.existing, self.existing * row);
        Ok(interleave(&sources, &self.at)?)
    }
}
