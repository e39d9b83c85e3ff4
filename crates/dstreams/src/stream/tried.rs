//! [`Tried`]: the results of an operator, and the records that it rejected.
//!
//! Both are one computation: a node with rows of both kinds (`Rejecting`), and for each reader a node that selects
//! one kind.

use std::fmt::Display;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};

use super::dstream::{DStream, relational_as};
use super::graph::{GraphRef, NodeId, Op as NodeOp};
use super::record::{Out, Record};
use super::rejects::{Attempt, Both, NoNulls, OK, REJECTED, Readers, bounded};
use super::relational::Query;
use super::rows::{Closure, Pick, RowsFn};
use crate::debug::debug_as;
use crate::error::{Operator, Result};

/// The result of an operator that may fail for single records: see [`DStream::try_map`].
///
/// If nothing reads the rejected records, they are discarded: each task logs their number and the first reason, and
/// [`Status::rejected`](crate::Status::rejected) counts them.
#[must_use = "read `ok`, and `rejected` too: what nothing reads is gone"]
pub struct Tried<T, U> {
    graph: GraphRef,
    /// The rows of both kinds.
    node: NodeId,
    both: Both,
    operator: Operator,
    /// Counts the readers of rejected records.
    read: Arc<Readers>,
    types: PhantomData<fn() -> (T, U)>,
}

debug_as!([T, U] Tried<T, U> { operator });

impl<T: Record, U: Record> Tried<T, U> {
    fn new(
        graph: &GraphRef,
        input: NodeId,
        operator: Operator,
        rows: impl FnOnce(Both, Arc<Readers>) -> Arc<dyn RowsFn>,
    ) -> Self {
        let both = Both::new(&U::schema(), &T::schema());
        let read = Arc::new(Readers::new(operator.to_string()));
        graph.lock().rejects.push(Arc::clone(&read));
        let op = NodeOp::Rows(rows(both.clone(), Arc::clone(&read)));
        let node = graph.add_to(input, op, both.schema(), operator.clone());
        Tried {
            graph: graph.clone(),
            node,
            both,
            operator,
            read,
            types: PhantomData,
        }
    }

    /// The results, in the order of the records.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut numbers = lines.try_map(|line| line.parse::<i64>()).ok().collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["7", "seven", "8"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(numbers.recv().await.unwrap().collect()?, [7, 8]);
    /// # Ok(()) }
    /// ```
    pub fn ok(&self) -> DStream<U> {
        self.pick(OK, U::schema())
    }

    /// The rejected records, unchanged, with the reason; in the order of the records.
    ///
    /// A reason has up to 1,024 bytes; a longer one is truncated, and notes that.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rejected = lines.try_map(|line| line.parse::<i64>()).rejected().collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["7", "seven"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// let found = rejected.recv().await.unwrap().collect()?;
    /// assert_eq!(found, [("invalid digit found in string".to_owned(), "seven".to_owned())]);
    /// # Ok(()) }
    /// ```
    pub fn rejected(&self) -> DStream<(String, T)> {
        self.read.add();
        self.pick(REJECTED, <(String, T)>::schema())
    }

    fn pick<R>(&self, view: u8, schema: SchemaRef) -> DStream<R> {
        let pick = Pick {
            view,
            columns: self.both.columns(view),
            schema: Arc::clone(&schema),
        };
        let op = NodeOp::Rows(Arc::new(pick));
        let node = (self.graph).add_to(self.node, op, schema, self.operator.clone());
        DStream::at(&self.graph, node)
    }
}

impl<T: Record> DStream<T> {
    /// One result for each record, or the reason why there is none: a bad record does not stop the program. O(records
    /// of the batch).
    ///
    /// The closure is called once for each record, however many readers the results have. A panic also rejects the
    /// record, with the panic's message as the reason. The closure must be deterministic, errors included.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let numbers = lines.try_map(|line| line.trim().parse::<i64>());
    /// numbers.ok().map(|n| n * 2).print(10);
    /// numbers.rejected().print(10); // "invalid digit found in string", and the line
    /// ```
    #[track_caller]
    pub fn try_map<U: Record, E: Display>(
        &self,
        f: impl for<'a> Fn(T::Ref<'a>) -> Result<U, E> + Closure,
    ) -> Tried<T, U> {
        let operator = Operator::new("try_map", Location::caller());
        self.attempt(operator, move |row: T::Ref<'_>, out: &mut Out<'_, U>| {
            let made = f(row).map_err(|error| bounded(&error))?;
            out.append(made);
            Ok(())
        })
    }

    /// Any number of results for each record, or the reason why there are none: see [`DStream::try_map`].
    ///
    /// A closure that fails pushes nothing: the results that it had pushed for that record are discarded.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let fields = lines.try_flat_map::<(String, f64), _>(|line, out| {
    ///     for field in line.split(';') {
    ///         let (name, value) = field.split_once('=').ok_or("a field without `=`")?;
    ///         out.push((name, value.parse::<f64>().map_err(|_| "no number")?));
    ///     }
    ///     Ok::<(), &str>(())
    /// });
    /// fields.ok().by_key().print(10);
    /// fields.rejected().map(|(why, line)| format!("{why}: {line}")).print(10);
    /// ```
    #[track_caller]
    pub fn try_flat_map<U: Record, E: Display>(
        &self,
        f: impl for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) -> Result<(), E> + Closure,
    ) -> Tried<T, U> {
        let operator = Operator::new("try_flat_map", Location::caller());
        self.attempt(operator, move |row: T::Ref<'_>, out: &mut Out<'_, U>| {
            f(row, out).map_err(|error| bounded(&error))
        })
    }

    fn attempt<U: Record>(
        &self,
        operator: Operator,
        f: impl for<'a> Fn(T::Ref<'a>, &mut Out<'_, U>) -> Result<(), String> + Closure,
    ) -> Tried<T, U> {
        Tried::new(&self.graph, self.node, operator, |both, read| {
            Arc::new(Attempt::<T, U, _>::new(f, both, read))
        })
    }

    /// A query as in [`DStream::sql`] that rejects single rows: those with a null where `U` has no `Option`. The
    /// reason names the columns; the row is a line of JSON.
    ///
    /// An expression that fails (a cast, a division by zero) still fails the batch: `try_cast` and `nullif` give
    /// nulls instead.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let numbers = lines.try_sql::<(String, i64)>(
    ///     "select value as key, try_cast(value as bigint) as value from this",
    /// )?;
    /// numbers.ok().by_key().print(10);
    /// numbers.rejected().print(10); // "column `value` is null", {"key":"seven","value":null}
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn try_sql<U: Record>(&self, query: &str) -> Result<Tried<String, U>> {
        let operator = Operator::new("try_sql", Location::caller());
        let query = Query::sql(vec!["this".to_owned()], query);
        let fields = U::schema();
        let fields = fields.fields().iter();
        let nullable = fields.map(|field| field.as_ref().clone().with_nullable(true));
        let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        let node = relational_as(
            &self.graph,
            vec![self.node],
            operator.clone(),
            query,
            nullable,
        )?;
        Ok(Tried::new(&self.graph, node, operator, |both, read| {
            Arc::new(NoNulls::new(U::schema(), both, read))
        }))
    }
}
