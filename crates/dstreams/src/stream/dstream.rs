//! [`DStream`]: a sequence of RDDs, one for each batch time; and its stateless operators.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::dataframe::DataFrame;

use super::graph::{GraphRef, NodeId, Op as NodeOp};
use super::keyed::Keyed;
use super::record::{Key, Out, Record};
use super::relational::Query;
use super::rows::{Closure, Emit, Filter, PassThrough, Rename, RowsFn};
use crate::debug::debug_as;
use crate::error::{Operator, Result};

/// A sequence of RDDs of `T`, one for each batch time.
///
/// Cheap to clone: a handle into the graph. An operator adds a node to the graph and returns its handle; nothing runs
/// before the context starts. A node with several readers is computed once per batch.
#[must_use = "nothing computes a stream that no operator and no output reads"]
pub struct DStream<T> {
    pub(crate) graph: GraphRef,
    pub(crate) node: NodeId,
    record: PhantomData<fn() -> T>,
}

debug_as!([T] DStream<T> { node });

impl<T> Clone for DStream<T> {
    fn clone(&self) -> Self {
        DStream::at(&self.graph, self.node)
    }
}

impl<T> DStream<T> {
    pub(crate) fn at(graph: &GraphRef, node: NodeId) -> Self {
        DStream {
            graph: graph.clone(),
            node,
            record: PhantomData,
        }
    }
}

impl<T: Record> DStream<T> {
    pub(super) fn rows<U>(
        &self,
        operator: Operator,
        schema: SchemaRef,
        rows: Arc<dyn RowsFn>,
    ) -> DStream<U> {
        let node = self
            .graph
            .add_to(self.node, NodeOp::Rows(rows), schema, operator);
        DStream::at(&self.graph, node)
    }

    /// The records for which `f` is true, in their order. O(records of the batch).
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let errors = lines.filter(|line| line.contains("ERROR"));
    /// ```
    #[track_caller]
    pub fn filter(&self, f: impl for<'a> Fn(T::Ref<'a>) -> bool + Closure) -> DStream<T> {
        let operator = Operator::new("filter", Location::caller());
        let rows = Filter::<T, _>(Arc::new(f), PhantomData);
        self.rows(operator, T::schema(), Arc::new(rows))
    }

    /// One result for each record, in order. O(records of the batch).
    ///
    /// The result is owned; to emit borrowed text without a copy use [`DStream::flat_map`].
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let lengths = lines.map(|line| line.len() as i64);
    /// ```
    #[track_caller]
    pub fn map<U: Record>(&self, f: impl for<'a> Fn(T::Ref<'a>) -> U + Closure) -> DStream<U> {
        let operator = Operator::new("map", Location::caller());
        let call = move |row: T::Ref<'_>, out: &mut Out<'_, U>| out.append(f(row));
        self.emit(operator, call)
    }

    /// Any number of results for each record: the closure pushes them, in order. O(records in and out).
    ///
    /// Text borrowed from the record is not copied.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let words = lines.flat_map::<String>(|line, out| {
    ///     for word in dstreams::text::words(line) {
    ///         out.push(word)
    ///     }
    /// });
    /// ```
    #[track_caller]
    pub fn flat_map<U: Record>(
        &self,
        f: impl for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) + Closure,
    ) -> DStream<U> {
        self.emit(Operator::new("flat_map", Location::caller()), f)
    }

    pub(super) fn emit<U: Record>(
        &self,
        operator: Operator,
        f: impl for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) + Closure,
    ) -> DStream<U> {
        let rows = Emit::<T, U, _> {
            call: Arc::new(f),
            schema: U::schema(),
            pass_through: PassThrough::None,
            types: PhantomData,
        };
        self.rows(operator, U::schema(), Arc::new(rows))
    }

    /// Gives each record a key: the closure returns it. O(records of the batch).
    ///
    /// The key is owned; for text of the record use [`DStream::key_by_into`], which does not copy it.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let by_length = lines.key_by(|line| line.len() as i64);
    /// ```
    #[track_caller]
    pub fn key_by<K: Key>(&self, f: impl for<'a> Fn(T::Ref<'a>) -> K + Closure) -> Keyed<K, T> {
        let operator = Operator::new("key_by", Location::caller());
        let call = move |row: T::Ref<'_>, out: &mut Out<'_, K>| out.append(f(row));
        self.emit_keys(operator, call)
    }

    /// Gives each record a key that the closure pushes, so that borrowed text becomes a key without a copy.
    /// O(records of the batch).
    ///
    /// The closure must push exactly one key for each record; otherwise the batch fails.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let by_level = lines.key_by_into::<String>(|line, key| {
    ///     key.push(line.split(' ').next().unwrap_or_default())
    /// });
    /// ```
    #[track_caller]
    pub fn key_by_into<K: Key>(
        &self,
        f: impl for<'a> Fn(T::Ref<'a>, &mut Out<'_, K>) + Closure,
    ) -> Keyed<K, T> {
        self.emit_keys(Operator::new("key_by_into", Location::caller()), f)
    }

    pub(super) fn emit_keys<K: Key>(
        &self,
        operator: Operator,
        f: impl for<'a> Fn(T::Ref<'a>, &mut Out<'_, K>) + Closure,
    ) -> Keyed<K, T> {
        let schema = <(K, T)>::schema();
        let rows = Emit::<T, K, _> {
            call: Arc::new(f),
            schema: Arc::clone(&schema),
            pass_through: PassThrough::AllAfter,
            types: PhantomData,
        };
        let stream: DStream<(K, T)> = self.rows(operator, schema, Arc::new(rows));
        stream.by_key()
    }

    /// The records of both streams, those of `self` first.
    ///
    /// Both must belong to the same context and have RDDs at the same times.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let short = lines.filter(|line| line.len() < 3);
    /// let mut both = lines.union(&short)?.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "bee"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(both.recv().await.unwrap().collect()?, ["to", "bee", "to"]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn union(&self, other: &DStream<T>) -> Result<DStream<T>> {
        let operator = Operator::new("union", Location::caller());
        super::same_context(&self.graph, &other.graph, &operator)?;
        let inputs = vec![self.node, other.node];
        let node = self
            .graph
            .add(NodeOp::Union, inputs, T::schema(), operator)?;
        Ok(DStream::at(&self.graph, node))
    }

    /// The number of records of each RDD, as one record.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut counts = lines.count()?.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "or"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(counts.recv().await.unwrap().collect()?, [3]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn count(&self) -> Result<DStream<i64>> {
        let operator = Operator::new("count", Location::caller());
        let plan = super::agg::AggParts::resolve::<(), _>(&T::schema(), &super::agg::count());
        let plan = plan.map_err(|message| crate::Error::Graph {
            operator: operator.clone(),
            message,
        })?;
        let op = NodeOp::Aggregate { keys: 0, plan };
        let node = self.graph.add_to(self.node, op, i64::schema(), operator);
        Ok(DStream::at(&self.graph, node))
    }

    /// A SQL query over each RDD, named `this`, and the tables of the context.
    ///
    /// The columns of the result must be those of `U`: by name for structs, by position for tuples and single values.
    /// `now()`, `random()` and `uuid()` are refused: a batch must give the same result in every run.
    ///
    /// A column that may be null is also refused for a field without `Option`, as far as this is known: an aggregate
    /// of all rows (it is null if there are none, and intervals may be empty), the other side of an outer join,
    /// `nullif`, a nullable column. Use `coalesce`, or `Option`. Any other null fails the batch, with column and row;
    /// [`DStream::try_sql`] rejects such rows instead.
    ///
    /// The rows do not depend on the number of partitions. Rows that are equal by an `order by` are ordered by their
    /// other columns. Functions that depend on the order of rows without naming one (`limit`, `row_number() over ()`,
    /// `array_agg`) see rows in the order in which they were received, or by all columns if the stream has no such
    /// order, and run in one partition.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let lengths = lines.sql::<(String, i64)>(
    ///     "select value, cast(char_length(value) as bigint) from this",
    /// )?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn sql<U: Record>(&self, query: &str) -> Result<DStream<U>> {
        let operator = Operator::new("sql", Location::caller());
        let query = Query::sql(vec!["this".to_owned()], query);
        relational(&self.graph, vec![self.node], operator, query)
    }

    /// Any DataFrame over each RDD; the closure is called when the graph is built and planned, not for each batch.
    ///
    /// The rules of [`DStream::sql`] apply.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// use dstreams::datafusion::prelude::{col, lit};
    ///
    /// let errors = lines.transform::<String>(|frame| frame.filter(col("value").eq(lit("error"))))?;
    /// let mut errors = errors.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["error", "fine"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(errors.recv().await.unwrap().collect()?, ["error"]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn transform<U: Record>(
        &self,
        f: impl Fn(DataFrame) -> datafusion::error::Result<DataFrame> + Closure,
    ) -> Result<DStream<U>> {
        let operator = Operator::new("transform", Location::caller());
        let query = Query::frames(vec!["this".to_owned()], move |mut frames| {
            f(frames.swap_remove(0))
        });
        relational(&self.graph, vec![self.node], operator, query)
    }
}

