//! Outputs of the graph: closures get an [`Rdd`], writers implement [`Sink`].

use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use dstreams_control::BatchTime;
use tokio_util::sync::CancellationToken;

use super::record::{Record, records_of};
use crate::debug::debug_as;
use crate::error::{BoxError, Result};

/// The dataset a D-Stream has at one batch time: immutable, in partitions.
///
/// The order of partitions and of their rows depends on the batch alone.
pub struct Rdd<T> {
    rows: UntypedRdd,
    record: PhantomData<fn() -> T>,
}

debug_as!([T] Rdd<T> { rows });

/// An RDD without its type.
#[derive(Clone)]
pub(crate) struct UntypedRdd {
    pub batch: BatchTime,
    /// How much later than its interval it is there, in milliseconds.
    pub shift_ms: u64,
    pub schema: SchemaRef,
    pub partitions: Arc<Vec<Vec<RecordBatch>>>,
}

debug_as!(UntypedRdd { batch });

impl<T: Record> Rdd<T> {
    pub(crate) fn new(rows: UntypedRdd) -> Self {
        Rdd {
            rows,
            record: PhantomData,
        }
    }

    /// The batch time: the end of the interval.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "or"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// let rdd = rdds.recv().await.unwrap();
    /// // The end of an interval of an hour.
    /// assert_eq!(rdd.batch_time().0 % 3_600_000, 0);
    /// # Ok(()) }
    /// ```
    pub fn batch_time(&self) -> BatchTime {
        self.rows.batch
    }

    /// The end of the interval that the RDD is of: its batch time, or an earlier one in a stream that is late
    /// ([`DStream::by_time`](crate::DStream::by_time), [`DStream::delayed`](crate::DStream::delayed)).
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let hour = std::time::Duration::from_secs(3600);
    /// # let mut ctx = StreamContext::new(hour)?;
    /// # let (_, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.delayed(hour)?.collect();
    /// # let running = ctx.start().await?;
    /// # running.stop().await?;
    /// let rdd = rdds.recv().await.unwrap();
    /// assert_eq!(rdd.batch_time().0 - rdd.interval().0, 3_600_000);
    /// # Ok(()) }
    /// ```
    pub fn interval(&self) -> BatchTime {
        let of = self.rows.batch.minus(self.rows.shift_ms);
        of.unwrap_or(BatchTime(0))
    }

    /// The Arrow batches of each partition.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "or"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// let rdd = rdds.recv().await.unwrap();
    /// let rows = rdd.partitions().iter().flatten().map(|batch| batch.num_rows());
    /// assert_eq!(rows.sum::<usize>(), 3);
    /// # Ok(()) }
    /// ```
    pub fn partitions(&self) -> &[Vec<RecordBatch>] {
        &self.rows.partitions
    }

    /// Number of records.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "or"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// let rdd = rdds.recv().await.unwrap();
    /// assert_eq!(rdd.num_rows(), 3);
    /// # Ok(()) }
    /// ```
    pub fn num_rows(&self) -> usize {
        self.rows
            .partitions
            .iter()
            .flatten()
            .map(RecordBatch::num_rows)
            .sum()
    }

    /// All records, owned, partition after partition.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "or"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// let rdd = rdds.recv().await.unwrap();
    /// assert_eq!(rdd.collect()?, ["to", "be", "or"]);
    /// # Ok(()) }
    /// ```
    pub fn collect(&self) -> Result<Vec<T>> {
        self.take(usize::MAX)
    }

    /// The first `limit` records, owned.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "or"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// let rdd = rdds.recv().await.unwrap();
    /// assert_eq!(rdd.take(2)?, ["to", "be"]);
    /// # Ok(()) }
    /// ```
    pub fn take(&self, limit: usize) -> Result<Vec<T>> {
        let mut records = Vec::new();
        for batch in self.rows.partitions.iter().flatten() {
            let wanted = batch.num_rows().min(limit - records.len());
            records.extend(records_of::<T>(&batch.slice(0, wanted))?);
        }
        Ok(records)
    }

    /// The records as a DataFrame of a new session, for ad-hoc queries.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// # let running = ctx.start().await?;
    /// queue.push(["to", "be", "or"].map(str::to_owned)).await?;
    /// # running.stop().await?;
    /// let rdd = rdds.recv().await.unwrap();
    /// use dstreams::datafusion::prelude::{col, lit};
    ///
    /// let rest = rdd.dataframe()?.filter(col("value").not_eq(lit("be")))?;
    /// assert_eq!(rest.count().await?, 2);
    /// # Ok(()) }
    /// ```
    pub fn dataframe(&self) -> Result<DataFrame> {
        let schema = Arc::clone(&self.rows.schema);
        let table = MemTable::try_new(schema, self.rows.partitions.to_vec())?;
        Ok(SessionContext::new().read_table(Arc::new(table))?)
    }
}

/// The result of [`Sink::prepare`], passed to [`Sink::commit`]: bytes whose meaning is up to the sink, such as the
/// name of a file that is written but not visible.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepared(pub Vec<u8>);

