//! A queue of rows or Arrow batches, pushed by this process.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::ingest::Ingest;
use super::source::{Source, SourcePlacement, StopSignal};
use crate::debug::debug_as;
use crate::error::{BoxError, Error, Result};
use crate::stream::record::{Record, batch_of};

/// The pushing end of a queue: made by [`StreamContext::queue`](crate::StreamContext::queue).
///
/// What is pushed belongs to the interval in which the call returns. Before the context has started
/// and after it has stopped pushing is an error.
#[must_use = "a queue without its pushing end stays empty"]
pub struct Queue<T> {
    ingest: Arc<OnceLock<Ingest>>,
    record: PhantomData<fn(T)>,
}

debug_as!([T] Queue<T>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue {
            ingest: Arc::clone(&self.ingest),
            record: PhantomData,
        }
    }
}

impl<T: Record> Queue<T> {
    pub(crate) fn new() -> (Self, QueueSource) {
        let ingest = Arc::new(OnceLock::new());
        let queue = Queue {
            ingest: Arc::clone(&ingest),
            record: PhantomData,
        };
        let schema = T::schema();
        (queue, QueueSource { schema, ingest })
    }

    /// Pushes records; waits while the memory for received records is full.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// let mut rdds = lines.collect();
    /// assert!(queue.push(["too early".to_owned()]).await.is_err());
    /// let running = ctx.start().await?;
    /// queue.push(["to be".to_owned(), "or not".to_owned()]).await?;
    /// running.stop().await?;
    /// assert_eq!(rdds.recv().await.unwrap().num_rows(), 2);
    /// # Ok(()) }
    /// ```
    pub async fn push(&self, records: impl IntoIterator<Item = T>) -> Result<()> {
        self.push_batch(batch_of(records)?).await
    }

    /// Pushes an Arrow batch with the columns of `T`.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// use dstreams::record::batch_of;
    ///
    /// let mut rdds = lines.collect();
    /// # let running = ctx.start().await?;
    /// queue.push_batch(batch_of(["to be".to_owned()])?).await?; // or columns from elsewhere
    /// # running.stop().await?;
    /// assert_eq!(rdds.recv().await.unwrap().collect()?, ["to be"]);
    /// # Ok(()) }
    /// ```
    pub async fn push_batch(&self, records: RecordBatch) -> Result<()> {
        let ingest = self.ingest.get().ok_or(Error::NotRunning)?;
        ingest.push(records).await
    }
}

/// The receiving end of a queue.
pub(crate) struct QueueSource {
    schema: SchemaRef,
    ingest: Arc<OnceLock<Ingest>>,
}

#[async_trait]
impl Source for QueueSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn place(&self) -> SourcePlacement {
        SourcePlacement::Master
    }

    fn connect(&mut self, ingest: &Ingest) {
        let _ = self.ingest.set(ingest.clone());
    }

    async fn run(self: Box<Self>, _: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        closing.requested().await;
        Ok(())
    }
}
