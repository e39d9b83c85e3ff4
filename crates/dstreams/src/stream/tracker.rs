//! The engine's side of states by closures: applies the events of a batch to the states of their keys.
//!
//! The engine only knows [`Tracker`], with one call for each partition of a batch. [`EachEvent`] calls a closure for
//! each event, [`EachKey`] for each key of the batch; both store the states of the batch's keys as owned values while
//! they run.
//!
//! [`EachEvent`]: super::each_event::EachEvent

use std::marker::PhantomData;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;

use super::key_state::Values;
use super::record::{ColumnReader, Columns, Key, Record, batch_of, columns_of, records_of};
use super::rows::Closure;
use crate::error::Result;

/// Closures over Arrow batches.
pub(crate) trait Tracker: Send + Sync {
    /// Applies the events of a batch, in their order, to the states of their keys.
    fn apply(&self, events: &Events<'_>) -> Result<Applied>;

    /// Columns of the closures' results besides states, if there are any; then keys may have timers.
    fn mapped(&self) -> Option<SchemaRef> {
        None
    }
}

/// The events of a batch, and the states of their keys.
pub(crate) struct Events<'a> {
    /// The batch.
    pub time: BatchTime,
    /// Whether each key has a state, before its first call in this batch. The woken keys come first.
    pub has_state: &'a BooleanArray,
    /// The states of the keys that have one, in the order of the keys.
    pub states: RecordBatch,
    /// Keys and values of the events, in order of arrival.
    pub rows: &'a [RecordBatch],
    /// The key of each row, by its index among the keys.
    pub key_of: &'a [Vec<usize>],
    /// Number of key columns.
    pub skip: usize,
    /// The timers of the keys, [`BatchTime::MAX`] for those without; empty if no key has one.
    pub timers: &'a [BatchTime],
    /// Keys and last states of the keys that expire with this batch and are not woken before; not among the other
    /// states.
    pub timed_out: &'a [RecordBatch],
    /// The woken keys: those of the first indices.
    pub woken: &'a RecordBatch,
    /// The calls for keys whose time has come, in their order. They come before the events.
    pub due: &'a [DueCall],
}

/// A call for a key whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DueCall {
    /// The next row of [`Events::timed_out`] leaves.
    Leaves,
    /// The key is woken: its index among the keys.
    Wakes(u32),
    /// The key, which was woken before, leaves.
    LeavesLater(u32),
}

/// The effect of a batch on its keys; keys without a state now are not included.
pub(crate) struct Applied {
    /// Indices of the keys that have a state now, in order.
    pub live: Vec<u32>,
    /// Their states.
    pub states: RecordBatch,
    /// Whether they had no state at some time of the batch, so that its events are their first ones.
    pub fresh: Vec<bool>,
    /// Their timers, [`BatchTime::MAX`] for those without; empty if no key has one.
    pub timers: Vec<BatchTime>,
    /// The keys that left after they were woken ([`DueCall::LeavesLater`]); none if closures are not called for keys
    /// that leave.
    pub left: Option<LeftKeys>,
    /// The results of the closures, in the order of the calls.
    pub mapped: Option<RecordBatch>,
}

/// Keys that left after they were woken, in the order of the calls; without those that were removed when they were
/// woken.
pub(crate) struct LeftKeys {
    /// Their indices among the keys.
    pub keys: Vec<u32>,
    /// Their last states.
    pub states: RecordBatch,
}

impl Events<'_> {
    /// The state of each key.
    pub fn states_by_key<S: Record>(&self) -> Result<impl Iterator<Item = Option<S>>> {
        let mut held = records_of::<S>(&self.states)?.into_iter();
        let there = self.has_state.values().iter();
        Ok(there.map(move |there| there.then(|| held.next()).flatten()))
    }
}

impl Applied {
    /// Whether each key had no state at some time, and its state now.
    pub fn of<S: Record>(states: impl Iterator<Item = (bool, Option<S>)>) -> Result<Self> {
        let (mut live, mut fresh) = (Vec::new(), Vec::new());
        let states = states.zip(0u32..).filter_map(|((is_fresh, state), key)| {
            if state.is_some() {
                live.push(key);
                fresh.push(is_fresh);
            }
            state
        });
        let states = batch_of(states)?;
        Ok(Applied {
            live,
            states,
            fresh,
            timers: Vec::new(),
            left: None,
            mapped: None,
        })
    }
}

/// The types of a tracker's closure: key, value, state, result.
pub(crate) type Types<K, V, S, M> = PhantomData<fn() -> (K, V, S, M)>;

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
        let (places, ends) = by_key(events.key_of, events.has_state.len());
        let mut from = 0;
        let states = events.states_by_key::<S>()?.zip(ends).map(|(state, end)| {
            let (is_new, places) = (
                state.is_none(),
                &places[std::mem::replace(&mut from, end)..end],
            );
            // The keys come from the events, so each key has one.
            let state = places.first().and_then(|(batch, row)| {
                let key = keys[*batch as usize].get(*row as usize);
                (self.call)(key, Values::new(&values, places, events.time), state)
            });
            (is_new, state)
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