/// How often a batch takes effect in a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guarantee {
    /// Once, whatever fails: prepared work is invisible, and a repeated commit of the same batch time changes
    /// nothing.
    ExactlyOnce,
    /// Once, or more often after a failure.
    AtLeastOnce,
}

/// Names a process of a program that is kept in a directory: see [`Sink::fence`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FencingToken {
    /// The random name of the program's directory.
    pub program: String,
    /// The process is the n-th of the program. Each has a greater number than all before.
    pub epoch: u64,
}

/// Writes RDDs to an external system, batch by batch.
///
/// For each batch, `prepare` is called for each partition, where the partition is and possibly more than once (a
/// retry, a copy of a slow task). Then `commit` is called once, in order of batch times, with the result of one
/// successful `prepare` of each partition, in order of partitions. If a commit fails or its outcome is unknown, it is
/// repeated with the same batch time.
///
/// On a cluster, `prepare` runs on a worker and `commit` on the master: `commit` gets only the bytes that `prepare`
/// returned, and must be able to reach what `prepare` wrote.
///
/// A sink is exactly-once if nothing is visible before `commit`, and `commit` is atomic and does nothing for a batch
/// time it has seen. The next batch may be prepared before this one is committed.
/// [`contract::sink`](crate::contract::sink) tests all this.
///
/// # Batch times and the next run
///
/// A graceful stop does not wait for the end of its interval: it commits its last batch at once, under a batch time
/// that is ahead of the clock. A program that starts within that interval must not reuse this time, or an
/// exactly-once sink would regard its first batch as committed. A program with a directory
/// ([`StreamContext::persist_in`]) remembers its batch times. Otherwise the sink does: it returns its newest
/// batch from [`Sink::open`], and batch times begin after that one.
///
/// [`StreamContext::persist_in`]: crate::StreamContext::persist_in
///
/// ```
/// use std::sync::Mutex;
/// use dstreams::{BatchTime, BoxError, Guarantee, Prepared, Sink, arrow::array::RecordBatch};
///
/// /// Counts rows.
/// struct RowCount(Mutex<Vec<(BatchTime, u64)>>);
///
/// #[dstreams::async_trait]
/// impl Sink for RowCount {
///     async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
///         Ok(self.0.lock().unwrap().last().map(|(batch, _)| *batch))
///     }
///     async fn prepare(
///         &self, _: BatchTime, _: usize, rows: &[RecordBatch],
///     ) -> Result<Prepared, BoxError> {
///         let rows: u64 = rows.iter().map(|batch| batch.num_rows() as u64).sum();
///         Ok(Prepared(rows.to_le_bytes().to_vec()))
///     }
///     async fn commit(&self, batch: BatchTime, parts: Vec<Prepared>) -> Result<(), BoxError> {
///         let count = |part: &Prepared| {
///             part.0.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
///         };
///         let mut seen = self.0.lock().unwrap();
///         if seen.last().is_none_or(|(last, _)| *last < batch) {
///             seen.push((batch, parts.iter().map(count).sum()));
///         }
///         Ok(())
///     }
///     fn guarantee(&self) -> Guarantee { Guarantee::ExactlyOnce }
/// }
/// ```
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Called before [`Sink::open`], in the master of a cluster, if the program is kept in a directory.
    ///
    /// When a standby master takes over, the process before it may still run: stopped in the middle of a commit, for
    /// example, which it completes when it goes on. It commits no batch that this process does not commit too, so a sink
    /// whose commits do nothing for a batch that is there needs no more. One that claims its output exclusively takes it
    /// from a process of the same program with a lower epoch. One that stores the epoch with each commit, and refuses a
    /// lower one, is safe from all that a former process does late.
    fn fence(&self, _token: &FencingToken) {}

    /// Called once before the first batch, in the process that commits. Claims the output exclusively, and returns
    /// the newest committed batch of any process; `None` if there is none, or if batches may take effect twice. The
    /// first batch of a program without a directory is later than that.
    ///
    /// An error fails the start. So does a newest batch that is more than a minute and more than an interval ahead of
    /// the clock, or later than every batch in the program's own directory.
    async fn open(&self) -> Result<Option<BatchTime>, BoxError>;

    /// Called once after the last commit. Releases what [`Sink::open`] has claimed.
    fn close(&self) {}

    /// Writes one partition so that it can be committed, without making it visible.
    async fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError>;

    /// Makes the whole batch visible.
    async fn commit(&self, batch: BatchTime, prepared: Vec<Prepared>) -> Result<(), BoxError>;

    /// The guarantee of this sink.
    fn guarantee(&self) -> Guarantee;
}

/// A closure that is called with each RDD when its batch is committed.
pub(crate) trait RddFn: Send + Sync {
    /// `over` is cancelled when the program has ended, and ends waits for external systems.
    fn call(&self, rows: UntypedRdd, over: &CancellationToken) -> Result<()>;
}

/// An output of the graph.
#[derive(Clone)]
pub(crate) enum Output {
    /// Called on the master with the whole RDD.
    Rdd(Arc<dyn RddFn>),
    /// Prepared by partition, committed by batch.
    Sink(Arc<dyn Sink>),
}
