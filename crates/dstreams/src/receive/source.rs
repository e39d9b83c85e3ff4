//! [`Source`]: where records come from; implemented by the library's sources and by yours.

use std::net::SocketAddr;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use tokio_util::sync::CancellationToken;

use super::ingest::Ingest;
use crate::error::BoxError;

/// Brings records into an input stream.
///
/// The context calls [`Source::open`] before the first batch: if the source cannot work (an address in use, a
/// missing file), the start fails. Then [`Source::run`] runs as its own task until it returns or the context stops.
///
/// A source that can read its input again resumes after a restart, with each record once: it reports its offset
/// with [`Ingest::push_at`], and begins at [`Ingest::offsets`]. [`contract::source`](crate::contract::source())
/// tests that.
///
/// ```
/// use std::sync::Arc;
/// use dstreams::{BoxError, StopSignal, Ingest, Record, Source, StreamContext, record::batch_of};
///
/// /// The numbers below a limit.
/// struct Numbers(i64);
///
/// #[dstreams::async_trait]
/// impl Source for Numbers {
///     fn schema(&self) -> dstreams::arrow::datatypes::SchemaRef {
///         i64::schema()
///     }
///     async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
///         for n in 0..self.0 {
///             if closing.is_requested() {
///                 break;
///             }
///             ingest.push(batch_of([n])?).await?; // waits while memory is full
///         }
///         Ok(())
///     }
/// }
///
/// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let numbers = ctx.source::<i64>("numbers", Numbers(1000))?;
/// # Ok::<(), dstreams::Error>(())
/// ```
#[async_trait]
pub trait Source: Send + 'static {
    /// The columns of its records.
    fn schema(&self) -> SchemaRef;

    /// Acquires what it needs from outside, such as a socket. Returns the address it listens on, if any.
    async fn open(&mut self) -> Result<Option<SocketAddr>, BoxError> {
        Ok(None)
    }

    /// Whether it gives the time of a [`Clock::of_sources`](crate::Clock::of_sources), with [`Ingest::time_is`]: the
    /// clock waits for it.
    fn gives_time(&self) -> bool {
        false
    }

    /// Where it runs on a cluster.
    #[doc(hidden)]
    fn place(&self) -> SourcePlacement {
        SourcePlacement::OneWorker
    }

    /// Called once before the first batch; a source that is fed from elsewhere stores the handle.
    fn connect(&mut self, _ingest: &Ingest) {}

    /// Brings records until there are no more, or until `closing` asks it to stop: then it accepts no new input,
    /// pushes what it has accepted, and returns.
    ///
    /// An error (or a panic) stops this source only; it is logged and reported to listeners.
    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError>;
}

/// Where a source runs on a cluster.
#[doc(hidden)]
#[derive(Debug)]
pub enum SourcePlacement {
    /// On one worker; on another if that one is lost.
    OneWorker,
    /// On every worker, for clients.
    Everywhere(super::Clients),
    /// In the process of the master.
    Master,
}

/// Asks a source to stop.
#[derive(Debug, Clone, Default)]
pub struct StopSignal(CancellationToken);

impl StopSignal {
    /// Whether the source should stop.
    ///
    /// ```
    /// # use dstreams::{BoxError, StopSignal, Ingest, record::batch_of};
    /// /// The `run` of a source that never waits.
    /// async fn run(ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
    ///     let mut n = 0i64;
    ///     while !closing.is_requested() {
    ///         ingest.push(batch_of([n])?).await?;
    ///         n += 1;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the source should stop.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dstreams::{BoxError, StopSignal, Ingest, record::batch_of};
    /// /// The `run` of a source that waits between two records.
    /// async fn run(ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
    ///     loop {
    ///         tokio::select! {
    ///             () = closing.requested() => return Ok(()),
    ///             () = tokio::time::sleep(Duration::from_secs(1)) => ingest.push(batch_of([1i64])?).await?,
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn requested(&self) {
        self.0.cancelled().await
    }

    /// Asks the source to stop.
    #[doc(hidden)]
    pub fn request(&self) {
        self.0.cancel()
    }
}
