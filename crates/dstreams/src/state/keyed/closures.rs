//! Runs a batch on states of closures: applies events and expires keys.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{concat_batches, filter, filter_record_batch};
use datafusion::arrow::datatypes::Schema;
use dstreams_control::BatchTime;

use super::due_keys::{DueKeys, take_rows};
use super::{BatchOutputs, KeyedState};
use crate::error::Result;
use crate::state::key_slots::{KeySlots, key_schema};
use crate::state::versioned::{Delta, DueRows, EventTimes, KeyTimes, LookedUpRows};
use crate::stream::lifetime::Lifetime;
use crate::stream::tracker::{Applied, Events, Tracker};

impl KeyedState {
    /// Applies the events of a batch to the states of their keys, wakes keys, and expires keys.
    ///
    /// If the batch is already installed, computes the same from the version before it.
    pub(super) fn tracked(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        tracker: &dyn Tracker,
        lifetime: Lifetime,
    ) -> Result<(Delta, BatchOutputs)> {
        let before = self.before(batch);
        let again = self.partition.version() == Some(batch);
        let due = match again {
            true => self.due_before(batch, before)?,
            false => self.partition.due_rows(batch)?,
        };
        let key_schema = key_schema(&self.spec.schema, self.spec.keys);
        let mut keys = KeySlots::new(Arc::clone(&key_schema))?;
        let due = DueKeys::new(due, batch, lifetime, &mut keys, self.spec.keys)?;
        let mut key_of = Vec::with_capacity(rows.len());
        for rows in rows {
            let mut slots = Vec::new();
            keys.intern(&rows.columns()[..self.spec.keys], &mut slots)?;
            key_of.push(slots);
        }
        let all = concat_batches(&key_schema, keys.segments())?;
        let mut dropped = Vec::new();
        for rows in expired_without_events(&due.leaving, &mut keys, self.spec.keys)? {
            dropped.push(self.only_keys(&rows)?);
        }
        let found = match again {
            true => self.partition.latest_at(all.columns(), before)?,
            false => self.partition.latest(all.columns())?,
        };
        // A key that expires with this batch and has an event in it starts over as a new key.
        let stays = |key: usize| {
            let times = found.times(key);
            key < due.woken
                || times.is_some_and(|times| lifetime.end(times.first, times.last) > batch)
        };
        let there: BooleanArray = match lifetime == Lifetime::default() {
            true => found.mask(),
            false => (0..found.len()).map(|key| Some(stays(key))).collect(),
        };
        let of_value = Schema::new(self.spec.schema.fields()[self.spec.keys..].to_vec());
        let values = found.values()?;
        let states = values.iter().map(|column| filter(column, &there));
        let states = states.collect::<Result<Vec<_>, _>>()?;
        // A state may have no columns, so its number of rows is given.
        let rows_there = RecordBatchOptions::new().with_row_count(Some(there.true_count()));
        let states = RecordBatch::try_new_with_options(Arc::new(of_value), states, &rows_there)?;
        let timers = self.timers(&found, &due, &there);
        let applied = tracker.apply(&Events {
            time: batch,
            has_state: &there,
            states,
            rows,
            key_of: &key_of,
            skip: self.spec.keys,
            timers: &timers,
            timed_out: &due.leaving,
            woken: &all.slice(0, due.woken),
            due: &due.calls,
        })?;
        let had_event = HadEvent::new(due.woken, &key_of);
        let timed_out = due.timed_out(&all, applied.left.as_ref(), &self.spec.schema)?;
        let mapped = applied.mapped.iter().cloned().collect();
        let times = times_of(&found, &applied, lifetime, batch, &had_event);
        let mut kept = vec![false; found.len()];
        applied
            .live
            .iter()
            .for_each(|key| kept[*key as usize] = true);
        let gone = (0..found.len()).filter(|key| found.exists(*key) && !kept[*key]);
        let gone: Vec<u32> = gone.map(|key| key as u32).collect();
        let pick = |places: Vec<u32>| take_rows(&all, places);
        let mut columns = pick(applied.live)?.columns().to_vec();
        columns.extend(applied.states.columns().iter().cloned());
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        dropped.push(pick(gone)?);
        let dropped = concat_batches(&key_schema, &dropped)?;
        let delta = Delta::of_events(&self.shape, batch, &rows, times, dropped.columns())?;
        Ok((delta, BatchOutputs { timed_out, mapped }))
    }

