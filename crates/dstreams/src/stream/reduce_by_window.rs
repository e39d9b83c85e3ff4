//! Windows by closures: `reduce_by_window`, made of a reduction and of states.
//!
//! A state holds what each batch gives for each key, under the key and the batch time, for the length of the window.
//! Without an inverse, all of it is reduced at each slide. With one, a second state adds what enters, and takes out
//! what leaves the first.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::dstream::DStream;
use super::graph::{Op, View};
use super::key_state::Values;
use super::keyed::Keyed;
use super::lifetime::Lifetime;
use super::record::{Key, Out, Record};
use super::rows::Closure;
use super::track::Track;
use super::window::multiple_of;
use crate::error::{Operator, Result};

impl<K: Key, V: Record> Keyed<K, V> {
    /// Combines the values of each key over the batches of the last `len` by a closure, every `slide`: Spark's
    /// `reduceByKeyAndWindow`.
    ///
    /// An RDD exists at the batch times that are multiples of `slide`; it covers the batch times in `(t - len, t]`. `f`
    /// must be associative and commutative. The values of a batch are combined when they come, which costs O(records of
    /// the batch); a slide costs O(keys of each batch, over the window), however few records the newest batch has. With
    /// the inverse of `f` it costs what changes: [`Keyed::reduce_by_window_with_inverse`]. Where an aggregate exists,
    /// [`Keyed::window_agg`] costs less than both.
    ///
    /// `name` names the state, which has a row for each key of each batch of the window; beyond
    /// [`Config::state_memory`](crate::Config::state_memory) it is in files. Refused if another state has the name, or
    /// if `len` or `slide` is no multiple of the interval at which this stream has RDDs.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, logs) = ctx.queue::<(String, String)>("logs");
    /// // The longest line of each host in the last minute.
    /// let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    /// let longest = logs.by_key().reduce_by_window("longest", minute, second, |a, b| {
    ///     if (b.len(), &b) > (a.len(), &a) { b } else { a }
    /// })?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn reduce_by_window(
        &self,
        name: &str,
        len: Duration,
        slide: Duration,
        f: impl Fn(V, V) -> V + Closure,
    ) -> Result<Keyed<K, V>> {
        let operator = Operator::new("reduce_by_window", Location::caller());
        let f = Arc::new(f);
        let slide_ms = self.multiple(slide, "slide", &operator)?;
        let reduced = self.reduce(shared(&f));
        let panes = reduced.panes((name, View::All), len, slide_ms, &operator)?;
        Ok(panes.without_times(operator).reduce(shared(&f)))
    }

    /// [`Keyed::reduce_by_window`] by a closure and its inverse: `inverse(f(a, b), b)` must be `a`. Paper: section 3.2,
    /// the incremental `reduceByWindow`.
    ///
    /// A batch costs O(its records + keys that come or expire), regardless of `len`; reading an RDD costs O(keys in the
    /// window). A key leaves with its last value. `f` must be associative and commutative; floating-point numbers do
    /// not subtract exactly, and what is lost stays until their key leaves.
    ///
    /// There are two states: `name` with a row for each key, and `name` followed by ` panes` with one for each key of
    /// each batch of the window. Refused as [`Keyed::reduce_by_window`] is.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, orders) = ctx.queue::<(String, (i64, i64))>("orders");
    /// // Pieces and cents of each shop in the last hour.
    /// let (hour, second) = (Duration::from_secs(3_600), Duration::from_secs(1));
    /// let turnover = orders.by_key().reduce_by_window_with_inverse(
    ///     "turnover",
    ///     hour,
    ///     second,
    ///     |(m, a), (n, b)| (m + n, a + b),
    ///     |(m, a), (n, b)| (m - n, a - b),
    /// )?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn reduce_by_window_with_inverse(
        &self,
        name: &str,
        len: Duration,
        slide: Duration,
        f: impl Fn(V, V) -> V + Closure,
        inverse: impl Fn(V, V) -> V + Closure,
    ) -> Result<Keyed<K, V>> {
        let operator = Operator::new("reduce_by_window_with_inverse", Location::caller());
        let f = Arc::new(f);
        let slide_ms = self.multiple(slide, "slide", &operator)?;
        let entering = self.reduce(shared(&f));
        let every = entering.every();
        let panes = (&*format!("{name} panes"), View::TimedOut);
        let leaving = entering.panes(panes, len, every, &operator)?;
        let leaving = leaving.without_times(operator.clone());
        let leaving = leaving.map_values(|value| (false, V::own(value)));
        let changes = leaving.union(&entering.map_values(|value| (true, V::own(value))))?;
        let totals = Track::by_batch(
            move |_: K::Ref<'_>, values: Values<'_, (bool, V)>, total: Option<(i64, V)>| {
                values.fold(total, |total, (enters, value)| {
                    let value = V::own(value);
                    match (total, enters) {
                        (None, true) => Some((1, value)),
                        (Some((panes, total)), true) => Some((panes + 1, f(total, value))),
                        (None | Some((1, _)), false) => None,
                        (Some((panes, total)), false) => Some((panes - 1, inverse(total, value))),
                    }
                })
            },
        );
        let totals = changes.state_view((name, View::All), totals, None, slide_ms, &operator)?;
        Ok(totals.map_values(|(_, total)| V::own(total)))
    }

    /// The values of each batch under their batch times, as long as they are in the window; or those that leave it.
    fn panes(
        &self,
        (name, view): (&str, View),
        len: Duration,
        slide_ms: u64,
        operator: &Operator,
    ) -> Result<Keyed<(K, i64), V>> {
        let len_ms = self.multiple(len, "length", operator)?;
        let newest = Track::by_batch(|_, values: Values<'_, V>, _| values.last().map(V::own));
        let panes = self.by_time_too(operator.clone());
        panes.state_view((name, view), newest, Some(len_ms), slide_ms, operator)
    }

    /// A view of a state by closures, read at the multiples of `slide_ms`.
    fn state_view<S: Record>(
        &self,
        (name, view): (&str, View),
        track: Track<K, V, S>,
        timeout_ms: Option<u64>,
        slide_ms: u64,
        operator: &Operator,
    ) -> Result<Keyed<K, S>> {
        let op = Op::Tracked {
            name: name.to_owned(),
            keys: Self::key_columns(),
            lifetime: Lifetime {
                timeout_ms,
                live_ms: None,
            },
            tracker: track.tracker,
            initial: None,
        };
        let (schema, inputs) = (<(K, S)>::schema(), vec![self.node]);
        let mut graph = self.graph.lock();
        graph.check_name(&op, operator)?;
        let state = graph.push(op, inputs, Arc::clone(&schema), operator.clone(), slide_ms);
        drop(graph);
        let view = Op::StateView(view);
        let node = self.graph.add_to(state, view, schema, operator.clone());
        Ok(Keyed::at(&self.graph, node))
    }

    fn every(&self) -> u64 {
        self.graph.lock().node(self.node).slide_ms
    }

    fn multiple(&self, length: Duration, what: &str, operator: &Operator) -> Result<u64> {
        multiple_of(self.every(), length, what, operator)
    }
}

