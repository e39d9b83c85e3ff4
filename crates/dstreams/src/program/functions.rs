//! Closures as functions of queries.

use std::panic::Location;
use std::sync::Arc;

use super::context::StreamContext;
use crate::error::{Error, Operator, Result};
use crate::stream::function::typed;
use crate::stream::record::Record;
use crate::stream::rows::Closure;

impl StreamContext {
    /// Registers a closure as a function for the queries of this context. `A` has an argument for each of its columns:
    /// a number or a text is one, a tuple several. The result `R` has one column.
    ///
    /// `f` must be deterministic: its result may follow from its arguments alone, not from the time, a random number
    /// or a service, since a batch must give the same result in every run. It is called once for each row. DataFusion
    /// may also call it when a query is planned, if its arguments are constants.
    ///
    /// If an argument is null and its type is no `Option`, the result is null and `f` is not called. A panic fails the
    /// batch and names the function.
    ///
    /// Queries read names in lower case, unless they are quoted. Refused if the result has not one column, or if the
    /// context has a function of this name. [`StreamContext::register_udf`] takes functions over whole columns.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// ctx.register_fn::<(String, i64), String>("first_chars", |(text, most)| {
    ///     text.chars().take(most.max(0) as usize).collect()
    /// })?;
    /// let mut short = lines.sql::<String>("select first_chars(value, 3) from this")?.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["Zürich", "Ulm"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// assert_eq!(short.recv().await.unwrap().collect()?, ["Zür", "Ulm"]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn register_fn<A: Record, R: Record>(
        &self,
        name: &str,
        f: impl for<'a> Fn(A::Ref<'a>) -> R + Closure,
    ) -> Result<()> {
        let operator = Operator::new(name, Location::caller());
        let mut graph = self.graph.lock();
        if graph.functions.iter().any(|known| known.name() == name) {
            return Err(Error::Graph {
                operator,
                message: "another function has this name; give each a name of its own".into(),
            });
        }
        let function = typed::<A, R>(operator, f)?;
        graph.functions.push(Arc::new(function));
        Ok(())
    }
}
