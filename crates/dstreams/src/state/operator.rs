//! [`KeyedState`]: one partition of the state of a keyed operator, and what a batch does to it.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, filter, take};
use datafusion::arrow::datatypes::Schema;
use dstreams_control::BatchTime;

use super::bytes::{Reader, put_bytes, wrong};
use super::captured::Content;
use super::changes::Changes;
use super::columns::{Combine, bits_of, column_of};
use super::keyed::{Delta, Found, KeyedPartition, Shape};
use super::keys::{Keys, key_schema};
use crate::error::Result;
use crate::plan::{KeyedSpec, Update};
use crate::stream::track::{Events, Tracker};

/// Rows that a batch may look at to give room back, for each row that it changes: more than a row is
/// copied for, so that compaction keeps up.
const COMPACT: usize = 8;
/// And for each batch.
const COMPACT_LEAST: usize = 4096;

/// See the module.
pub(super) struct KeyedState {
    spec: Arc<KeyedSpec>,
    shape: Arc<Shape>,
    partition: KeyedPartition,
    /// What the newest batch changed.
    changed: Vec<RecordBatch>,
    /// For the next checkpoint.
    changes: Changes<Delta>,
}

impl KeyedState {
    pub fn new(spec: Arc<KeyedSpec>) -> Result<Self> {
        let shape = Shape::new(Arc::clone(&spec.schema), spec.keys)?;
        Ok(KeyedState {
            partition: KeyedPartition::new(Arc::clone(&shape)),
            changed: Vec::new(),
            changes: Changes::default(),
            shape,
            spec,
        })
    }

    pub fn spec(&self) -> Arc<KeyedSpec> {
        Arc::clone(&self.spec)
    }

    pub fn version(&self) -> Option<BatchTime> {
        self.partition.version()
    }

    /// Takes in the rows of a batch. One that was taken in changes nothing.
    pub fn install(&mut self, batch: BatchTime, rows: &[RecordBatch]) -> Result<()> {
        if self.partition.version() >= Some(batch) {
            return Ok(());
        }
        let delta = match &self.spec.update {
            Update::Running(plan) => {
                let fields = &self.spec.schema.fields()[self.spec.keys..];
                let parts = plan.parts.iter().zip(fields);
                let combine =
                    parts.map(|(part, field)| Combine::new(part.function, field.data_type()));
                let combine = combine.collect::<Result<Vec<_>>>()?;
                self.combined(batch, rows, &combine)?
            }
            Update::Tracked {
                tracker,
                timeout_ms,
            } => self.tracked(batch, rows, &**tracker, *timeout_ms)?,
        };
        self.changed = delta.rows()?;
        let (changed, deleted) = delta.len();
        self.partition.install(&delta)?;
        let held = self.partition.len();
        self.changes.add(batch, changed + deleted, held, delta);
        let budget = COMPACT_LEAST + COMPACT * (changed + deleted);
        // The version before can be read still, and what this batch changed is in an export.
        let before = batch.0.saturating_sub(self.spec.every_ms);
        self.partition.compact(BatchTime(before), budget)?;
        Ok(())
    }

    /// The keys of rows, once each, and the key of each row by its place among them.
    fn keys_of(&self, rows: &[RecordBatch]) -> Result<(Keys, Vec<ArrayRef>, Vec<Vec<usize>>)> {
        let schema = key_schema(&self.spec.schema, self.spec.keys);
        let mut keys = Keys::new(Arc::clone(&schema))?;
        let mut key_of = Vec::with_capacity(rows.len());
        for rows in rows {
            let mut slots = Vec::new();
            keys.intern(&rows.columns()[..self.spec.keys], &mut slots)?;
            key_of.push(slots);
        }
        let all = concat_batches(&schema, keys.segments())?;
        Ok((keys, all.columns().to_vec(), key_of))
    }

