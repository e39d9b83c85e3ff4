//! Queries over several D-Streams, and the tables and functions available to queries of a context.

use std::panic::Location;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::ScalarUDF;

use super::context::StreamContext;
use crate::debug::debug_as;
use crate::error::{Operator, Result};
use crate::stream::dstream::{DStream, relational};
use crate::stream::graph::{GraphRef, NodeId};
use crate::stream::keyed::Keyed;
use crate::stream::record::Record;
use crate::stream::relational::Query;
use crate::stream::same_context;

impl StreamContext {
    /// A SQL query over several D-Streams, by the given names, and the tables of the context. The rules of
    /// [`DStream::sql`] apply; all inputs must have RDDs at the same times.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// # let (_, orders) = ctx.queue::<(i64, String)>("orders");
    /// # let (_, payments) = ctx.queue::<(i64, i64)>("payments");
    /// // Orders and payments of the same batch: a pair has the columns `key` and `value`.
    /// let paid = ctx.sql::<(String, i64)>(
    ///     &[("orders", &orders), ("payments", &payments)],
    ///     "select o.value as item, p.value as cents from orders o join payments p on o.key = p.key",
    /// )?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn sql<U: Record>(
        &self,
        inputs: &[(&str, &dyn SqlInput)],
        query: &str,
    ) -> Result<DStream<U>> {
        let operator = Operator::new("sql", Location::caller());
        let mut nodes = Vec::new();
        for (_, input) in inputs {
            let GraphNode(graph, node) = input.place();
            same_context(&self.graph, &graph, &operator)?;
            nodes.push(node);
        }
        let names = inputs.iter().map(|(name, _)| (*name).to_owned()).collect();
        relational(&self.graph, nodes, operator, Query::sql(names, query))
    }

    /// Registers a table for the queries of this context, for joins with static data.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// # let (_, sales) = ctx.queue::<(i64, i64)>("sales");
    /// use std::sync::Arc;
    /// use dstreams::datafusion::datasource::MemTable;
    /// use dstreams::record::batch_of;
    ///
    /// let shops = batch_of([(1i64, "Berlin".to_owned()), (2, "Hamburg".to_owned())])?;
    /// let shops = MemTable::try_new(shops.schema(), vec![vec![shops]])?;
    /// ctx.register_table("shops", Arc::new(shops));
    /// let by_city = sales.sql::<(String, i64)>(
    ///     "select shops.value as city, this.value as cents from this join shops on this.key = shops.key",
    /// )?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn register_table(&self, name: &str, table: Arc<dyn TableProvider>) {
        self.graph.lock().tables.insert(name.to_owned(), table);
    }

    /// Registers the rows of a DataFrame as a table for the queries of this context. The DataFrame is evaluated in
    /// each batch; register a `MemTable` to evaluate it once.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// # let (_, sales) = ctx.queue::<(i64, i64)>("sales");
    /// use dstreams::datafusion::prelude::{SessionContext, col, lit};
    /// use dstreams::record::batch_of;
    ///
    /// let shops = SessionContext::new().read_batch(batch_of([(1i64, true), (2, false)])?)?;
    /// ctx.register_frame("open_shops", shops.filter(col("value").eq(lit(true)))?);
    /// let open = sales.sql::<i64>("select value from this where key in (select key from open_shops)")?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn register_frame(&self, name: &str, frame: DataFrame) {
        self.register_table(name, frame.into_view());
    }

    /// Registers a function for the queries of this context. It must be immutable.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// # let (_, numbers) = ctx.queue::<i64>("numbers");
    /// use std::sync::Arc;
    /// use dstreams::arrow::datatypes::DataType;
    /// use dstreams::datafusion::logical_expr::{Volatility, create_udf};
    ///
    /// // The identity; what a function gets and returns are columns.
    /// let same = create_udf(
    ///     "same",
    ///     vec![DataType::Int64],
    ///     DataType::Int64,
    ///     Volatility::Immutable,
    ///     Arc::new(|columns| Ok(columns[0].clone())),
    /// );
    /// ctx.register_udf(same);
    /// let numbers = numbers.sql::<Option<i64>>("select same(value) from this")?;
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn register_udf(&self, function: ScalarUDF) {
        self.graph.lock().functions.push(Arc::new(function));
    }
}

/// A D-Stream of any type, as an input of [`StreamContext::sql`].
pub trait SqlInput {
    #[doc(hidden)]
    fn place(&self) -> GraphNode;
}

/// A node and its graph.
#[doc(hidden)]
pub struct GraphNode(GraphRef, NodeId);

debug_as!(GraphNode);

impl<T> SqlInput for DStream<T> {
    fn place(&self) -> GraphNode {
        GraphNode(self.graph.clone(), self.node)
    }
}

impl<K, V> SqlInput for Keyed<K, V> {
    fn place(&self) -> GraphNode {
        GraphNode(self.graph.clone(), self.node)
    }
}
