//! One call of a client, from its first acknowledgement to its end.

use arrow_flight::FlightData;
use datafusion::arrow::array::RecordBatch;
use dstreams_client::protocol::{Offer, parse_batch_metadata};
use tonic::{Status, Streaming};

use super::answers::Say;
use super::columns::Columns;
use super::producers::Shared;
use crate::receive::{Closing, Ingest};

/// A call that was opened: its stream exists and its columns fit.
pub(super) struct Call {
    pub messages: Streaming<FlightData>,
    pub say: Say,
    pub columns: Columns,
    pub producer: Shared,
    /// The producer's name, or its address if it gave none.
    pub name: String,
}

impl Call {
    /// Takes batches until the client ends the call, something is refused, or the stream closes.
    pub async fn run(mut self, ingest: Ingest, closing: Closing) {
        let (stream, producer) = (ingest.stream(), &self.name);
        tracing::debug!(stream, producer, "a client begins");
        let mut receiving = Receiving {
            messages: &mut self.messages,
            say: &self.say,
            columns: &self.columns,
            producer: &self.producer,
            ingest: &ingest,
            closing: &closing,
        };
        match receiving.run().await {
            Ok(()) => tracing::debug!(stream, producer, "a client has finished"),
            Err(status) => {
                let (code, reason) = (status.code(), status.message());
                tracing::info!(stream, producer, ?code, reason, "a client's call ends");
                self.say.refuse(status);
            }
        }
    }
}

struct Receiving<'a> {
    messages: &'a mut Streaming<FlightData>,
    say: &'a Say,
    columns: &'a Columns,
    producer: &'a Shared,
    ingest: &'a Ingest,
    closing: &'a Closing,
}

impl Receiving<'_> {
    async fn run(&mut self) -> Result<(), Status> {
        let connection = self.take_over().await;
        loop {
            let message = tokio::select! {
                biased;
                () = self.closing.requested() => {
                    return Err(Status::unavailable("the program takes in nothing more"));
                }
                () = self.say.unheard() => return Err(Status::cancelled("the client is gone")),
                message = self.messages.message() => message?,
            };
            let Some(message) = message else {
                return Ok(());
            };
            let seq = parse_batch_metadata(&message.app_metadata)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let (records, bytes) = self.columns.decode(message)?;
            self.take(connection, seq, records, bytes).await?;
        }
    }

    /// From now on this is the producer's connection. Waits for what an older one still stores.
    async fn take_over(&self) -> u64 {
        let mut producer = self.say.alive_during(self.producer.lock()).await;
        producer.connection += 1;
        self.say.ack(producer.sequence.last());
        producer.connection
    }

    async fn take(
        &self,
        connection: u64,
        seq: Option<u64>,
        records: RecordBatch,
        bytes: usize,
    ) -> Result<(), Status> {
        let mut producer = self.say.alive_during(self.producer.lock()).await;
        if producer.connection != connection {
            return Err(Status::aborted(
                "a newer connection of this producer took over",
            ));
        }
        match producer.sequence.offer(seq) {
            Offer::Next(seq) => {
                self.say.alive_during(self.push(records, bytes)).await?;
                producer.sequence.taken(seq);
            }
            Offer::Repeated => {}
            Offer::Gap { expected } => {
                let seq = seq.unwrap_or_default();
                let text = format!("batches are missing: expected number {expected}, got {seq}");
                return Err(Status::out_of_range(text));
            }
        }
        self.say.ack(producer.sequence.last());
        Ok(())
    }

    /// As [`Ingest::push`], with the columns known to fit and the memory known: arrays of one message
    /// share it, and counted one by one they would count it many times.
    async fn push(&self, records: RecordBatch, bytes: usize) -> Result<(), Status> {
        if records.num_rows() == 0 {
            return Ok(());
        }
        let intake = &self.ingest.0;
        let memory = intake.budget.take(bytes).await;
        let added = intake.add(records, bytes, memory);
        added.map_err(|error| Status::internal(format!("the batch was not stored: {error}")))
    }
}
