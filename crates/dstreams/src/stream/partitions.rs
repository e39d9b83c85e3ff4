//! Operators on the partitions of an RDD: `map_partitions` and `repartition`.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::dstream::DStream;
use super::graph::Op;
use super::record::{Builder, Columns, Out, Record, columns_of, finish_batch};
use super::rows::{Closure, RowsFn, RowsTask, text_buffers};
use crate::debug::debug_as;
use crate::error::{Error, Operator, Result};

/// The most partitions of [`DStream::repartition`]: each costs a task.
const MOST_PARTITIONS: usize = 1024;

impl<T: Record> DStream<T> {
    /// Calls a closure once for each partition of an RDD, with all its records in their order; it pushes any number of
    /// results. O(records in and out), in memory for a whole partition.
    ///
    /// For what is worth doing once for many records: opening a connection or a file, asking a service for many keys
    /// at once, filling a buffer. A partition without records is not called for. A task that is run again, or copied,
    /// calls it again.
    ///
    /// How records are cut into partitions depends on their number and on
    /// [`Config::threads`](crate::Config::threads), not on time: the same batch always has the same. A result that
    /// depends on the cut, such as a sum for each partition, depends on these settings too.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> dstreams::Result<()> {
    /// # use dstreams::{Config, testing};
    /// # let config = Config::new(std::time::Duration::from_secs(1));
    /// # struct Service; impl Service {
    /// #     fn connect() -> Self { Service }
    /// #     fn prices(&self, of: &[i64]) -> Vec<i64> { of.iter().map(|n| n * 100).collect() }
    /// # }
    /// let batches = testing::run(&config, [vec![1i64, 2, 3]], |articles| {
    ///     let priced = articles.map_partitions::<(i64, i64)>(|articles, out| {
    ///         let service = Service::connect();
    ///         let articles: Vec<i64> = articles.collect();
    ///         let prices = service.prices(&articles); // one request
    ///         articles.into_iter().zip(prices).for_each(|priced| out.push(priced));
    ///     });
    ///     Ok(priced)
    /// });
    /// assert_eq!(batches.await?[0].1, [(1, 100), (2, 200), (3, 300)]);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn map_partitions<U: Record>(
        &self,
        f: impl for<'a> Fn(PartitionRecords<'a, T>, &mut Out<'_, U>) + Closure,
    ) -> DStream<U> {
        let operator = Operator::new("map_partitions", Location::caller());
        let rows = MapPartitions::<T, U, _> {
            call: Arc::new(f),
            types: PhantomData,
        };
        self.rows(operator, U::schema(), Arc::new(rows))
    }

    /// The same records in so many partitions of equal size. O(records of the batch): they are moved, on a cluster
    /// over the network.
    ///
    /// An RDD has few partitions where it comes from few records. Where each of them makes much work, this spreads it
    /// over all threads and workers, up to 1,024 partitions. In each partition the records of a task of the input stay
    /// in their order.
    ///
    /// Refused with no partitions, and with more.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1)).unwrap();
    /// # let (_, jobs) = ctx.queue::<i64>("jobs");
    /// # fn solve(job: i64) -> i64 { job }
    /// let solved = jobs.repartition(8)?.map(solve);
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    #[track_caller]
    pub fn repartition(&self, partitions: usize) -> Result<DStream<T>> {
        let operator = Operator::new("repartition", Location::caller());
        if partitions == 0 || partitions > MOST_PARTITIONS {
            return Err(Error::Graph {
                operator,
                message: format!(
                    "an RDD cannot have {partitions} partitions; choose 1 to {MOST_PARTITIONS}"
                ),
            });
        }
        let op = Op::Repartition { partitions };
        let node = self.graph.add_to(self.node, op, T::schema(), operator);
        Ok(DStream::at(&self.graph, node))
    }
}

/// The records of a partition, in their order: see [`DStream::map_partitions`].
pub struct PartitionRecords<'a, T: Record> {
    columns: &'a [(T::Cols, usize)],
    batch: usize,
    row: usize,
    left: usize,
}

debug_as!([T: Record] PartitionRecords<'_, T> { left });

impl<T: Record> Clone for PartitionRecords<'_, T> {
    fn clone(&self) -> Self {
        PartitionRecords { ..*self }
    }
}

impl<'a, T: Record> PartitionRecords<'a, T> {
    fn of(columns: &'a [(T::Cols, usize)]) -> Self {
        PartitionRecords {
            columns,
            batch: 0,
            row: 0,
            left: columns.iter().map(|(_, rows)| rows).sum(),
        }
    }
}

impl<'a, T: Record> Iterator for PartitionRecords<'a, T> {
    type Item = T::Ref<'a>;

    #[inline]
    fn next(&mut self) -> Option<T::Ref<'a>> {
        loop {
            let (columns, rows) = self.columns.get(self.batch)?;
            if self.row < *rows {
                let record = columns.get(self.row);
                self.row += 1;
                self.left -= 1;
                return Some(record);
            }
            (self.batch, self.row) = (self.batch + 1, 0);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T: Record> ExactSizeIterator for PartitionRecords<'_, T> {}

struct MapPartitions<T, U, F> {
    call: Arc<F>,
    types: PhantomData<fn() -> (T, U)>,
}

struct MapPartitionsTask<T, U, F> {
    call: Arc<F>,
    input: Vec<RecordBatch>,
    types: PhantomData<fn() -> (T, U)>,
}

impl<T, U, F> RowsFn for MapPartitions<T, U, F>
where
    T: Record,
    U: Record,
    F: for<'a> Fn(PartitionRecords<'a, T>, &mut Out<'_, U>) + Closure,
{
    fn start(&self, _: BatchTime) -> Box<dyn RowsTask> {
        Box::new(MapPartitionsTask::<T, U, F> {
            call: Arc::clone(&self.call),
            input: Vec::new(),
            types: PhantomData,
        })
    }

    fn as_received(&self) -> bool {
        false
    }
}

impl<T, U, F> RowsTask for MapPartitionsTask<T, U, F>
where
    T: Record,
    U: Record,
    F: for<'a> Fn(PartitionRecords<'a, T>, &mut Out<'_, U>) + Closure,
{
    fn run(&mut self, input: &RecordBatch, _: usize, _: usize) -> Result<(RecordBatch, usize)> {
        self.input.push(input.clone());
        Ok((RecordBatch::new_empty(U::schema()), input.num_rows()))
    }

    fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let input = std::mem::take(&mut self.input);
        let columns = input
            .iter()
            .map(|rows| Ok((columns_of::<T>(rows)?, rows.num_rows())));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut builder = U::Builder::default();
        let texts: Vec<_> = input.iter().flat_map(text_buffers).collect();
        builder.attach(&texts);
        (self.call)(PartitionRecords::of(&columns), &mut Out::new(&mut builder));
        Ok(Some(finish_batch(&U::schema(), &mut builder)?))
    }
}