    /// The rows that were due with the newest batch, from the version before it: their keys were changed or deleted.
    fn due_before(&self, batch: BatchTime, before: BatchTime) -> Result<DueRows> {
        let changes = self.partition.changes(batch)?;
        let mut keys = changes.deleted()?;
        for rows in changes.rows()? {
            keys.push(self.only_keys(&rows)?);
        }
        let schema = key_schema(&self.spec.schema, self.spec.keys);
        let keys = concat_batches(&schema, &keys)?;
        let found = self.partition.latest_at(keys.columns(), before)?;
        found.due_rows(batch)
    }

    /// The timers of keys that stay; empty if there are none. Those of woken keys are over.
    fn timers(
        &self,
        found: &LookedUpRows<'_>,
        due: &DueKeys,
        there: &BooleanArray,
    ) -> Vec<BatchTime> {
        let mut timers = found.timers().unwrap_or_default();
        for (key, timer) in timers.iter_mut().enumerate() {
            if key < due.woken || !there.value(key) {
                *timer = BatchTime::MAX;
            }
        }
        timers
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

/// The times of the keys that a batch leaves.
fn times_of(
    found: &LookedUpRows<'_>,
    applied: &Applied,
    lifetime: Lifetime,
    batch: BatchTime,
    had_event: &HadEvent,
) -> EventTimes {
    let kept = || applied.live.iter().map(|key| *key as usize);
    let before = |key: usize, of: fn(KeyTimes) -> BatchTime| found.times(key).map_or(batch, of);
    let last = |key: usize| match had_event.is(key) {
        true => batch.millis(),
        false => before(key, |times| times.last).millis(),
    };
    let first = |(key, fresh): (usize, &bool)| match fresh {
        true => batch.millis(),
        false => before(key, |times| times.first).millis(),
    };
    let is_stored = lifetime.live_ms.is_some();
    EventTimes {
        last: had_event.not_all().then(|| kept().map(last).collect()),
        first: is_stored.then(|| kept().zip(&applied.fresh).map(first).collect()),
        timer: (!applied.timers.is_empty())
            .then(|| applied.timers.iter().map(|timer| timer.millis()).collect()),
    }
}

/// Which keys have events in a batch: all but some of the woken ones, which come first.
struct HadEvent {
    woken: Vec<bool>,
}

impl HadEvent {
    fn new(woken: usize, key_of: &[Vec<usize>]) -> Self {
        let mut woken = vec![false; woken];
        if !woken.is_empty() {
            for key in key_of.iter().flatten() {
                if let Some(had) = woken.get_mut(*key) {
                    *had = true;
                }
            }
        }
        HadEvent { woken }
    }

    fn is(&self, key: usize) -> bool {
        self.woken.get(key).is_none_or(|had| *had)
    }

    fn not_all(&self) -> bool {
        self.woken.contains(&false)
    }
}

/// The expired rows whose keys have no event in the batch.
pub(super) fn expired_without_events(
    expired: &[RecordBatch],
    keys: &mut KeySlots,
    columns: usize,
) -> Result<Vec<RecordBatch>> {
    let known = keys.len();
    let mut silent = Vec::new();
    for rows in expired {
        let mut slots = Vec::new();
        keys.intern(&rows.columns()[..columns], &mut slots)?;
        let mask: BooleanArray = slots.iter().map(|slot| Some(*slot >= known)).collect();
        silent.push(filter_record_batch(rows, &mask)?);
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