    /// Partial results of a batch, combined with what is held.
    fn combined(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        combine: &[Combine],
    ) -> Result<Delta> {
        let (keys, key_columns, key_of) = self.keys_of(rows)?;
        let found = self.partition.latest(&key_columns)?;
        let mut columns = key_columns.clone();
        for (at, combine) in combine.iter().enumerate() {
            let held = bits_of(&found.value(at)?)?;
            let mut values: Vec<u64> = held.to_vec();
            let mut has: Vec<bool> = (0..keys.len()).map(|key| found.is_there(key)).collect();
            for (rows, key_of) in rows.iter().zip(&key_of) {
                let bits = bits_of(rows.column(self.spec.keys + at))?;
                for (key, bits) in key_of.iter().zip(bits.iter()) {
                    values[*key] = match has[*key] {
                        true => combine.apply(values[*key], *bits),
                        false => *bits,
                    };
                    has[*key] = true;
                }
            }
            let kind = self.spec.schema.field(self.spec.keys + at).data_type();
            columns.push(column_of(values, kind)?);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        Delta::new(&self.shape, batch, &rows, None, &[])
    }

    /// Events of a batch, applied to the states of their keys; and the keys that expire.
    fn tracked(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        tracker: &dyn Tracker,
        timeout_ms: Option<u64>,
    ) -> Result<Delta> {
        let (mut keys, key_columns, key_of) = self.keys_of(rows)?;
        let mut dropped = match timeout_ms.and_then(|timeout| batch.0.checked_sub(timeout)) {
            Some(until) => self.expired(BatchTime(until), &mut keys)?,
            None => Vec::new(),
        };
        // A key that expires with this batch and has an event in it begins anew.
        let expired_now = timeout_ms.map(|timeout| batch.0.saturating_sub(timeout));
        let found = self.partition.latest(&key_columns)?;
        let there = alive(&found, expired_now);
        let of_value = Arc::new(Schema::new(
            self.spec.schema.fields()[self.spec.keys..].to_vec(),
        ));
        let states = found.values()?.into_iter();
        let states = states
            .map(|column| filter(&column, &there))
            .collect::<Result<Vec<_>, _>>()?;
        let applied = tracker.apply(&Events {
            there: &there,
            states: RecordBatch::try_new(of_value, states)?,
            rows,
            key_of: &key_of,
            skip: self.spec.keys,
        })?;
        let mut kept = vec![false; found.len()];
        applied
            .kept
            .iter()
            .for_each(|key| kept[*key as usize] = true);
        let gone = (0..found.len()).filter(|key| found.is_there(*key) && !kept[*key]);
        let gone: Vec<u32> = gone.map(|key| key as u32).collect();
        let pick = |places: Vec<u32>| {
            let places = UInt32Array::from(places);
            let columns = key_columns.iter();
            columns
                .map(|column| take(column, &places, None))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut columns = pick(applied.kept)?;
        columns.extend(applied.states.columns().iter().cloned());
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        let gone =
            RecordBatch::try_new(key_schema(&self.spec.schema, self.spec.keys), pick(gone)?)?;
        dropped.push(gone);
        let dropped = concat_batches(&key_schema(&self.spec.schema, self.spec.keys), &dropped)?;
        Delta::new(&self.shape, batch, &rows, None, dropped.columns())
    }

    /// The keys without an event since `until`, and without one in this batch, whose keys are `keys`.
    fn expired(&self, until: BatchTime, keys: &mut Keys) -> Result<Vec<RecordBatch>> {
        let known = keys.len();
        let mut expired = Vec::new();
        for rows in self.partition.expired(until)? {
            let columns = &rows.columns()[..self.spec.keys];
            let mut slots = Vec::new();
            keys.intern(columns, &mut slots)?;
            let silent: BooleanArray = slots.iter().map(|slot| Some(*slot >= known)).collect();
            let columns = columns.iter().map(|column| filter(column, &silent));
            let schema = key_schema(&self.spec.schema, self.spec.keys);
            expired.push(RecordBatch::try_new(
                schema,
                columns.collect::<Result<_, _>>()?,
            )?);
        }
        Ok(expired)
    }

    /// What the newest batch changed, or all there is.
    pub fn read(&self) -> Result<Vec<RecordBatch>> {
        let mark = |rows: &RecordBatch, whole: bool| -> Result<RecordBatch> {
            let mut columns = rows.columns().to_vec();
            columns.push(Arc::new(BooleanArray::from(vec![whole; rows.num_rows()])));
            Ok(RecordBatch::try_new(self.spec.dataset(), columns)?)
        };
        let (true, Some(version)) = (self.spec.whole, self.partition.version()) else {
            return Ok(self.changed.clone());
        };
        let changed = self.changed.iter().map(|rows| mark(rows, false));
        let all = self.partition.read(version)?;
        let all = all.iter().map(|rows| mark(rows, true));
        changed.chain(all).collect()
    }

    /// What a program reads of the state, as of a batch that took effect.
    pub fn table(&self, batch: BatchTime) -> Result<Vec<RecordBatch>> {
        let Some(version) = self.partition.version() else {
            return Ok(Vec::new());
        };
        let rows = self.partition.read(version.min(batch))?;
        rows.iter().map(|rows| self.spec.results_of(rows)).collect()
    }

    /// What came after version `since`, where that is known; else all there is.
    pub fn capture(&mut self, since: Option<BatchTime>) -> Option<(Option<BatchTime>, Content)> {
        if let Some(deltas) = since.and_then(|since| self.changes.since(since)) {
            return (!deltas.is_empty()).then_some((since, Content::Deltas(deltas)));
        }
        let frozen = self.partition.freeze()?;
        self.changes.begin(self.partition.version()?);
        Some((None, Content::Keyed(frozen)))
    }

    /// A checkpoint of `batch` is there.
    pub fn covered(&mut self, batch: BatchTime) {
        if let Some(version) = self.partition.version() {
            self.changes.covered(batch, version);
        }
    }

    /// Takes in what was captured.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let delta = Delta::from_bytes(&self.shape, bytes)?;
        self.partition.install(&delta)?;
        Ok(())
    }

    /// Appends the whole state.
    pub fn export(&self, to: &mut Vec<u8>) -> Result<()> {
        put_bytes(to, self.spec.describe().as_bytes());
        put_bytes(to, &self.partition.export()?);
        Ok(())
    }

    /// The partition that was exported.
    pub fn import(spec: Arc<KeyedSpec>, from: &mut Reader<'_>) -> Result<Self> {
        let (theirs, ours) = (from.text()?.to_owned(), spec.describe());
        if theirs != ours {
            return Err(wrong(format!(
                "they are of {theirs}, this program has {ours}"
            )));
        }
        let mut state = KeyedState::new(spec)?;
        state.partition = KeyedPartition::import(Arc::clone(&state.shape), from.bytes()?)?;
        if let Some(version) = state.partition.version() {
            state.changed = state.partition.changes(version)?.rows()?;
        }
        Ok(state)
    }
}

/// Which keys have a state that does not expire: whose last event is later than `expired`.
fn alive(found: &Found<'_>, expired: Option<u64>) -> BooleanArray {
    let Some(expired) = expired else {
        return found.mask();
    };
    let last = found.last();
    last.iter()
        .map(|last| Some(last.is_some_and(|last| last > expired)))
        .collect()
}
