//! The engine's side of states by closures: applies the events of a batch to the states of their keys.
//!
//! The engine only knows [`Tracker`], with one call for each partition of a batch. [`EachEvent`] calls a closure for
//! each event, [`EachKey`] for each key of the batch; both store the states of the batch's keys as owned values while
//! they run.

use std::marker::PhantomData;
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use super::key_state::{KeyState, Values};
use super::record::{
    Builder, ColumnReader, Columns, Key, Out, Record, batch_of, columns_of, finish_batch,
    records_of,
};
use super::rows::Closure;
use crate::error::Result;

/// Closures over Arrow batches.
pub(crate) trait Tracker: Send + Sync {
    /// Applies the events of a batch, in their order, to the states of their keys.
    fn apply(&self, events: &Events<'_>) -> Result<Applied>;

    /// Columns of the closures' results besides states, if there are any.
    fn mapped(&self) -> Option<SchemaRef> {
        None
    }
}

/// The events of a batch, and the states of their keys.
pub(crate) struct Events<'a> {
    /// The batch.
    pub time: BatchTime,
    /// Whether each key has a state.
    pub there: &'a BooleanArray,
    /// The states of the keys that have one, in the order of the keys.
    pub states: RecordBatch,
    /// Keys and values of the events, in order of arrival.
    pub rows: &'a [RecordBatch],
    /// The key of each row, by its index among the keys.
    pub key_of: &'a [Vec<usize>],
    /// Number of key columns.
    pub skip: usize,
    /// Keys and last states of the keys that expire with this batch; not among the other states.
    pub timed_out: &'a [RecordBatch],
}

/// The effect of a batch on its keys; keys without a state now are not included.
pub(crate) struct Applied {
    /// Indices of the keys that have a state now, in order.
    pub kept: Vec<u32>,
    /// Their states.
    pub states: RecordBatch,
    /// The results of the closures, in the order of the calls.
    pub mapped: Option<RecordBatch>,
}

impl Events<'_> {
    /// The state of each key.
    fn held<S: Record>(&self) -> Result<impl Iterator<Item = Option<S>>> {
        let mut held = records_of::<S>(&self.states)?.into_iter();
        let there = self.there.values().iter();
        Ok(there.map(move |there| there.then(|| held.next()).flatten()))
    }
}

impl Applied {
    fn of<S: Record>(states: impl Iterator<Item = Option<S>>) -> Result<Self> {
        let mut kept = Vec::new();
        let states = states.zip(0u32..).filter_map(|(state, key)| {
            kept.extend(state.is_some().then_some(key));
            state
        });
        let states = batch_of(states)?;
        Ok(Applied {
            kept,
            states,
            mapped: None,
        })
    }
}

/// The types of a tracker's closure: key, value, state, result.
pub(crate) type Types<K, V, S, M> = PhantomData<fn() -> (K, V, S, M)>;

/// A closure for each event, and for each expired key.
pub(crate) struct EachEvent<K, V, S, M, F> {
    call: F,
    /// Whether it makes records, and is called for expired keys.
    maps: bool,
    types: Types<K, V, S, M>,
}

impl<K, V, S, M, F> EachEvent<K, V, S, M, F>
where
    K: Key,
    V: Record,
    S: Record,
    M: Record,
    F: for<'a> Fn(K::Ref<'a>, Option<V::Ref<'a>>, &mut KeyState<S>, &mut Out<'_, M>) + Closure,
{
    pub fn new(maps: bool, call: F) -> Self {
        EachEvent {
            call,
            maps,
            types: PhantomData,
        }
    }

    fn last_calls(
        &self,
        rows: &RecordBatch,
        events: &Events<'_>,
        made: &mut M::Builder,
    ) -> Result<()> {
        let keys = columns_of::<K>(rows)?;
        let states = S::Cols::try_new(&mut ColumnReader::new(&rows.columns()[events.skip..]))?;
        let mut lost = 0;
        for row in 0..rows.num_rows() {
            let mut state = KeyState::timing_out(S::own(states.get(row)), events.time);
            (self.call)(keys.get(row), None, &mut state, &mut Out::new(made));
            lost += usize::from(state.was_set());
        }
        if lost > 0 {
            tracing::error!(
                keys = lost,
                "expired keys were given new states, which had no effect; check `is_timing_out` before \
                 `set`, or use `on_timeout`"
            );
        }
        Ok(())
    }
}

