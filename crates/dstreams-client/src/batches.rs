//! Sending record batches.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use crate::encode::{Encoder, columns_of, plain_batch};
use crate::error::Error;
use crate::sender::{Report, Sender};

/// Sends record batches of one schema to one stream; made by [`Client::batches`](crate::Client::batches).
///
/// A record is a row. Rows arrive in the order in which they were sent, each exactly once as long as this sender
/// lives; safety and dropping are as with [`LineSender`](crate::LineSender). A batch is sent at once, small or not:
/// collect rows yourself, some thousands to a batch.
#[derive(Debug)]
#[must_use = "send records, then `finish`: only then are they known to be safe"]
pub struct BatchSender {
    sender: Sender,
    schema: SchemaRef,
    /// Without dictionaries.
    plain: SchemaRef,
    encoder: Encoder,
    limit: usize,
}

impl BatchSender {
    pub(crate) fn new(sender: Sender, schema: SchemaRef, plain: SchemaRef, limit: usize) -> Self {
        Self {
            sender,
            schema,
            plain,
            encoder: Encoder::new(),
            limit,
        }
    }

    /// Sends a batch: encodes it, waits while the window is full, and returns when it is taken.
    ///
    /// A batch over [`Options::max_message_bytes`](crate::Options::max_message_bytes) is split by rows. Dictionary
    /// columns travel as their values. An empty batch is ignored. If the future is dropped before it is ready, none
    /// of the batch was taken.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSchema`], [`Error::TooLarge`] (a single row) and [`Error::Encode`]: none of the batch was
    /// taken, the sender can still be used. Any other error has ended the sender.
    pub async fn send(&mut self, batch: RecordBatch) -> Result<(), Error> {
        self.sender.check()?;
        if !same_columns(&self.schema, batch.schema_ref()) {
            let expected = columns_of(&self.schema);
            return Err(Error::WrongSchema {
                expected,
                got: columns_of(batch.schema_ref()),
            });
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let records = batch.num_rows() as u64;
        let plain = plain_batch(&batch, &self.plain)?;
        let group = self.encoder.encode_cut(&plain, self.limit)?;
        self.sender.permit().await?.send(group);
        self.sender.count_sent(records);
        Ok(())
    }

    /// Waits until every batch so far is acknowledged.
    ///
    /// # Errors
    ///
    /// The error that ended the sender; [`Error::tally`] says how many rows were safe then.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.sender.check()?;
        self.sender.all_acknowledged().await
    }

    /// [`flush`](Self::flush), then closes the stream gracefully.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub async fn finish(mut self) -> Result<Report, Error> {
        self.flush().await?;
        Ok(self.sender.close().await)
    }

    /// Rows taken so far.
    pub fn sent(&self) -> u64 {
        self.sender.sent()
    }

    /// Rows that are safe so far. Cheap enough for a progress bar. Counts parts of a split batch.
    pub fn acknowledged(&self) -> u64 {
        self.sender.acknowledged()
    }

    /// The numbers so far.
    pub fn report(&self) -> Report {
        self.sender.report()
    }

    /// The schema every batch must have.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        self.sender.stream()
    }

    /// The sender's unique random name: find it in the server's log.
    pub fn producer(&self) -> &str {
        self.sender.producer()
    }
}

/// Same names, types and nullability; metadata may differ.
fn same_columns(one: &SchemaRef, other: &SchemaRef) -> bool {
    fn columns(
        schema: &Schema,
    ) -> impl Iterator<Item = (&String, &arrow::datatypes::DataType, bool)> {
        schema
            .fields()
            .iter()
            .map(|field| (field.name(), field.data_type(), field.is_nullable()))
    }
    std::sync::Arc::ptr_eq(one, other) || columns(one).eq(columns(other))
}
