//! Runs a batch on states of closures: applies events and expires keys.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array,
};
use datafusion::arrow::compute::{concat_batches, filter, filter_record_batch, take};
use datafusion::arrow::datatypes::Schema;
use dstreams_control::BatchTime;

use super::{BatchOutputs, KeyedState};
use crate::error::Result;
use crate::state::key_slots::{KeySlots, key_schema};
use crate::state::versioned::{Delta, LookedUpRows};
use crate::stream::tracker::{Events, Tracker};

impl KeyedState {
    /// Applies the events of a batch to the states of their keys, and expires keys.
    ///
    /// If the batch is already installed, computes the same from the version before it.
    pub(super) fn tracked(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        tracker: &dyn Tracker,
        timeout_ms: Option<u64>,
    ) -> Result<(Delta, BatchOutputs)> {
        let before = self.before(batch);
        let again = self.partition.version() == Some(batch);
        let (mut keys, key_columns, key_of) = self.keys_of(rows)?;
        let until = timeout_ms.and_then(|timeout| batch.minus(timeout));
        let expired = match until {
            None => Vec::new(),
            Some(_) if again => self.deleted_by(batch, before)?,
            Some(until) => self.partition.expired(until)?,
        };
        let mut timed_out = expired_without_events(expired, &mut keys, self.spec.keys)?;
        let mut dropped = Vec::new();
        for rows in &timed_out {
            dropped.push(self.only_keys(rows)?);
        }
        let found = match again {
            true => self.partition.latest_at(&key_columns, before)?,
            false => self.partition.latest(&key_columns)?,
        };
        // A key that expires with this batch and has an event in it starts over as a new key.
        let there = unexpired(&found, until.map(BatchTime::millis));
        let values = found.values()?;
        if there.true_count() < found.there() {
            let ended = (0..found.len()).map(|key| found.is_there(key) && !there.value(key));
            let ended: BooleanArray = ended.map(Some).collect();
            timed_out.push(self.rows_of(&key_columns, &values, &ended)?);
        }
        let of_value = Schema::new(self.spec.schema.fields()[self.spec.keys..].to_vec());
        let states = values.iter().map(|column| filter(column, &there));
        let states = states.collect::<Result<Vec<_>, _>>()?;
        // A state may have no columns, so its number of rows is given.
        let rows_there = RecordBatchOptions::new().with_row_count(Some(there.true_count()));
        let states = RecordBatch::try_new_with_options(Arc::new(of_value), states, &rows_there)?;
        let applied = tracker.apply(&Events {
            time: batch,
            there: &there,
            states,
            rows,
            key_of: &key_of,
            skip: self.spec.keys,
            timed_out: &timed_out,
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
        let key_schema = key_schema(&self.spec.schema, self.spec.keys);
        dropped.push(RecordBatch::try_new(Arc::clone(&key_schema), pick(gone)?)?);
        let dropped = concat_batches(&key_schema, &dropped)?;
        let delta = Delta::new(&self.shape, batch, &rows, None, dropped.columns())?;
        let mapped = applied.mapped.into_iter().collect();
        Ok((delta, BatchOutputs { timed_out, mapped }))
    }

    /// The keys that a batch deleted, with their previous values.
    pub(super) fn deleted_by(
        &self,
        batch: BatchTime,
        before: BatchTime,
    ) -> Result<Vec<RecordBatch>> {
        let deleted = self.partition.changes(batch)?.deleted()?;
        let rows = deleted.iter().map(|keys| {
            let found = self.partition.latest_at(keys.columns(), before)?;
            self.rows_of(keys.columns(), &found.values()?, &found.mask())
        });
        rows.collect()
    }

    /// The rows of keys and values that a mask selects.
    pub(super) fn rows_of(
        &self,
        keys: &[ArrayRef],
        values: &[ArrayRef],
        mask: &BooleanArray,
    ) -> Result<RecordBatch> {
        let columns = keys.iter().chain(values);
        let columns = columns.map(|column| filter(column, mask));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let schema = Arc::clone(&self.spec.schema);
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    pub(super) fn only_keys(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let schema = key_schema(&self.spec.schema, self.spec.keys);
        let columns = rows.columns()[..self.spec.keys].to_vec();
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

/// The expired rows whose keys have no event in the batch.
pub(super) fn expired_without_events(
    expired: Vec<RecordBatch>,
    keys: &mut KeySlots,
    columns: usize,
) -> Result<Vec<RecordBatch>> {
    let known = keys.len();
    let mut silent = Vec::new();
    for rows in expired {
        let mut slots = Vec::new();
        keys.intern(&rows.columns()[..columns], &mut slots)?;
        let mask: BooleanArray = slots.iter().map(|slot| Some(*slot >= known)).collect();
        silent.push(filter_record_batch(&rows, &mask)?);
    }
    Ok(silent)
}

/// A mask of the keys that do not time out: their last event is later than `until`.
pub(super) fn unexpired(found: &LookedUpRows<'_>, until: Option<u64>) -> BooleanArray {
    let Some(until) = until else {
        return found.mask();
    };
    let last = found.last();
    last.iter()
        .map(|last| Some(last.is_some_and(|last| last > until)))
        .collect()
}
