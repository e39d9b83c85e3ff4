//! Joins of two streams, and groups of their records, within each interval.

use std::panic::Location;

use super::graph::Op;
use super::keyed::Keyed;
use super::record::{Key, Record};
use super::same_context;
use crate::error::{Operator, Result};

/// How two inputs are joined by their first columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JoinOp {
    /// The number of columns of the key.
    pub keys: usize,
    /// Whether the result has the records of the first input without a partner.
    pub first_unmatched: bool,
    /// And those of the second.
    pub second_unmatched: bool,
    /// Whether a column before the values of each input says if they are there.
    pub marked: [bool; 2],
}

/// Whether an optional record has a column that says if it is there: it has more than its values.
pub(super) fn is_marked<T: Record>() -> bool {
    <Option<T>>::schema().fields().len() > T::schema().fields().len()
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Pairs of records with equal keys of the two RDDs of each batch time.
    ///
    /// In the order of this stream, the partners of each record in the order of theirs; a large batch, partition by
    /// partition. A key with *n* records here and *m* there gives *n* * *m* pairs. Keys are equal as [`Key`] says:
    /// `None` equals `None`, as in Spark, unlike in SQL.
    ///
    /// O(records of both + pairs), in parallel over the partitions of keys. Each task has in memory one partition of both
    /// RDDs, with an index of their keys; pairs are made an Arrow batch at a time.
    ///
    /// Both streams must belong to the same context and have RDDs at the same times. Windows with the same slide have;
    /// their join gives each pair at each slide.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// let (prices, price_stream) = ctx.queue::<(String, i64)>("prices");
    /// let (orders, order_stream) = ctx.queue::<(String, u32)>("orders");
    /// let joined = order_stream.by_key().join(&price_stream.by_key())?;
    /// let mut joined = joined.pairs().map(|(item, (n, price))| format!("{n} {item} at {price}")).collect();
    /// # let running = ctx.start().await?;
    /// prices.push([("tea", 3), ("jam", 5)].map(|(item, price)| (item.to_owned(), price))).await?;
    /// orders.push([("jam", 2), ("nut", 1), ("tea", 4)].map(|(item, n)| (item.to_owned(), n))).await?;
    /// # running.stop().await?;
    /// assert_eq!(joined.recv().await.unwrap().collect()?, ["2 jam at 5", "4 tea at 3"]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn join<W: Record>(&self, other: &Keyed<K, W>) -> Result<Keyed<K, (V, W)>> {
        let operator = Operator::new("join", Location::caller());
        self.join_by(other, [false, false], [false, false], operator)
    }

    /// [`Keyed::join`] with the records of this stream that have no partner, each in its place, with `None`.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// let (prices, price_stream) = ctx.queue::<(i64, i64)>("prices");
    /// let (orders, order_stream) = ctx.queue::<(i64, u32)>("orders");
    /// let mut joined = order_stream.by_key().left_join(&price_stream.by_key())?.collect();
    /// # let running = ctx.start().await?;
    /// prices.push([(1, 30), (2, 50)]).await?;
    /// orders.push([(2, 8), (7, 9), (2, 6)]).await?;
    /// # running.stop().await?;
    /// let orders = [(2, (8, Some(50))), (7, (9, None)), (2, (6, Some(50)))];
    /// assert_eq!(joined.recv().await.unwrap().collect()?, orders);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn left_join<W: Record>(&self, other: &Keyed<K, W>) -> Result<Keyed<K, (V, Option<W>)>> {
        let operator = Operator::new("left_join", Location::caller());
        self.join_by(other, [true, false], [false, is_marked::<W>()], operator)
    }

    /// [`Keyed::join`] with the records of `other` that have no partner, with `None`. They are last in each partition, in
    /// their order.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// let (prices, price_stream) = ctx.queue::<(i64, i64)>("prices");
    /// let (orders, order_stream) = ctx.queue::<(i64, u32)>("orders");
    /// let mut joined = order_stream.by_key().right_join(&price_stream.by_key())?.collect();
    /// # let running = ctx.start().await?;
    /// prices.push([(1, 30), (2, 50)]).await?;
    /// orders.push([(7, 9), (2, 6)]).await?;
    /// # running.stop().await?;
    /// assert_eq!(joined.recv().await.unwrap().collect()?, [(2, (Some(6), 50)), (1, (None, 30))]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn right_join<W: Record>(&self, other: &Keyed<K, W>) -> Result<Keyed<K, (Option<V>, W)>> {
        let operator = Operator::new("right_join", Location::caller());
        self.join_by(other, [false, true], [is_marked::<V>(), false], operator)
    }

    /// [`Keyed::join`] with the records of both streams that have no partner: those of this stream in their places as in
    /// [`Keyed::left_join`], those of `other` last as in [`Keyed::right_join`].
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// let (prices, price_stream) = ctx.queue::<(i64, i64)>("prices");
    /// let (orders, order_stream) = ctx.queue::<(i64, u32)>("orders");
    /// let mut joined = order_stream.by_key().full_join(&price_stream.by_key())?.collect();
    /// # let running = ctx.start().await?;
    /// prices.push([(1, 30), (2, 50)]).await?;
    /// orders.push([(7, 9), (2, 6)]).await?;
    /// # running.stop().await?;
    /// let all = [(7, (Some(9), None)), (2, (Some(6), Some(50))), (1, (None, Some(30)))];
    /// assert_eq!(joined.recv().await.unwrap().collect()?, all);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn full_join<W: Record>(
        &self,
        other: &Keyed<K, W>,
    ) -> Result<Keyed<K, (Option<V>, Option<W>)>> {
        let operator = Operator::new("full_join", Location::caller());
        let marked = [is_marked::<V>(), is_marked::<W>()];
        self.join_by(other, [true, true], marked, operator)
    }

    /// For each key of either RDD, all its records of both, in order of arrival.
    ///
    /// Keys are in the order in which they come in this stream, then in the other; a large batch, partition by partition.
    /// O(records of both). Each task has in memory one partition of both RDDs and the lists that it makes; those of one
    /// key are one row. The batch fails if a list would have more than 2^31 - 1 records. Refused like [`Keyed::join`].
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// let (prices, price_stream) = ctx.queue::<(i64, i64)>("prices");
    /// let (orders, order_stream) = ctx.queue::<(i64, u32)>("orders");
    /// let mut groups = order_stream.by_key().cogroup(&price_stream.by_key())?.collect();
    /// # let running = ctx.start().await?;
    /// prices.push([(1, 30), (2, 50)]).await?;
    /// orders.push([(2, 8), (7, 9), (2, 6)]).await?;
    /// # running.stop().await?;
    /// let all = [(2, (vec![8, 6], vec![50])), (7, (vec![9], vec![])), (1, (vec![], vec![30]))];
    /// assert_eq!(groups.recv().await.unwrap().collect()?, all);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn cogroup<W: Record>(&self, other: &Keyed<K, W>) -> Result<Keyed<K, (Vec<V>, Vec<W>)>> {
        let operator = Operator::new("cogroup", Location::caller());
        same_context(&self.graph, &other.graph, &operator)?;
        let keys = Self::key_columns();
        let inputs = vec![self.node, other.node];
        let schema = <(K, (Vec<V>, Vec<W>))>::schema();
        let node = (self.graph).add(Op::Cogroup { keys }, inputs, schema, operator)?;
        Ok(Keyed::at(&self.graph, node))
    }

    /// All records of each key of the RDD as a list, in order of arrival. See [`Keyed::cogroup`] for the order of keys and
    /// the cost.
    ///
    /// Where an aggregate will do, [`Keyed::agg`] needs O(keys) memory, and combines records before they change
    /// partitions.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = dstreams::StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// let (readings, reading_stream) = ctx.queue::<(i64, f64)>("readings");
    /// let groups = reading_stream.by_key().group_by_key();
    /// let median = groups.map_values(|values| {
    ///     let mut values: Vec<f64> = values.iter().collect();
    ///     values.sort_by(f64::total_cmp);
    ///     values[values.len() / 2]
    /// });
    /// let mut medians = median.collect();
    /// # let running = ctx.start().await?;
    /// readings.push([(1, 0.5), (2, 9.0), (1, 0.25), (1, 7.0)]).await?;
    /// # running.stop().await?;
    /// assert_eq!(medians.recv().await.unwrap().collect()?, [(1, 0.5), (2, 9.0)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn group_by_key(&self) -> Keyed<K, Vec<V>> {
        let operator = Operator::new("group_by_key", Location::caller());
        let op = Op::Cogroup {
            keys: Self::key_columns(),
        };
        let schema = <(K, Vec<V>)>::schema();
        let node = self.graph.add_to(self.node, op, schema, operator);
        Keyed::at(&self.graph, node)
    }

    fn join_by<W: Record, U: Record>(
        &self,
        other: &Keyed<K, W>,
        [first_unmatched, second_unmatched]: [bool; 2],
        marked: [bool; 2],
        operator: Operator,
    ) -> Result<Keyed<K, U>> {
        same_context(&self.graph, &other.graph, &operator)?;
        let join = Op::Join(JoinOp {
            keys: Self::key_columns(),
            first_unmatched,
            second_unmatched,
            marked,
        });
        let inputs = vec![self.node, other.node];
        let node = self.graph.add(join, inputs, <(K, U)>::schema(), operator)?;
        Ok(Keyed::at(&self.graph, node))
    }
}
