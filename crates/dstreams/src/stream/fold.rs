//! Reductions by closures: `reduce` of whole RDDs, `combine_by_key`, and what the engine runs for them.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};

use super::dstream::DStream;
use super::graph::Op;
use super::keyed::Keyed;
use super::record::{Builder, ColumnReader, Columns, Key, Record};
use super::rows::{Closure, Reducer, ReducerTask};
use crate::error::{Operator, Result};

impl<T: Record> DStream<T> {
    /// Combines all records of each RDD by a closure, to one record, or to none if there are none. O(records of the
    /// batch).
    ///
    /// `f` must be associative; it gets the records in order of arrival. Tasks combine their own records, and one
    /// combines the results.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Config, testing};
    /// # let config = Config::new(std::time::Duration::from_secs(1));
    /// let batches = testing::run(&config, [vec![3i64, 5], vec![]], |numbers| {
    ///     Ok(numbers.reduce(|a, b| a.max(b)))
    /// });
    /// let records: Vec<_> = batches.await?.into_iter().map(|(_, records)| records).collect();
    /// assert_eq!(records, [vec![5], vec![]]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn reduce(&self, f: impl Fn(T, T) -> T + Closure) -> DStream<T> {
        let reducer = reducer(f);
        let op = Op::Reduce {
            keys: 0,
            first: Arc::clone(&reducer),
            rest: reducer,
        };
        let operator = Operator::new("reduce", Location::caller());
        let node = self.graph.add_to(self.node, op, T::schema(), operator);
        DStream::at(&self.graph, node)
    }
}

impl<K: Key, V: Record> Keyed<K, V> {
    /// Combines the values of each key within each batch to something of another type. O(records of the batch).
    ///
    /// `create` makes the combination of the first value of a key, `merge_value` adds the next value, in order of
    /// arrival, and `merge_combiners` combines two parts of the values, the earlier first. A task calls the first two
    /// for its own records; only combinations are moved. How the values of a key are cut into parts depends on the
    /// number of tasks: the result must not.
    ///
    /// Prefer [`Keyed::agg`] where an aggregate exists: it works on whole columns.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Config, testing};
    /// # let config = Config::new(std::time::Duration::from_secs(1));
    /// // The longest word of each first letter, and how many there are.
    /// let words = ["to", "be", "tomorrow", "buy"].map(|word| (word[..1].to_owned(), word.to_owned()));
    /// let batches = testing::run(&config, [words], |words| {
    ///     let longest = words.by_key().combine_by_key(
    ///         |word| (word.to_owned(), 1i64),
    ///         |(longest, count), word| match word.len() > longest.len() {
    ///             true => (word.to_owned(), count + 1),
    ///             false => (longest, count + 1),
    ///         },
    ///         |(a, m), (b, n)| (if b.len() > a.len() { b } else { a }, m + n),
    ///     );
    ///     Ok(longest.pairs())
    /// });
    /// let (_, longest) = batches.await?.remove(0);
    /// let pair = |key: &str, word: &str| (key.to_owned(), (word.to_owned(), 2));
    /// assert_eq!(testing::sorted(longest), [pair("b", "buy"), pair("t", "tomorrow")]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn combine_by_key<C: Record>(
        &self,
        create: impl for<'a> Fn(V::Ref<'a>) -> C + Closure,
        merge_value: impl for<'a> Fn(C, V::Ref<'a>) -> C + Closure,
        merge_combiners: impl Fn(C, C) -> C + Closure,
    ) -> Keyed<K, C> {
        let first = Fold::<V, C, _>::new(move |before, value: V::Ref<'_>| match before {
            Some(before) => merge_value(before, value),
            None => create(value),
        });
        let op = Op::Reduce {
            keys: Self::key_columns(),
            first: Arc::new(first),
            rest: reducer(merge_combiners),
        };
        self.next(op, Operator::new("combine_by_key", Location::caller()))
    }
}

/// Combines values to a value of the same type.
pub(super) fn reducer<V: Record>(f: impl Fn(V, V) -> V + Closure) -> Arc<dyn Reducer> {
    let fold = Fold::<V, V, _>::new(move |before, value: V::Ref<'_>| match before {
        Some(before) => f(before, V::own(value)),
        None => V::own(value),
    });
    Arc::new(fold)
}

/// A closure that adds a value to the combination of those before it.
struct Fold<V, C, F> {
    call: Arc<F>,
    types: PhantomData<fn() -> (V, C)>,
}

impl<V, C, F> Fold<V, C, F>
where
    V: Record,
    C: Record,
    F: for<'a> Fn(Option<C>, V::Ref<'a>) -> C + Closure,
{
    fn new(call: F) -> Self {
        Fold {
            call: Arc::new(call),
            types: PhantomData,
        }
    }
}

struct FoldTask<V, C, F> {
    fold: Fold<V, C, F>,
    skip: usize,
    combined: Vec<Option<C>>,
}

impl<V, C, F> Reducer for Fold<V, C, F>
where
    V: Record,
    C: Record,
    F: for<'a> Fn(Option<C>, V::Ref<'a>) -> C + Closure,
{
    fn start(&self, skip: usize) -> Box<dyn ReducerTask> {
        Box::new(FoldTask::<V, C, F> {
            fold: Fold {
                call: Arc::clone(&self.call),
                types: PhantomData,
            },
            skip,
            combined: Vec::new(),
        })
    }
}

impl<V, C, F> ReducerTask for FoldTask<V, C, F>
where
    V: Record,
    C: Record,
    F: for<'a> Fn(Option<C>, V::Ref<'a>) -> C + Closure,
{
    fn update(&mut self, input: &RecordBatch, groups: &[usize]) -> Result<()> {
        let values = &input.columns()[self.skip..];
        let values = V::Cols::try_new(&mut ColumnReader::new(values))?;
        for (row, group) in groups.iter().enumerate() {
            if *group >= self.combined.len() {
                self.combined.resize_with(*group + 1, || None);
            }
            let combined = &mut self.combined[*group];
            *combined = Some((self.fold.call)(combined.take(), values.get(row)));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<ArrayRef>> {
        let mut builder = C::Builder::default();
        for combined in self.combined.drain(..).flatten() {
            combined.append(&mut builder);
        }
        let mut columns = Vec::new();
        builder.finish(&mut columns)?;
        Ok(columns)
    }
}
