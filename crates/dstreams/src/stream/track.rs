//! [`Track`]: a state for each key, by closures.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{BooleanArray, RecordBatch};

use super::record::{ColumnReader, Columns, Key, Record, batch_of, columns_of, records_of};
use super::rows::Op;
use crate::error::Result;

/// What [`Keyed::track`](crate::Keyed::track) does with events: see there.
pub struct Track<K, V, S> {
    tracker: Arc<dyn Tracker>,
    pub(crate) timeout: Option<Duration>,
    types: Types<K, V, S>,
}

/// Whose track it is.
type Types<K, V, S> = PhantomData<fn() -> (K, V, S)>;

impl<K: Key, V: Record, S: Record> Track<K, V, S> {
    /// `initialize(key, event)` makes the state of a new key; `update(key, state, event)` the next state,
    /// or none to drop the key. Both must be deterministic.
    pub fn new(
        initialize: impl for<'a> Fn(K::Ref<'a>, V::Ref<'a>) -> S + Op,
        update: impl for<'a> Fn(K::Ref<'a>, S, V::Ref<'a>) -> Option<S> + Op,
    ) -> Self {
        let closures = Closures {
            initialize,
            update,
            types: Types::<K, V, S>::default(),
        };
        Track {
            tracker: Arc::new(closures),
            timeout: None,
            types: PhantomData,
        }
    }

    /// Drops a key that saw no event for so long, in batch times: a multiple of the interval.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(crate) fn into_tracker(self) -> Arc<dyn Tracker> {
        self.tracker
    }
}

/// A track over Arrow batches.
pub(crate) trait Tracker: Send + Sync {
    /// Applies the events of a batch, in their order, to the states of their keys.
    fn apply(&self, events: &Events<'_>) -> Result<Applied>;
}

/// The events of a batch, and the states of their keys.
pub(crate) struct Events<'a> {
    /// Whether each key has a state.
    pub there: &'a BooleanArray,
    /// The states of those that have, in the order of the keys.
    pub states: RecordBatch,
    /// Keys and values of the events, in order of arrival.
    pub rows: &'a [RecordBatch],
    /// The key of each row, by its place among the keys.
    pub key_of: &'a [Vec<usize>],
    /// Columns of keys.
    pub skip: usize,
}

/// What became of the keys of a batch; those that have a state no more are not among them.
pub(crate) struct Applied {
    /// The keys that have a state now, by their place, in order.
    pub kept: Vec<u32>,
    /// Their states.
    pub states: RecordBatch,
}

struct Closures<K, V, S, I, U> {
    initialize: I,
    update: U,
    types: Types<K, V, S>,
}

impl<K, V, S, I, U> Tracker for Closures<K, V, S, I, U>
where
    K: Key,
    V: Record,
    S: Record,
    I: for<'a> Fn(K::Ref<'a>, V::Ref<'a>) -> S + Op,
    U: for<'a> Fn(K::Ref<'a>, S, V::Ref<'a>) -> Option<S> + Op,
{
    fn apply(&self, events: &Events<'_>) -> Result<Applied> {
        let mut held = records_of::<S>(&events.states)?.into_iter();
        let there = events.there.values().iter();
        let mut states: Vec<Option<S>> = there
            .map(|there| there.then(|| held.next()).flatten())
            .collect();
        for (rows, key_of) in events.rows.iter().zip(events.key_of) {
            let keys = columns_of::<K>(rows)?;
            let values = V::Cols::try_new(&mut ColumnReader::new(&rows.columns()[events.skip..]))?;
            for (row, key) in key_of.iter().enumerate() {
                let (of, event) = (keys.get(row), values.get(row));
                let state = &mut states[*key];
                *state = match state.take() {
                    None => Some((self.initialize)(of, event)),
                    Some(state) => (self.update)(of, state, event),
                };
            }
        }
        let kept = states
            .iter()
            .zip(0u32..)
            .filter(|(state, _)| state.is_some());
        Ok(Applied {
            kept: kept.map(|(_, key)| key).collect(),
            states: batch_of(states.into_iter().flatten())?,
        })
    }
}
