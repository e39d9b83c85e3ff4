//! [`Track`] and [`MapWithState`]: states of keys, by closures.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::each_event::{EachEvent, LastCall};
use super::initial::Initial;
use super::key_state::{KeyState, Values};
use super::record::{Key, Out, Record};
use super::rows::Closure;
use super::tracker::{EachKey, Tracker, Types};
use crate::debug::debug_as;
use crate::error::Result;

/// The closures and settings of [`Keyed::track`](crate::Keyed::track).
#[must_use = "give it to `Keyed::track`"]
pub struct Track<K, V, S> {
    pub(crate) tracker: Arc<dyn Tracker>,
    pub(crate) settings: Settings,
    types: Types<K, V, S, ()>,
}

debug_as!([K, V, S] Track<K, V, S> { settings });

/// The closures and settings of [`Keyed::map_with_state`](crate::Keyed::map_with_state).
#[must_use = "give it to `Keyed::map_with_state`"]
pub struct MapWithState<K: Key, V, S, M: Record> {
    make: Make<K, S, M>,
    last: Option<LastCall<K, S, M>>,
    pub(crate) settings: Settings,
    types: Types<K, V, S, M>,
}

debug_as!([K: Key, V, S, M: Record] MapWithState<K, V, S, M> { settings });

/// Makes the tracker once it is known whether there is a closure for keys that leave.
type Make<K, S, M> = Box<dyn FnOnce(Option<LastCall<K, S, M>>) -> Arc<dyn Tracker> + Send + Sync>;

/// Settings shared by [`Track`] and [`MapWithState`].
#[derive(Default)]
pub(crate) struct Settings {
    pub timeout: Option<Duration>,
    pub live: Option<Duration>,
    pub initial: Option<Result<Initial>>,
}

debug_as!(Settings { timeout, live });

impl<K: Key, V: Record, S: Record> Track<K, V, S> {
    /// `initialize(key, event)` returns the state of a new key; `update(key, state, event)` the next state, or `None`
    /// to drop the key. Both must be deterministic.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, orders) = ctx.queue::<(String, i64)>("orders");
    /// use dstreams::Track;
    ///
    /// // The open amount of each customer; one with nothing left to pay is dropped.
    /// let open = Track::<String, i64, i64>::new(
    ///     |_customer, amount| amount,
    ///     |_customer, open, amount| Some(open + amount).filter(|open| *open > 0),
    /// );
    /// let open = orders.by_key().track("open", open)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn new(
        initialize: impl for<'a> Fn(K::Ref<'a>, V::Ref<'a>) -> S + Closure,
        update: impl for<'a> Fn(K::Ref<'a>, S, V::Ref<'a>) -> Option<S> + Closure,
    ) -> Self {
        let next = EachEvent::<K, V, S, (), _>::of_events(move |key, event, state, _| {
            let Some(event) = event else { return };
            let next = match state.remove() {
                None => Some(initialize(key, event)),
                Some(before) => update(key, before, event),
            };
            if let Some(next) = next {
                state.set(next);
            }
        });
        Track {
            tracker: Arc::new(next),
            settings: Settings::default(),
            types: PhantomData,
        }
    }

    /// `update(key, values, state)` returns the new state of a key, or `None` to drop the key. It gets all the key's
    /// values of a batch, in order of arrival, and the previous state. It is called for the keys that have values in
    /// the batch, and must be deterministic.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, readings) = ctx.queue::<(String, f64)>("readings");
    /// use dstreams::Track;
    ///
    /// let newest = Track::<String, f64, f64>::by_batch(|_sensor, values, _before| values.last());
    /// let newest = readings.by_key().track("newest", newest)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn by_batch(
        update: impl for<'a> Fn(K::Ref<'a>, Values<'a, V>, Option<S>) -> Option<S> + Closure,
    ) -> Self {
        Track {
            tracker: Arc::new(EachKey::<K, V, S, _>::new(update)),
            settings: Settings::default(),
            types: PhantomData,
        }
    }
}

