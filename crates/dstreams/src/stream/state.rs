//! Keyed state: a value for each key, maintained over all batches.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::agg::Agg;
use super::dstream::DStream;
use super::graph::{GraphRef, NodeId, Op, View};
use super::key_state::Values;
use super::keyed::Keyed;
use super::lifetime::Lifetime;
use super::record::{Key, Record};
use super::rows::Closure as Rows;
use super::track::{MapWithState, Settings, Track};
use super::tracker::Tracker;
use super::window;
use crate::debug::debug_as;
use crate::error::{Error, Operator, Result};

/// The state of a keyed operator: a value of type `S` for each key of type `K`, with a version for each
/// batch.
#[must_use = "a state that only `Running::table` asks for is assigned to `_`"]
pub struct State<K, S> {
    pub(super) graph: GraphRef,
    pub(super) node: NodeId,
    pair: PhantomData<fn() -> (K, S)>,
}

debug_as!([K, S] State<K, S> { node });

impl<K, S> Clone for State<K, S> {
    fn clone(&self) -> Self {
        State {
            graph: self.graph.clone(),
            node: self.node,
            pair: PhantomData,
        }
    }
}

impl<K: Key, S: Record> State<K, S> {
    /// The changes of each batch: keys with a new value, with that value. O(changes).
    ///
    /// Does not contain dropped keys; expired ones are in [`State::timed_out`].
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, sales) = ctx.queue::<(String, i64)>("sales");
    /// use dstreams::Track;
    ///
    /// let totals = Track::<String, i64, i64>::new(|_, n| n, |_, total, n| Some(total + n));
    /// let totals = totals.initial([("old".to_owned(), 5)]);
    /// let totals = sales.by_key().track("totals", totals)?;
    /// let mut changes = totals.changes().collect();
    /// # let running = ctx.start().await?;
    /// queue.push([("new".to_owned(), 1), ("new".to_owned(), 2)]).await?;
    /// # running.stop().await?;
    /// assert_eq!(changes.recv().await.unwrap().collect()?, [("new".to_owned(), 3)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn changes(&self) -> Keyed<K, S> {
        self.read(View::Changes, Operator::new("changes", Location::caller()))
    }

    /// The whole state as of each batch, in an order that depends on the batches alone. O(keys stored).
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, sales) = ctx.queue::<(String, i64)>("sales");
    /// use dstreams::Track;
    ///
    /// let totals = Track::<String, i64, i64>::new(|_, n| n, |_, total, n| Some(total + n));
    /// let totals = totals.initial([("old".to_owned(), 5)]);
    /// let totals = sales.by_key().track("totals", totals)?;
    /// let mut all = totals.all().top(10).collect(); // in an order of their own
    /// # let running = ctx.start().await?;
    /// queue.push([("new".to_owned(), 1)]).await?;
    /// # running.stop().await?;
    /// let totals = all.recv().await.unwrap().collect()?;
    /// assert_eq!(totals, [("old".to_owned(), 5), ("new".to_owned(), 1)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn all(&self) -> Keyed<K, S> {
        self.read(View::All, Operator::new("all", Location::caller()))
    }

    /// The keys that expire with each batch, with their last state. O(keys that expire). Empty for a state without a
    /// timeout.
    ///
    /// Includes a key that expires with a batch that has an event of it: the event then creates a new state. Does not
    /// include keys dropped by `update`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{StreamContext, Track};
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// let track = Track::new(|_, price| price, |_, spent: i64, price| Some(spent + price));
    /// let visits = clicks.by_key().track("visits", track.timeout(Duration::from_secs(600)))?;
    /// visits
    ///     .timed_out()
    ///     .pairs()
    ///     .map(|(user, spent)| format!("{user} left after {spent}"))
    ///     .print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn timed_out(&self) -> Keyed<K, S> {
        self.read(
            View::TimedOut,
            Operator::new("timed_out", Location::caller()),
        )
    }

    fn read(&self, view: View, operator: Operator) -> Keyed<K, S> {
        let op = Op::StateView(view);
        let node = self
            .graph
            .add_to(self.node, op, <(K, S)>::schema(), operator);
        Keyed::at(&self.graph, node)
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Aggregates the values of each key over all batches so far: the paper's `runningReduce`. Takes any of
    /// [`agg`](crate::agg), or several as a tuple; all have a fixed size for each key.
    ///
    /// `name` names the state in checkpoints and messages. A batch costs O(its keys), regardless of the number of
    /// stored keys. State is never dropped: see [`Keyed::running_agg_for`] for one with a timeout.
    ///
    /// ```
    /// use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let (_, words) = ctx.queue::<String>("words");
    /// let counts = words.keyed().running_agg("counts", count())?;
    /// counts.changes().print(10); // words that came in this batch, with their counts so far
    /// counts.all().top(10).print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    ///
    /// Refused like [`Keyed::window_agg`], or if another state has the name.
    #[track_caller]
    pub fn running_agg<A: Agg<V>>(&self, name: &str, agg: A) -> Result<State<K, A::Out>> {
        let operator = Operator::new("running_agg", Location::caller());
        self.running(name, agg, None, operator)
    }

    /// [`Keyed::running_agg`] that forgets a key without a record for so long, in batch times: a multiple of the interval
    /// at which this stream has RDDs. What it was is in [`State::timed_out`].
    ///
    /// A key is forgotten with the first batch that is so much later than that of its last record. If that batch has
    /// records of the key, these begin it anew. A batch costs O(its keys + keys that are forgotten), and memory is O(keys
    /// with a record within the timeout). A restart refuses another timeout if batches since the last checkpoint run again,
    /// which would forget other keys than they did.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// use std::time::Duration;
    /// use dstreams::{Clock, StreamContext, agg::sum};
    ///
    /// let interval = Duration::from_secs(1);
    /// let mut ctx = StreamContext::new(interval)?;
    /// let (time, clock) = Clock::manual(Duration::ZERO);
    /// ctx.set_clock(clock);
    /// let (queue, sales) = ctx.queue::<(String, i64)>("sales");
    /// let spent = sales.by_key().running_agg_for("spent", 2 * interval, sum::<i64>())?;
    /// let mut left = spent.timed_out().collect();
    /// let running = ctx.start().await?;
    /// queue.push([("ada".to_owned(), 3), ("ada".to_owned(), 4)]).await?;
    /// for _ in 0..2 {
    ///     time.advance(interval);
    ///     assert!(left.recv().await.unwrap().collect()?.is_empty());
    /// }
    /// time.advance(interval); // the last sale was two intervals ago
    /// assert_eq!(left.recv().await.unwrap().collect()?, [("ada".to_owned(), 7)]);
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Refused like [`Keyed::running_agg`] and [`Keyed::track`].
    #[track_caller]
    pub fn running_agg_for<A: Agg<V>>(
        &self,
        name: &str,
        timeout: Duration,
        agg: A,
    ) -> Result<State<K, A::Out>> {
        let operator = Operator::new("running_agg_for", Location::caller());
        let every = self.graph.lock().node(self.node).slide_ms;
        let timeout = window::multiple_of(every, timeout, "timeout", &operator)?;
        self.running(name, agg, Some(timeout), operator)
    }

    fn running<A: Agg<V>>(
        &self,
        name: &str,
        agg: A,
        timeout_ms: Option<u64>,
        operator: Operator,
    ) -> Result<State<K, A::Out>> {
        let plan = Self::resolve(&agg, &operator)?;
        window::check_columns(&plan, &<(K, V)>::schema(), &operator)?;
        let op = Op::Running {
            name: name.to_owned(),
            keys: Self::key_columns(),
            plan,
            timeout_ms,
        };
        self.state(op, <(K, A::Out)>::schema(), operator)
    }

    /// Maintains a state for each key by closures: the paper's `track`.
    ///
    /// `initialize` gets the first event of a key. `update` gets each later one, in order of arrival, and returns the
    /// new state, or `None` to drop the key. With a timeout, a key is dropped at the first batch that is that much
    /// later than the batch of its last event. A batch costs O(its events + keys that expire), regardless of the
    /// number of stored keys. Paper: section 3.2. The last states of expired keys are in [`State::timed_out`];
    /// [`Track::initial`] sets the state before the first batch.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, Track};
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, clicks) = ctx.queue::<(String, i64)>("clicks");
    /// let sessions = clicks.by_key().track(
    ///     "sessions",
    ///     Track::new(|_user, price| price, |_user, spent: i64, price| Some(spent + price))
    ///         .timeout(Duration::from_secs(600)),
    /// )?;
    /// sessions.changes().print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    ///
    /// Refused if another state has the name, or if the timeout is not a multiple of the interval at which this
    /// stream has RDDs.
    #[track_caller]
    pub fn track<S: Record>(&self, name: &str, track: Track<K, V, S>) -> Result<State<K, S>> {
        let operator = Operator::new("track", Location::caller());
        self.tracked(name, track.tracker, track.settings, operator)
    }

    /// Maintains a state for each key by one closure that gets all values of a key in a batch: Spark's
    /// `updateStateByKey`. It is [`Keyed::track`] with [`Track::by_batch`], which supports a timeout and an initial
    /// state.
    ///
    /// `update(key, values, state)` is called only for keys that have values in the batch, so a batch costs O(its
    /// values), regardless of the number of stored keys. Spark calls its function for every stored key, usually
    /// without values, at O(stored keys) per batch. Programs that count silent batches to drop a key use a timeout
    /// here.
    ///
    /// ```
    /// use dstreams::StreamContext;
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let (_, readings) = ctx.queue::<(String, f64)>("readings");
    /// let highest = readings.by_key().update_state_by_key("highest", |_sensor, values, state| {
    ///     Some(values.fold(state.unwrap_or(f64::MIN), f64::max))
    /// })?;
    /// highest.changes().print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    ///
    /// Refused like [`Keyed::track`].
    #[track_caller]
    pub fn update_state_by_key<S: Record>(
        &self,
        name: &str,
        update: impl for<'a> Fn(K::Ref<'a>, Values<'a, V>, Option<S>) -> Option<S> + Rows,
    ) -> Result<State<K, S>> {
        let operator = Operator::new("update_state_by_key", Location::caller());
        let track = Track::by_batch(update);
        self.tracked(name, track.tracker, track.settings, operator)
    }

    /// Maintains a state for each key, and makes records of values and states: Spark's `mapWithState`.
    ///
    /// The first result contains what the closure pushed: for each partition first for keys that expire with the
    /// batch, then for each value in order of arrival. The second is the state. A batch costs O(its values + keys
    /// that expire or are woken), regardless of the number of stored keys. A key that expires with a batch that has a
    /// value of it gets its last call, and then starts over as a new key. Keys have timers: [`KeyState::wake_at`].
    ///
    /// [`KeyState::wake_at`]: crate::KeyState::wake_at
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{MapWithState, StreamContext};
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, logins) = ctx.queue::<(String, String)>("logins");
    /// // Types of key, value, state, and what is made.
    /// type Places = MapWithState<String, String, String, String>;
    /// let places = Places::new(|user, place, last, out| {
    ///     let Some(place) = place else {
    ///         return out.push(format!("{user} was not seen for an hour")); // is_timing_out
    ///     };
    ///     if last.get().is_some_and(|last| last != place) {
    ///         out.push(format!("{user} is in {place} now"));
    ///     }
    ///     last.set(place.to_owned());
    /// });
    /// let known = [("ada".to_owned(), "London".to_owned())];
    /// let (alerts, _places) = logins.by_key().map_with_state(
    ///     "places",
    ///     places.timeout(Duration::from_secs(3600)).initial(known),
    /// )?;
    /// alerts.print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    ///
    /// Refused like [`Keyed::track`].
    #[track_caller]
    pub fn map_with_state<S: Record, M: Record>(
        &self,
        name: &str,
        mut map: MapWithState<K, V, S, M>,
    ) -> Result<(DStream<M>, State<K, S>)> {
        let operator = Operator::new("map_with_state", Location::caller());
        let settings = std::mem::take(&mut map.settings);
        let state = self.tracked(name, map.tracker(), settings, operator.clone())?;
        let mapped = Op::StateView(View::Mapped);
        let node = (self.graph).add_to(state.node, mapped, M::schema(), operator);
        Ok((DStream::at(&self.graph, node), state))
    }

    fn tracked<S: Record>(
        &self,
        name: &str,
        tracker: Arc<dyn Tracker>,
        settings: Settings,
        operator: Operator,
    ) -> Result<State<K, S>> {
        let every = self.graph.lock().node(self.node).slide_ms;
        let length = |length: Option<Duration>, what: &str| {
            let length = length.map(|length| window::multiple_of(every, length, what, &operator));
            length.transpose()
        };
        let lifetime = Lifetime {
            timeout_ms: length(settings.timeout, "timeout")?,
            live_ms: length(settings.live, "time to live")?,
        };
        let initial = settings.initial.transpose().map_err(|error| Error::Graph {
            message: error.to_string(),
            operator: operator.clone(),
        })?;
        let op = Op::Tracked {
            name: name.to_owned(),
            keys: Self::key_columns(),
            lifetime,
            tracker,
            initial,
        };
        self.state(op, <(K, S)>::schema(), operator)
    }

    fn state<S>(
        &self,
        op: Op,
        schema: datafusion::arrow::datatypes::SchemaRef,
        operator: Operator,
    ) -> Result<State<K, S>> {
        let mut graph = self.graph.lock();
        graph.check_name(&op, &operator)?;
        let every = graph.node(self.node).slide_ms;
        let node = graph.push(op, vec![self.node], schema, operator, every);
        drop(graph);
        Ok(State {
            graph: self.graph.clone(),
            node,
            pair: PhantomData,
        })
    }
}
