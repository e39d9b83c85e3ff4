//! [`Keyed`]: a D-Stream of keys and values, and its operators per key.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::agg::{Agg, AggParts, AggPlan};
use super::dstream::DStream;
use super::fold::reducer;
use super::graph::{GraphRef, NodeId, Op as NodeOp};
use super::record::{Key, Out, Record};
use super::rows::{Closure, Emit, PassThrough};
use super::window;
use crate::debug::debug_as;
use crate::error::{Error, Operator, Result};

/// A D-Stream of pairs whose first part is a key.
#[must_use = "nothing computes a stream that no operator and no output reads"]
pub struct Keyed<K, V> {
    pub(crate) graph: GraphRef,
    pub(crate) node: NodeId,
    pair: PhantomData<fn() -> (K, V)>,
}

debug_as!([K, V] Keyed<K, V> { node });

impl<K, V> Clone for Keyed<K, V> {
    fn clone(&self) -> Self {
        Keyed::at(&self.graph, self.node)
    }
}

impl<K, V> Keyed<K, V> {
    pub(crate) fn at(graph: &GraphRef, node: NodeId) -> Self {
        Keyed {
            graph: graph.clone(),
            node,
            pair: PhantomData,
        }
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// The pairs as records with the columns `key` and `value`.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, words) = ctx.queue::<String>("words");
    /// use dstreams::agg::count;
    ///
    /// let counts = words.keyed().agg(count())?;
    /// let mut texts = counts.pairs().map(|(word, count)| format!("{word}: {count}")).collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "to"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(texts.recv().await.unwrap().collect()?, ["to: 2"]);
    /// # Ok(()) }
    /// ```
    pub fn pairs(&self) -> DStream<(K, V)> {
        DStream::at(&self.graph, self.node)
    }

    pub(crate) fn key_columns() -> usize {
        K::schema().fields().len()
    }

    pub(super) fn next<U: Record>(&self, op: NodeOp, operator: Operator) -> Keyed<K, U> {
        let schema = <(K, U)>::schema();
        let node = self.graph.add_to(self.node, op, schema, operator);
        Keyed::at(&self.graph, node)
    }

    pub(crate) fn resolve<A: Agg<V>>(agg: &A, operator: &Operator) -> Result<AggPlan> {
        AggParts::resolve::<V, A>(&<(K, V)>::schema(), agg).map_err(|message| Error::Graph {
            operator: operator.clone(),
            message,
        })
    }

    /// Aggregates the values of each key within each batch. O(records of the batch).
    ///
    /// Refused when the graph is built if a column is missing, has another type or may contain nulls, which only
    /// [`sum_some`](crate::agg::sum_some) and the like pass over.
    ///
    /// ```
    /// use dstreams::agg::{avg_of, count, sum_of};
    /// # use dstreams::{Record, StreamContext};
    /// # #[derive(Record)] struct Sale { shop: String, price: f64 }
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, sales) = ctx.queue::<Sale>("sales");
    /// let by_shop = sales
    ///     .key_by_into::<String>(|sale, key| key.push(sale.shop))
    ///     .agg((count(), sum_of::<f64>("price"), avg_of::<f64>("price")))?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn agg<A: Agg<V>>(&self, agg: A) -> Result<Keyed<K, A::Out>> {
        let operator = Operator::new("agg", Location::caller());
        let plan = Self::resolve(&agg, &operator)?;
        let keys = Self::key_columns();
        Ok(self.next(NodeOp::Aggregate { keys, plan }, operator))
    }

    /// Aggregates the values of each key over the batches of the last `len`, every `slide`.
    ///
    /// An RDD exists at the batch times that are multiples of `slide`; it covers the batch times in `(t - len, t]`.
    /// Counts, and sums and means of integers, are invertible: a batch costs O(keys of the new batch and of the
    /// expiring one). Least and greatest values, variances, and sums and means of floating-point numbers (which do
    /// not subtract exactly) cost amortised O(1) combinations for each new or expiring key. Neither grows with `len`.
    /// A key is removed with its last record. Reading the whole RDD costs O(keys in the window); memory is O(keys of
    /// each batch, over the window). Paper: section 3.2, `reduceByWindow`.
    ///
    /// `len` and `slide` must be multiples of the interval at which this stream has RDDs.
    ///
    /// In a persisted program, windows with the same content over the same streams are distinguished only by their
    /// order in the program: name each one with [`Keyed::named_window_agg`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, words) = ctx.queue::<String>("words");
    /// let top = words
    ///     .keyed()
    ///     .window_agg(Duration::from_secs(30), Duration::from_secs(1), count())?
    ///     .top(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn window_agg<A: Agg<V>>(
        &self,
        len: Duration,
        slide: Duration,
        agg: A,
    ) -> Result<Keyed<K, A::Out>> {
        let operator = Operator::new("window_agg", Location::caller());
        self.window_of(None, (len, slide), agg, operator)
    }

    /// The same, with a name by which a changed program finds the contents again
    /// ([`StreamContext::persist_in`](crate::StreamContext::persist_in)), wherever the window is in that
    /// program. Names of states must be unique. To name a window that had no name, rename it from its name in
    /// [`inspect`](crate::inspect()) ([`StreamContext::rename_state`](crate::StreamContext::rename_state)).
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{StreamContext, agg::count};
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// let (_, lines) = ctx.queue::<String>("lines");
    /// let errors = lines.filter(|line| line.starts_with("error")).keyed();
    /// let others = lines.filter(|line| !line.starts_with("error")).keyed();
    /// let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    /// errors.named_window_agg("errors", minute, second, count())?.top(10).print(10);
    /// others.named_window_agg("others", minute, second, count())?.top(10).print(10);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn named_window_agg<A: Agg<V>>(
        &self,
        name: &str,
        len: Duration,
        slide: Duration,
        agg: A,
    ) -> Result<Keyed<K, A::Out>> {
        let operator = Operator::new("named_window_agg", Location::caller());
        self.window_of(Some(name), (len, slide), agg, operator)
    }

    pub(super) fn window_of<A: Agg<V>>(
        &self,
        name: Option<&str>,
        (len, slide): (Duration, Duration),
        agg: A,
        operator: Operator,
    ) -> Result<Keyed<K, A::Out>> {
        let plan = Self::resolve(&agg, &operator)?;
        window::check_columns(&plan, &<(K, V)>::schema(), &operator)?;
        let mut graph = self.graph.lock();
        let every = graph.node(self.node).slide_ms;
        let len_ms = window::multiple_of(every, len, "length", &operator)?;
        let slide_ms = window::multiple_of(every, slide, "slide", &operator)?;
        let op = NodeOp::Window {
            name: name.map(str::to_owned),
            keys: Self::key_columns(),
            plan,
            batches: (len_ms / every) as usize,
        };
        graph.check_name(&op, &operator)?;
        let schema = <(K, A::Out)>::schema();
        let node = graph.push(op, vec![self.node], schema, operator, slide_ms);
        Ok(Keyed::at(&self.graph, node))
    }

    /// Combines the values of each key within each batch by a closure. O(records of the batch).
    ///
    /// `f` must be associative; it gets the values of a key in order of arrival. Prefer [`Keyed::agg`] where an
    /// aggregate exists: it works on whole columns.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, pairs) = ctx.queue::<(String, i64)>("pairs");
    /// let last = pairs.by_key().reduce(|_, newer| newer);
    /// ```
    #[track_caller]
    pub fn reduce(&self, f: impl Fn(V, V) -> V + Closure) -> Keyed<K, V> {
        let reducer = reducer(f);
        let op = NodeOp::Reduce {
            keys: Self::key_columns(),
            first: Arc::clone(&reducer),
            rest: reducer,
        };
        self.next(op, Operator::new("reduce", Location::caller()))
    }

    /// Maps the value of each pair; the keys do not change. O(records of the batch).
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, pairs) = ctx.queue::<(String, i64)>("pairs");
    /// let doubled = pairs.by_key().map_values(|n| n * 2);
    /// ```
    #[track_caller]
    pub fn map_values<U: Record>(
        &self,
        f: impl for<'a> Fn(V::Ref<'a>) -> U + Closure,
    ) -> Keyed<K, U> {
        let call = move |value: V::Ref<'_>, out: &mut Out<'_, U>| out.append(f(value));
        let rows = Emit::<V, U, _> {
            call: Arc::new(call),
            schema: <(K, U)>::schema(),
            pass_through: PassThrough::Before(Self::key_columns()),
            types: PhantomData,
        };
        let operator = Operator::new("map_values", Location::caller());
        self.next(NodeOp::Rows(Arc::new(rows)), operator)
    }

    /// The `limit` pairs with the greatest values of each RDD, ordered by the columns of the value, descending, then
    /// by those of the key, ascending.
    ///
    /// O(records of the RDD) and O(`limit`) memory.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, sales) = ctx.queue::<(String, i64)>("sales");
    /// let mut top = sales.by_key().top(2).collect();
    /// # let running = ctx.start().await?;
    /// queue.push([("a", 1), ("c", 3), ("b", 3)].map(|(shop, n)| (shop.to_owned(), n))).await?;
    /// # running.stop().await?;
    /// let pairs = [("b", 3), ("c", 3)].map(|(shop, n)| (shop.to_owned(), n));
    /// assert_eq!(top.recv().await.unwrap().collect()?, pairs);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn top(&self, limit: usize) -> DStream<(K, V)> {
        let op = NodeOp::Top {
            keys: Self::key_columns(),
            limit,
        };
        let operator = Operator::new("top", Location::caller());
        self.next::<V>(op, operator).pairs()
    }
}