impl<K, V, S, M, F> Tracker for EachEvent<K, V, S, M, F>
where
    K: Key,
    V: Record,
    S: Record,
    M: Record,
    F: for<'a> Fn(K::Ref<'a>, Option<V::Ref<'a>>, &mut KeyState<S>, &mut Out<'_, M>) + Closure,
{
    fn apply(&self, events: &Events<'_>) -> Result<Applied> {
        let mut made = M::Builder::default();
        if self.maps {
            for rows in events.timed_out {
                self.last_calls(rows, events, &mut made)?;
            }
        }
        let states = events.held()?;
        let states = states.map(|state| KeyState::of(state, events.time));
        let mut states: Vec<KeyState<S>> = states.collect();
        for (rows, key_of) in events.rows.iter().zip(events.key_of) {
            let keys = columns_of::<K>(rows)?;
            let values = V::Cols::try_new(&mut ColumnReader::new(&rows.columns()[events.skip..]))?;
            for (row, key) in key_of.iter().enumerate() {
                let (of, value) = (keys.get(row), values.get(row));
                (self.call)(of, Some(value), &mut states[*key], &mut Out::new(&mut made));
            }
        }
        let mut applied = Applied::of(states.into_iter().map(KeyState::into_state))?;
        if self.maps {
            applied.mapped = Some(finish_batch(&M::schema(), &mut made)?);
        }
        debug_assert!(made.is_empty());
        Ok(applied)
    }

    fn mapped(&self) -> Option<SchemaRef> {
        self.maps.then(M::schema)
    }
}

/// Another tracker, with a separate closure for expired keys.
pub(crate) struct LastCalls<K, S, M, F> {
    call: F,
    others: Arc<dyn Tracker>,
    types: Types<K, (), S, M>,
}

impl<K, S, M, F> LastCalls<K, S, M, F> {
    pub fn new(call: F, others: Arc<dyn Tracker>) -> Self {
        LastCalls {
            call,
            others,
            types: PhantomData,
        }
    }
}

impl<K, S, M, F> Tracker for LastCalls<K, S, M, F>
where
    K: Key,
    S: Record,
    M: Record,
    F: for<'a> Fn(K::Ref<'a>, S, &mut Out<'_, M>) + Closure,
{
    fn apply(&self, events: &Events<'_>) -> Result<Applied> {
        let mut made = M::Builder::default();
        for rows in events.timed_out {
            let keys = columns_of::<K>(rows)?;
            let states = &rows.columns()[events.skip..];
            let states = S::Cols::try_new(&mut ColumnReader::new(states))?;
            for row in 0..rows.num_rows() {
                let state = S::own(states.get(row));
                (self.call)(keys.get(row), state, &mut Out::new(&mut made));
            }
        }
        let last = finish_batch(&M::schema(), &mut made)?;
        let mut applied = self.others.apply(&Events {
            timed_out: &[],
            states: events.states.clone(),
            ..*events
        })?;
        applied.mapped = Some(match applied.mapped {
            Some(mapped) => concat_batches(&M::schema(), &[last, mapped])?,
            None => last,
        });
        Ok(applied)
    }

    fn mapped(&self) -> Option<SchemaRef> {
        self.others.mapped()
    }
}

/// A closure for each key of a batch, with all its values.
pub(crate) struct EachKey<K, V, S, F> {
    call: F,
    types: Types<K, V, S, ()>,
}

impl<K, V, S, F> EachKey<K, V, S, F> {
    pub fn new(call: F) -> Self {
        EachKey {
            call,
            types: PhantomData,
        }
    }
}

impl<K, V, S, F> Tracker for EachKey<K, V, S, F>
where
    K: Key,
    V: Record,
    S: Record,
    F: for<'a> Fn(K::Ref<'a>, Values<'a, V>, Option<S>) -> Option<S> + Closure,
{
    fn apply(&self, events: &Events<'_>) -> Result<Applied> {
        let keys = events.rows.iter().map(columns_of::<K>);
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let values = events.rows.iter().map(|rows| {
            let columns = &rows.columns()[events.skip..];
            V::Cols::try_new(&mut ColumnReader::new(columns))
        });
        let values = values.collect::<Result<Vec<_>>>()?;
        let (places, ends) = by_key(events.key_of, events.there.len());
        let mut from = 0;
        let states = events.held::<S>()?.zip(ends).map(|(state, end)| {
            let places = &places[std::mem::replace(&mut from, end)..end];
            // The keys come from the events, so each key has one.
            let (batch, row) = places.first()?;
            let key = keys[*batch as usize].get(*row as usize);
            (self.call)(key, Values::new(&values, places, events.time), state)
        });
        Applied::of(states)
    }
}

/// The places (batch, row) of all rows, grouped by key and in order within a key; and the end of each group.
fn by_key(key_of: &[Vec<usize>], keys: usize) -> (Vec<(u32, u32)>, Vec<usize>) {
    let mut ends = vec![0; keys];
    key_of.iter().flatten().for_each(|key| ends[*key] += 1);
    let mut sum = 0;
    for end in &mut ends {
        sum += std::mem::replace(end, sum);
    }
    let mut places = vec![(0, 0); sum];
    for (keys, batch) in key_of.iter().zip(0..) {
        for (key, row) in keys.iter().zip(0..) {
            places[ends[*key]] = (batch, row);
            ends[*key] += 1;
        }
    }
    (places, ends)
}