impl<K: Key, V: Record> Keyed<(K, i64), V> {
    fn without_times(&self, operator: Operator) -> Keyed<K, V> {
        let call = |((key, _), value): <((K, i64), V) as Record>::Ref<'_>,
                    out: &mut Out<'_, (K, V)>| {
            let (keys, values) = out.builder();
            K::append_ref(key, keys);
            V::append_ref(value, values);
        };
        self.pairs().emit(operator, call).by_key()
    }
}

impl<T: Record> DStream<T> {
    /// Combines all records of the last `len` by a closure, every `slide`, to one record; none if there are no
    /// records. Spark's `reduceByWindow`: [`Keyed::reduce_by_window`] of a single key, so that a slide costs O(batches
    /// of the window).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use std::time::Duration;
    /// # use dstreams::{Config, testing};
    /// let second = Duration::from_secs(1);
    /// let config = Config::new(second);
    /// let input = [vec![7i64, 3], vec![5], vec![], vec![]];
    /// let batches = testing::run(&config, input, |numbers| {
    ///     numbers.reduce_by_window("greatest", 2 * second, second, |a, b| a.max(b))
    /// });
    /// let greatest: Vec<_> = batches.await?.into_iter().map(|(_, records)| records).collect();
    /// assert_eq!(greatest, [vec![7], vec![7], vec![5], vec![]]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn reduce_by_window(
        &self,
        name: &str,
        len: Duration,
        slide: Duration,
        f: impl Fn(T, T) -> T + Closure,
    ) -> Result<DStream<T>> {
        let window = self.under_one_key().reduce_by_window(name, len, slide, f)?;
        Ok(window.of_one_key())
    }

    /// The same by a closure and its inverse: [`Keyed::reduce_by_window_with_inverse`] of a single key.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// # let (_, cents) = ctx.queue::<i64>("cents");
    /// let (hour, second) = (Duration::from_secs(3_600), Duration::from_secs(1));
    /// let turnover =
    ///     cents.reduce_by_window_with_inverse("turnover", hour, second, |a, b| a + b, |a, b| a - b)?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn reduce_by_window_with_inverse(
        &self,
        name: &str,
        len: Duration,
        slide: Duration,
        f: impl Fn(T, T) -> T + Closure,
        inverse: impl Fn(T, T) -> T + Closure,
    ) -> Result<DStream<T>> {
        let all = self.under_one_key();
        let window = all.reduce_by_window_with_inverse(name, len, slide, f, inverse)?;
        Ok(window.of_one_key())
    }
}

fn shared<V: Record, F: Fn(V, V) -> V + Closure>(f: &Arc<F>) -> impl Fn(V, V) -> V + Closure {
    let f = Arc::clone(f);
    move |a, b| f(a, b)
}
