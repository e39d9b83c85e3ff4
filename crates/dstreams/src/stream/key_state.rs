//! Arguments of closures over states: the state of one key ([`KeyState`]) and its values in a batch ([`Values`]).

use dstreams_control::BatchTime;

use super::record::{Columns, Record};
use crate::debug::debug_as;

/// The state of one key, passed to the closure of [`Keyed::map_with_state`](crate::Keyed::map_with_state).
pub struct KeyState<S> {
    state: Option<S>,
    time: BatchTime,
    timing_out: bool,
    set: bool,
}

debug_as!([S] KeyState<S> { time, timing_out, set });

impl<S> KeyState<S> {
    pub(crate) fn of(state: Option<S>, time: BatchTime) -> Self {
        KeyState {
            state,
            time,
            timing_out: false,
            set: false,
        }
    }

    pub(crate) fn timing_out(state: S, time: BatchTime) -> Self {
        KeyState {
            state: Some(state),
            time,
            timing_out: true,
            set: false,
        }
    }

    pub(crate) fn into_state(self) -> Option<S> {
        self.state
    }

    pub(crate) fn was_set(&self) -> bool {
        self.set
    }

    /// The state; `None` if the key is new, or an earlier event removed its state.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// # use dstreams::MapWithState;
    /// # use std::time::Duration;
    /// # type Visits = MapWithState<String, i64, i64, String>;
    /// let visits = Visits::new(|user, clicks, state, out| {
    ///     if state.get().is_none() {
    ///         out.push(format!("{user} is new"));
    ///     }
    ///     state.set(clicks.unwrap_or_default());
    /// });
    /// let (made, _visits) = clicks.by_key().map_with_state("visits", visits)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn get(&self) -> Option<&S> {
        self.state.as_ref()
    }

    /// Sets the state of the key.
    ///
    /// Has no effect in the last call of a key that timed out, since the key is removed anyway; that is logged as an
    /// error. [`MapWithState::on_timeout`](crate::MapWithState::on_timeout) takes a closure for last calls that
    /// cannot set the state.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// # use dstreams::MapWithState;
    /// # use std::time::Duration;
    /// # type Visits = MapWithState<String, i64, i64, String>;
    /// let visits = Visits::new(|_user, clicks, state, _out| {
    ///     let before = state.get().copied().unwrap_or_default();
    ///     state.set(before + clicks.unwrap_or_default());
    /// });
    /// let (made, _visits) = clicks.by_key().map_with_state("visits", visits)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn set(&mut self, state: S) {
        self.set = true;
        if !self.timing_out {
            self.state = Some(state);
        }
    }

    /// Takes the state out; the key is removed unless another state is set.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// # use dstreams::MapWithState;
    /// # use std::time::Duration;
    /// # type Visits = MapWithState<String, i64, i64, String>;
    /// let visits = Visits::new(|user, clicks, state, out| match clicks {
    ///     // This program's sign that a user logs out.
    ///     Some(0) => {
    ///         let clicks = state.remove().unwrap_or_default();
    ///         out.push(format!("{user} leaves after {clicks} clicks"));
    ///     }
    ///     clicks => state.set(state.get().copied().unwrap_or_default() + clicks.unwrap_or_default()),
    /// });
    /// let (made, _visits) = clicks.by_key().map_with_state("visits", visits)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn remove(&mut self) -> Option<S> {
        self.state.take()
    }

    /// Whether this is the last call for the key because it timed out: then it has no value.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// # use dstreams::MapWithState;
    /// # use std::time::Duration;
    /// # type Visits = MapWithState<String, i64, i64, String>;
    /// let visits = Visits::new(|user, clicks, state, out| {
    ///     if state.is_timing_out() {
    ///         return out.push(format!("{user} is gone"));
    ///     }
    ///     state.set(clicks.unwrap_or_default());
    /// });
    /// let visits = visits.timeout(Duration::from_secs(600));
    /// let (made, _visits) = clicks.by_key().map_with_state("visits", visits)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn is_timing_out(&self) -> bool {
        self.timing_out
    }

    /// The time of the batch of the value; in the last call of a key that timed out, of the batch with which it
    /// expires. The same in every run of the batch, unlike the time of the clock.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// # use dstreams::MapWithState;
    /// # type Visits = MapWithState<String, i64, u64, String>;
    /// let visits = Visits::new(|user, _click, since, out| {
    ///     let now = since.time().millis();
    ///     let first = since.get().copied().unwrap_or(now);
    ///     out.push(format!("{user} has been here for {} ms", now - first));
    ///     since.set(first);
    /// });
    /// let (made, _visits) = clicks.by_key().map_with_state("visits", visits)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn time(&self) -> BatchTime {
        self.time
    }
}

/// The values of one key in a batch, in order of arrival: at least one.
pub struct Values<'a, V: Record> {
    columns: &'a [V::Cols],
    places: std::slice::Iter<'a, (u32, u32)>,
    time: BatchTime,
}

debug_as!([V: Record] Values<'_, V>);

impl<'a, V: Record> Values<'a, V> {
    pub(crate) fn new(columns: &'a [V::Cols], places: &'a [(u32, u32)], time: BatchTime) -> Self {
        Values {
            columns,
            places: places.iter(),
            time,
        }
    }

    /// The time of their batch: the same in every run of it.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, readings) = ctx.queue::<(String, f64)>("readings");
    /// // When each sensor was heard of for the first time.
    /// let first = readings.by_key().update_state_by_key("first", |_sensor, values, first| {
    ///     Some(first.unwrap_or(values.time().millis()))
    /// })?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn time(&self) -> BatchTime {
        self.time
    }
}

impl<V: Record> Clone for Values<'_, V> {
    fn clone(&self) -> Self {
        Values {
            columns: self.columns,
            places: self.places.clone(),
            time: self.time,
        }
    }
}

impl<'a, V: Record> Iterator for Values<'a, V> {
    type Item = V::Ref<'a>;

    #[inline]
    fn next(&mut self) -> Option<V::Ref<'a>> {
        let (batch, row) = self.places.next()?;
        Some(self.columns[*batch as usize].get(*row as usize))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl<V: Record> ExactSizeIterator for Values<'_, V> {}
