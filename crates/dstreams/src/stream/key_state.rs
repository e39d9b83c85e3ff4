//! Arguments of closures over states: the state of one key ([`KeyState`]) and its values in a batch ([`Values`]).

use dstreams_control::BatchTime;

use super::record::{Columns, Record};
use crate::debug::debug_as;

/// The state of one key, passed to the closure of [`Keyed::map_with_state`](crate::Keyed::map_with_state).
pub struct KeyState<S> {
    state: Option<S>,
    time: BatchTime,
    /// [`BatchTime::MAX`] for none.
    timer: BatchTime,
    call: CallOf,
    /// Whether the state, or a timer, was set in a last call.
    set_in_vain: bool,
    /// Whether the key has had no state at some time of the batch.
    fresh: bool,
}

debug_as!([S] KeyState<S> { time, timer, call });

/// Why a closure is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallOf {
    Value,
    Timer,
    End,
}

impl<S> KeyState<S> {
    pub(crate) fn of(state: Option<S>, timer: BatchTime, time: BatchTime) -> Self {
        KeyState {
            fresh: state.is_none(),
            state,
            time,
            timer,
            call: CallOf::Value,
            set_in_vain: false,
        }
    }

    pub(crate) fn timing_out(state: S, time: BatchTime) -> Self {
        KeyState {
            call: CallOf::End,
            ..KeyState::of(Some(state), BatchTime::MAX, time)
        }
    }

    /// Before the call of a timer, which is over then.
    pub(crate) fn wake(&mut self) {
        self.timer = BatchTime::MAX;
        self.call = CallOf::Timer;
    }

    /// After each call: what ends with the state, if that is gone.
    #[inline]
    pub(crate) fn settle(&mut self) {
        self.call = CallOf::Value;
        if self.state.is_none() {
            self.timer = BatchTime::MAX;
            self.fresh = true;
        }
    }

    /// Takes out the state of a key that leaves.
    pub(crate) fn leave(&mut self) -> Option<S> {
        let state = self.state.take();
        self.settle();
        state
    }

    pub(crate) fn timer(&self) -> BatchTime {
        self.timer
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub(crate) fn into_state(self) -> Option<S> {
        self.state
    }

    pub(crate) fn was_set_in_vain(&self) -> bool {
        self.set_in_vain
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
        match self.call {
            CallOf::End => self.set_in_vain = true,
            CallOf::Value | CallOf::Timer => self.state = Some(state),
        }
    }

    /// Takes the state out, and ends the timer of the key ([`KeyState::wake_at`]); the key is removed unless another
    /// state is set.
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
        self.timer = BatchTime::MAX;
        self.state.take()
    }

    /// Sets the timer of the key: the closure is called for it once more, without a value, with the first batch at or
    /// after `at`; with the next batch if `at` is not after this one.
    ///
    /// A key has one timer. A later call replaces it, [`KeyState::remove`] ends it, and it ends with the key: when that
    /// times out, or has no state after a call. [`BatchTime::MAX`] is never. A timer is no event: a timeout goes on from
    /// the last value.
    ///
    /// With each batch the keys whose time is over come first, timers and timeouts by the times at which they were due,
    /// and then the values: a key with a timer and a value in one batch is first woken. Timers cost nothing until they
    /// are due, and are stored with the state. They follow batch times, and so are the same in every run of a batch. Has
    /// no effect in the last call of a key that timed out.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use std::time::Duration;
    /// # use dstreams::{Config, MapWithState, testing};
    /// // What is in a basket ten seconds after its first item, whatever comes until then.
    /// type Baskets = MapWithState<String, i64, i64, (String, i64)>;
    /// let baskets = Baskets::new(|user, item, basket, out| match item {
    ///     Some(price) => {
    ///         if basket.get().is_none() {
    ///             basket.wake_at(basket.time().plus(10_000));
    ///         }
    ///         basket.set(basket.get().copied().unwrap_or_default() + price);
    ///     }
    ///     None => out.push((user, basket.remove().unwrap_or_default())), // is_woken
    /// });
    /// let item = |price: i64| vec![("ada".to_owned(), price)];
    /// let mut input = vec![item(3), vec![], item(4)];
    /// input.resize(11, Vec::new());
    /// let config = Config::new(Duration::from_secs(1));
    /// let batches = testing::run(&config, input, |items| {
    ///     Ok(items.by_key().map_with_state("baskets", baskets)?.0)
    /// });
    /// assert_eq!(batches.await?[10].1, [("ada".to_owned(), 7)]);
    /// # Ok(()) }
    /// ```
    pub fn wake_at(&mut self, at: BatchTime) {
        match self.call {
            CallOf::End => self.set_in_vain = true,
            CallOf::Value | CallOf::Timer => self.timer = at,
        }
    }

    /// Whether the closure is called because the key's timer is due ([`KeyState::wake_at`]): then it has no value. The
    /// state may be read, set and removed, and the timer set again.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, readings) = ctx.queue::<(String, f64)>("readings");
    /// # use dstreams::MapWithState;
    /// # use std::time::Duration;
    /// // The last reading of each sensor every minute, also when there is no new one.
    /// type Samples = MapWithState<String, f64, f64, (String, f64)>;
    /// let samples = Samples::new(|sensor, reading, last, out| {
    ///     if last.get().is_none() || last.is_woken() {
    ///         last.wake_at(last.time().plus(60_000));
    ///     }
    ///     match (reading, last.get()) {
    ///         (Some(reading), _) => last.set(reading),
    ///         (None, Some(last)) => out.push((sensor, *last)),
    ///         (None, None) => {}
    ///     }
    /// });
    /// let samples = samples.timeout(Duration::from_secs(3600)).on_timeout(|_, _, _| ());
    /// let (samples, _last) = readings.by_key().map_with_state("samples", samples)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn is_woken(&self) -> bool {
        self.call == CallOf::Timer
    }

    /// Whether this is the last call for the key because its time is over ([`MapWithState::timeout`],
    /// [`MapWithState::live`]): then it has no value.
    ///
    /// [`MapWithState::timeout`]: crate::MapWithState::timeout
    /// [`MapWithState::live`]: crate::MapWithState::live
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
        self.call == CallOf::End
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
