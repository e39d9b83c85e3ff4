//! The entry point: finds a program, and opens senders to its streams.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::address::{Addresses, ToAddresses};
use crate::batches::BatchSender;
use crate::connect::connect;
use crate::encode::plain_schema;
use crate::error::Error;
use crate::lines::LineSender;
use crate::options::Options;
use crate::pack::Slot;
use crate::protocol::lines_schema;
use crate::sender::Sender;

/// The address of a program and how to send to it. Each sender it opens has a connection and a background task of
/// its own, so that none waits for another; a client has no connection itself and is cheap to clone.
#[derive(Debug, Clone)]
#[must_use = "open a sender: `lines` or `batches`"]
pub struct Client {
    addresses: Addresses,
    options: Options,
}

impl Client {
    /// Finds an address that answers, trying each once, in order.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), dstreams_client::Error> {
    /// use dstreams_client::{Client, Options};
    /// let one = Client::connect("127.0.0.1:7077", Options::default()).await?;
    /// let any = Client::connect(["worker-1:7077", "worker-2:7077"], Options::default()).await?;
    /// let cluster = Client::connect("master:7070", Options::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// An address may be a cluster's master: each sender asks it for the workers that take its stream, when it
    /// opens and whenever its connection breaks, and continues with another of them.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] if an option or an address cannot work; otherwise the error of the last address
    /// ([`Error::Connect`] or [`Error::NoAnswer`]). This does not wait for a program that is not up yet: call it
    /// again if [`Error::is_retryable`].
    pub async fn connect(addresses: impl ToAddresses, options: Options) -> Result<Self, Error> {
        options.check()?;
        let options = options.bounded();
        let mut addresses = Addresses::new(&addresses)?;
        let mut tries = addresses.len();
        loop {
            tries -= 1;
            match connect(addresses.current(), &options).await {
                Ok(_) => return Ok(Self { addresses, options }),
                Err(error) if tries == 0 => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "trying the next address");
                    addresses.move_on();
                }
            }
        }
    }

    /// Opens a sender of text lines to the stream of this name.
    ///
    /// ```no_run
    /// # async fn example(client: dstreams_client::Client) -> Result<(), dstreams_client::Error> {
    /// let mut lines = client.lines("lines").await?;
    /// lines.send("one line").await?;
    /// lines.send_text(b"two lines\nat once\n").await?;
    /// lines.flush().await?; // now all three are safe
    /// let report = lines.finish().await?;
    /// assert_eq!(report.records_acknowledged, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] if there is no such stream (the message lists the existing ones) or it does not take
    /// lines; [`Error::Unauthenticated`] if it requires another token; [`Error::GaveUp`] if no address could be
    /// reached, or a master had no worker for the stream ([`Error::NoWorker`] is the source then), within
    /// [`Options::retry`].
    pub async fn lines(&self, stream: &str) -> Result<LineSender, Error> {
        let slot = Arc::new(Slot::new(&self.options));
        let sender = Sender::open(
            stream,
            &lines_schema(),
            Some(Arc::clone(&slot)),
            self.addresses.clone(),
            self.options.clone(),
        )
        .await?;
        Ok(LineSender::new(sender, slot, &self.options))
    }

    /// Opens a sender of record batches with this schema to the stream of this name.
    ///
    /// ```no_run
    /// # async fn example(client: dstreams_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use dstreams_client::arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
    /// use std::sync::Arc;
    /// let urls: ArrayRef = Arc::new(StringArray::from(vec!["/", "/about"]));
    /// let status: ArrayRef = Arc::new(Int32Array::from(vec![200, 404]));
    /// let batch = RecordBatch::try_from_iter([("url", urls), ("status", status)])?;
    /// let mut views = client.batches("views", batch.schema()).await?;
    /// views.send(batch).await?;
    /// views.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Encode`] if the schema cannot be sent; otherwise as [`lines`](Self::lines).
    pub async fn batches(&self, stream: &str, schema: SchemaRef) -> Result<BatchSender, Error> {
        let plain = plain_schema(&schema)?;
        let sender = Sender::open(
            stream,
            &plain,
            None,
            self.addresses.clone(),
            self.options.clone(),
        )
        .await?;
        Ok(BatchSender::new(
            sender,
            schema,
            plain,
            self.options.max_message_bytes,
        ))
    }
}
