//! Distinct records, and how often each is there.

use std::panic::Location;

use super::agg::{AggPart, AggPlan, Finish, Function};
use super::dstream::DStream;
use super::graph::Op;
use super::keyed::Keyed;
use super::record::{Key, Record};
use crate::error::Operator;

impl<T: Key> DStream<T> {
    /// Each record of an RDD once. O(records of the batch); equal records meet by a shuffle, after each task has
    /// dropped its own repetitions.
    ///
    /// Floating-point numbers are no keys; `select distinct` in [`DStream::sql`] takes any record. Distinct records of
    /// several batches are those of a window ([`Keyed::window_agg`]) or of a state ([`Keyed::running_agg`]).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Config, testing};
    /// # let config = Config::new(std::time::Duration::from_secs(1));
    /// let batches = testing::run(&config, [vec![1i64, 2, 1]], |numbers| Ok(numbers.distinct()));
    /// let (_, records) = batches.await?.remove(0);
    /// assert_eq!(testing::sorted(records), [1, 2]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn distinct(&self) -> DStream<T> {
        let operator = Operator::new("distinct", Location::caller());
        let op = Op::Aggregate {
            keys: T::schema().fields().len(),
            plan: AggPlan::default(),
        };
        let node = self.graph.add_to(self.node, op, T::schema(), operator);
        DStream::at(&self.graph, node)
    }

    /// How often each record is in an RDD. O(records of the batch); each task counts its own records before they are
    /// moved.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Config, testing};
    /// # let config = Config::new(std::time::Duration::from_secs(1));
    /// let batches = testing::run(&config, [vec![7i64, 8, 7]], |numbers| Ok(numbers.count_by_value().pairs()));
    /// let (_, counts) = batches.await?.remove(0);
    /// assert_eq!(testing::sorted(counts), [(7, 2), (8, 1)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn count_by_value(&self) -> Keyed<T, i64> {
        let operator = Operator::new("count_by_value", Location::caller());
        self.keyed().counted(operator)
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// How many values each key has in an RDD. O(records of the batch).
    ///
    /// The number of records of the RDD as a whole is [`pairs`](Keyed::pairs)`().`[`count`](DStream::count)`()`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Config, testing};
    /// # let config = Config::new(std::time::Duration::from_secs(1));
    /// let sales = vec![(1i64, 250i64), (2, 100), (1, 5)];
    /// let batches = testing::run(&config, [sales], |sales| Ok(sales.by_key().count_by_key().pairs()));
    /// let (_, counts) = batches.await?.remove(0);
    /// assert_eq!(testing::sorted(counts), [(1, 2), (2, 1)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn count_by_key(&self) -> Keyed<K, i64> {
        self.counted(Operator::new("count_by_key", Location::caller()))
    }

    fn counted(&self, operator: Operator) -> Keyed<K, i64> {
        let count = AggPart {
            function: Function::Count,
            column: None,
        };
        let plan = AggPlan {
            parts: vec![count],
            finish: vec![Finish::Part(0)],
        };
        let keys = Self::key_columns();
        self.next(Op::Aggregate { keys, plan }, operator)
    }
}

impl<K: Key, V: Key> Keyed<K, V> {
    /// Each pair of an RDD once: [`DStream::distinct`] of the pairs.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Config, testing};
    /// # let config = Config::new(std::time::Duration::from_secs(1));
    /// // How many pages each user has seen, however often.
    /// let views = vec![(1i64, 10i64), (1, 10), (1, 11), (2, 10)];
    /// let batches = testing::run(&config, [views], |views| {
    ///     Ok(views.by_key().distinct().count_by_key().pairs())
    /// });
    /// let (_, pages) = batches.await?.remove(0);
    /// assert_eq!(testing::sorted(pages), [(1, 2), (2, 1)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn distinct(&self) -> Keyed<K, V> {
        self.pairs().distinct().by_key()
    }
}