impl<K: Key, V: Record, S: Record, M: Record> MapWithState<K, V, S, M> {
    /// `map(key, value, state, out)` is called for each value, in order of arrival: it reads, sets or removes the
    /// state of the key, and pushes any number of records. With a timeout it is called once more for an expired key,
    /// without a value, unless there is [`MapWithState::on_timeout`]; and without a value at each timer that it sets
    /// ([`KeyState::wake_at`](crate::KeyState::wake_at)). It must be deterministic.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, readings) = ctx.queue::<(String, i64)>("readings");
    /// use dstreams::MapWithState;
    ///
    /// // Types of key, value, state, and what is made.
    /// type Rises = MapWithState<String, i64, i64, String>;
    /// let rises = Rises::new(|sensor, value, last, out| {
    ///     let Some(value) = value else { return };
    ///     if last.get().is_some_and(|last| value > *last) {
    ///         out.push(format!("{sensor} rises to {value}"));
    ///     }
    ///     last.set(value);
    /// });
    /// let (rises, _last) = readings.by_key().map_with_state("last", rises)?;
    /// rises.print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn new(
        map: impl for<'a> Fn(K::Ref<'a>, Option<V::Ref<'a>>, &mut KeyState<S>, &mut Out<'_, M>)
        + Closure,
    ) -> Self {
        let make = |last| -> Arc<dyn Tracker> {
            Arc::new(EachEvent::<K, V, S, M, _>::that_maps(map, last))
        };
        MapWithState {
            make: Box::new(make),
            last: None,
            settings: Settings::default(),
            types: PhantomData,
        }
    }

    /// `last(key, state, out)` is called for an expired key in place of the closure of [`MapWithState::new`], which
    /// then has a value unless it sets timers. It owns the last state of the key, and cannot set another.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{MapWithState, StreamContext};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// let visits = MapWithState::<String, i64, i64, String>::new(|_user, price, spent, _out| {
    ///     let before = spent.get().copied().unwrap_or_default();
    ///     spent.set(before + price.unwrap_or_default());
    /// });
    /// let visits = visits
    ///     .timeout(Duration::from_secs(600))
    ///     .on_timeout(|user, spent, out| out.push(format!("{user} left after {spent}")));
    /// let (left, _visits) = clicks.by_key().map_with_state("visits", visits)?;
    /// left.print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn on_timeout(
        mut self,
        last: impl for<'a> Fn(K::Ref<'a>, S, &mut Out<'_, M>) + Closure,
    ) -> Self {
        self.last = Some(Box::new(last));
        self
    }

    pub(crate) fn tracker(self) -> Arc<dyn Tracker> {
        (self.make)(self.last)
    }
}

macro_rules! settings {
    ($of:ident, $($also:ident)*) => {
        impl<K: Key, V: Record, S: Record $(, $also: Record)*> $of<K, V, S $(, $also)*> {
            /// Drops a key without events for this long, in batch times: a multiple of the interval. Its last state
            /// is in [`State::timed_out`](crate::State::timed_out).
            ///
            /// Keys time out before the events of a batch take effect. So a timeout of one interval drops every key
            /// with each RDD, also one that has events again; that of the stream of a window is its slide.
            ///
            /// A restart refuses another timeout if batches since the last checkpoint run again: they would drop other keys
            /// than they did.
            ///
            /// ```
            /// # use dstreams::StreamContext;
            /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
            /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
            /// use std::time::Duration;
            /// use dstreams::Track;
            ///
            /// let clicks_of = Track::<String, i64, i64>::new(|_, n| n, |_, clicks, n| Some(clicks + n));
            /// let visits = clicks_of.timeout(Duration::from_secs(600));
            /// let visits = clicks.by_key().track("visits", visits)?;
            /// # Ok::<(), dstreams::Error>(())
            /// ```
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.settings.timeout = Some(timeout);
                self
            }

            /// Drops a key so long after the batch of its *first* event, in batch times: a multiple of the interval. Its
            /// last state is in [`State::timed_out`](crate::State::timed_out). With a timeout too, whichever is first.
            ///
            /// A key begins with the first value after which it has a state, and again after it was dropped or had no
            /// state. It is dropped before the events of the batch take effect, of which the first then begins it anew.
            /// Costs 8 bytes a key. A restart refuses another length as it refuses another timeout.
            ///
            /// ```
            /// # use dstreams::StreamContext;
            /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
            /// # let (_, orders) = ctx.queue::<(String, i64)>("orders");
            /// use std::time::Duration;
            /// use dstreams::Track;
            ///
            /// // What each customer orders within an hour of the first order.
            /// let sum = Track::<String, i64, i64>::new(|_, price| price, |_, sum, price| Some(sum + price));
            /// let hours = orders.by_key().track("hours", sum.live(Duration::from_secs(3600)))?;
            /// hours.timed_out().pairs().print(10);
            /// # Ok::<(), dstreams::Error>(())
            /// ```
            pub fn live(mut self, length: Duration) -> Self {
                self.settings.live = Some(length);
                self
            }

            /// The initial state: the states of keys before the first batch, as if their only event had been in the
            /// interval before it. Each key once.
            ///
            /// Used only when the program runs its first batch with this state: a program that is restored from a
            /// directory resumes its own state. On a cluster every process must get the same rows. They stay in
            /// memory with the program, beside the state.
            ///
            /// ```
            /// # use dstreams::StreamContext;
            /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
            /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
            /// use dstreams::Track;
            ///
            /// let totals = Track::<String, i64, i64>::new(|_, n| n, |_, total, n| Some(total + n));
            /// let totals = totals.initial([("Berlin".to_owned(), 1_200), ("Hamburg".to_owned(), 800)]);
            /// let totals = sales.by_key().track("totals", totals)?;
            /// # Ok::<(), dstreams::Error>(())
            /// ```
            pub fn initial(mut self, rows: impl IntoIterator<Item = (K, S)>) -> Self {
                self.settings.initial = Some(Initial::new(rows));
                self
            }
        }
    };
}
settings!(Track,);
settings!(MapWithState, M);