/// Adds a query over `inputs`.
pub(crate) fn relational<U: Record>(
    graph: &GraphRef,
    inputs: Vec<NodeId>,
    operator: Operator,
    query: Query,
) -> Result<DStream<U>> {
    let node = relational_as(graph, inputs, operator, query, U::schema())?;
    Ok(DStream::at(graph, node))
}

/// Adds a query over `inputs` whose result has the columns of `result`.
pub(super) fn relational_as(
    graph: &GraphRef,
    inputs: Vec<NodeId>,
    operator: Operator,
    query: Query,
    result: SchemaRef,
) -> Result<NodeId> {
    let query = {
        let graph = graph.lock();
        let schemas: Vec<_> = inputs
            .iter()
            .map(|id| graph.node(*id).schema.clone())
            .collect();
        query.check(&graph, &schemas, &result, &operator)?
    };
    graph.add(NodeOp::Query(query), inputs, result, operator)
}

impl<T: Key> DStream<T> {
    /// The records as keys without values, for example to count them.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, words) = ctx.queue::<String>("words");
    /// use dstreams::agg::count;
    ///
    /// let mut most = words.keyed().agg(count())?.top(1).collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "to"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(most.recv().await.unwrap().collect()?, [("to".to_owned(), 2)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn keyed(&self) -> Keyed<T, ()> {
        let operator = Operator::new("keyed", Location::caller());
        let schema = <(T, ())>::schema();
        let rows = Arc::new(Rename(Arc::clone(&schema)));
        let stream: DStream<(T, ())> = self.rows(operator, schema, rows);
        stream.by_key()
    }
}

impl<K: Key, V: Record> DStream<(K, V)> {
    /// The pairs as keys and values; the columns do not change.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, sales) = ctx.queue::<(String, i64)>("sales");
    /// use dstreams::agg::sum;
    ///
    /// let turnover = sales.by_key().agg(sum::<i64>())?; // by shop
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn by_key(&self) -> Keyed<K, V> {
        Keyed::at(&self.graph, self.node)
    }
}
