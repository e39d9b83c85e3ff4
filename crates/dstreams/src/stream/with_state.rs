//! [`Keyed::with_state`]: the records of a stream with the state of their keys.

use std::panic::Location;

use super::graph::Op;
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::same_context;
use super::state::State;
use crate::error::{Operator, Result};

/// Which version of a state the records of a batch see: see [`Keyed::with_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// The state without the changes of the batch.
    Before,
    /// The state with the changes of the batch.
    After,
}

/// How a stream looks up the state of its keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbeOp {
    /// The number of columns of the key.
    pub keys: usize,
    pub as_of: AsOf,
    /// Whether a column before the values of the state says if they are there.
    pub marked: bool,
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Each value with the state of its key, or `None` if the state does not have the key. In the order of this stream,
    /// partition by partition.
    ///
    /// O(records of the batch), regardless of the number of stored keys: the records move to the partitions of the state,
    /// and only their keys are looked up. [`AsOf`] says whether they see what the state's own input changes in the same
    /// batch. A key that the batch drops or that expires with it is still there `Before`, and `None` `After`.
    ///
    /// So a table that changes is a state of the stream of its changes, and a join with it costs what the other stream
    /// brings:
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// use dstreams::AsOf;
    ///
    /// let (rates, rate_stream) = ctx.queue::<(String, f64)>("rates");
    /// let (orders, order_stream) = ctx.queue::<(String, i64)>("orders");
    /// let rates_now = rate_stream.by_key().update_state_by_key("rates", |_, values, _| values.last())?;
    /// let priced = order_stream.by_key().with_state(&rates_now, AsOf::After)?;
    /// let mut priced = priced.pairs().map(|(currency, (n, rate))| match rate {
    ///     Some(rate) => format!("{n} {currency} are {}", n as f64 * rate),
    ///     None => format!("{n} {currency} at no known rate"),
    /// }).collect();
    /// # let running = ctx.start().await?;
    /// rates.push([("CHF".to_owned(), 0.5)]).await?;
    /// orders.push([("CHF", 8), ("DKK", 3)].map(|(currency, n)| (currency.to_owned(), n))).await?;
    /// # running.stop().await?;
    /// let mut priced = priced.recv().await.unwrap().collect()?;
    /// priced.sort(); // orders of different currencies may be in different partitions
    /// assert_eq!(priced, ["3 DKK at no known rate", "8 CHF are 4"]);
    /// # Ok(()) }
    /// ```
    ///
    /// Both must belong to the same context and have RDDs at the same times.
    #[track_caller]
    pub fn with_state<S: Record>(
        &self,
        state: &State<K, S>,
        as_of: AsOf,
    ) -> Result<Keyed<K, (V, Option<S>)>> {
        let operator = Operator::new("with_state", Location::caller());
        same_context(&self.graph, &state.graph, &operator)?;
        let probe = Op::Probe(ProbeOp {
            keys: Self::key_columns(),
            as_of,
            marked: super::join::is_marked::<S>(),
        });
        let inputs = vec![self.node, state.node];
        let schema = <(K, (V, Option<S>))>::schema();
        let node = self.graph.add(probe, inputs, schema, operator)?;
        Ok(Keyed::at(&self.graph, node))
    }
}
