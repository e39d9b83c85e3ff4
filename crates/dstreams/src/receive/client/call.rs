//! One call of a client, from its first acknowledgement to its end.

use std::sync::Arc;

use arrow_flight::FlightData;
use datafusion::arrow::array::RecordBatch;
use dstreams_client::protocol::{Offer, parse_batch_metadata, refusal};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::Claims;
use super::answers::AckSender;
use super::columns::ColumnMapping;
use super::producers::{Producer, SharedProducer};
use crate::error::Error;
use crate::receive::{Ingest, StopSignal};

/// Batches of one call that may wait for their acknowledgement; beyond that nothing more is read from it.
const MAX_WAITING_ACKS: usize = 1024;

/// A call that was opened: its stream exists and its columns fit.
pub(super) struct Call {
    pub messages: Streaming<FlightData>,
    pub acks: AckSender,
    pub columns: ColumnMapping,
    pub producer: SharedProducer,
    /// The name the producer gave.
    pub name: Option<Arc<str>>,
    /// The producer's name, or its address if it gave none.
    pub shown: String,
    pub claims: Option<Arc<dyn Claims>>,
    /// Size limit of a message in bytes.
    pub most: usize,
}

impl Call {
    /// Receives batches until the client ends the call, something is refused, or the stream closes.
    pub async fn run(mut self, ingest: Ingest, closing: StopSignal) {
        let (stream, producer) = (ingest.stream(), &self.shown);
        tracing::debug!(stream, producer, "a client's call starts");
        let (taken, waiting) = mpsc::channel(MAX_WAITING_ACKS);
        let receiving = Receiving {
            messages: &mut self.messages,
            acks: &self.acks,
            columns: &self.columns,
            producer: &self.producer,
            name: self.name.as_ref(),
            claims: self.claims.as_deref(),
            ingest: &ingest,
            closing: &closing,
            most: self.most,
            taken,
        };
        // A client that is gone ends all waiting (for memory, another worker, its producer's lock), so that the
        // producer is free for its next call. A batch is stored and counted without an await in between.
        let receiving = async {
            tokio::select! {
                biased;
                () = self.acks.client_disconnected() => Err(Status::cancelled("the client is gone")),
                received = receiving.run() => received,
            }
        };
        let acknowledging = acknowledge(&self.acks, &ingest, waiting);
        let (received, acknowledged) = tokio::join!(receiving, acknowledging);
        match received.and(acknowledged) {
            Ok(()) => tracing::debug!(stream, producer, "a client has finished"),
            Err(status) => {
                let status = refusal(status);
                let (code, reason) = (status.code(), status.message());
                tracing::info!(stream, producer, ?code, reason, "a client's call ends");
                self.acks.refuse(status);
            }
        }
    }
}

/// A stored batch: its number, and the block it is in.
struct StoredBatch {
    seq: u64,
    block: Option<u64>,
}

/// Acknowledges batches once their blocks are safe, until no more will be stored or the client is gone. Fails if a
/// block will not become safe.
async fn acknowledge(
    acks: &AckSender,
    ingest: &Ingest,
    mut waiting: mpsc::Receiver<StoredBatch>,
) -> Result<(), Status> {
    while let Some(StoredBatch { seq, block }) = waiting.recv().await {
        // I4 (ARCHITECTURE.md).
        if let Some(block) = block {
            tokio::select! {
                () = acks.client_disconnected() => return Ok(()),
                safe = acks.with_keep_alives(ingest.0.safe(block)) => safe.map_err(not_stored)?,
            }
        }
        acks.ack(seq);
    }
    Ok(())
}

/// Another worker may be able to store it, or this one later: the client retries.
fn not_stored(error: Error) -> Status {
    Status::unavailable(format!("the batch was not stored: {error}"))
}

struct Receiving<'a> {
    messages: &'a mut Streaming<FlightData>,
    acks: &'a AckSender,
    columns: &'a ColumnMapping,
    producer: &'a SharedProducer,
    name: Option<&'a Arc<str>>,
    claims: Option<&'a dyn Claims>,
    ingest: &'a Ingest,
    closing: &'a StopSignal,
    most: usize,
    taken: mpsc::Sender<StoredBatch>,
}

impl Receiving<'_> {
    async fn run(self) -> Result<(), Status> {
        let end = || Status::unavailable("the program accepts no more records");
        let connection = tokio::select! {
            biased;
            connection = self.take_over() => connection?,
            // Whatever it waits for may never come then.
            () = self.closing.requested() => return Err(end()),
        };
        loop {
            let message = tokio::select! {
                biased;
                () = self.closing.requested() => return Err(end()),
                // The acknowledging task reports the reason.
                () = self.taken.closed() => return Ok(()),
                message = self.messages.message() => message?,
            };
            let Some(message) = message else {
                return Ok(());
            };
            self.check_size(&message)?;
            let seq = parse_batch_metadata(&message.app_metadata)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let (records, bytes) = self.columns.decode(message, self.most)?;
            self.take(connection, seq, records, bytes).await?;
        }
    }

    fn check_size(&self, message: &FlightData) -> Result<(), Status> {
        let metadata = message.data_header.len() + message.app_metadata.len();
        let bytes = metadata + message.data_body.len();
        match bytes > self.most {
            true => Err(Status::out_of_range(format!(
                "a message of {bytes} bytes is too large, the limit is {} bytes",
                self.most
            ))),
            false => Ok(()),
        }
    }

    /// Makes this the producer's connection. Waits for batches that an older one is still storing, here or on
    /// another worker.
    async fn take_over(&self) -> Result<u64, Status> {
        let mut producer = self.acks.with_keep_alives(self.producer.lock()).await;
        if let (Some(claims), Some(name), false) = (self.claims, self.name, producer.owned) {
            let claim = claims.claim(self.ingest.stream(), name);
            let last = self.acks.with_keep_alives(claim).await?;
            *producer = Producer::owned_from(last, producer.connection);
        }
        producer.connection += 1;
        let (connection, last) = (producer.connection, producer.sequence.last());
        let safe = producer.safe(&self.ingest.0);
        self.acks.with_keep_alives(safe).await.map_err(not_stored)?;
        self.acks.ack(last);
        Ok(connection)
    }

    async fn take(
        &self,
        connection: u64,
        seq: Option<u64>,
        records: RecordBatch,
        bytes: usize,
    ) -> Result<(), Status> {
        let mut producer = self.acks.with_keep_alives(self.producer.lock()).await;
        if producer.connection != connection {
            return Err(Status::aborted(
                "a newer connection of this producer took over",
            ));
        }
        match producer.sequence.offer(seq) {
            Offer::Next(seq) => {
                let block = self
                    .acks
                    .with_keep_alives(self.push(records, bytes, seq))
                    .await?;
                producer.sequence.taken(seq);
                producer.block = block.or(producer.block);
            }
            Offer::Repeated => {}
            Offer::Gap { expected } => {
                let seq = seq.unwrap_or_default();
                let text = format!("batches are missing: expected number {expected}, got {seq}");
                return Err(Status::out_of_range(text));
            }
        }
        let taken = StoredBatch {
            seq: producer.sequence.last(),
            block: producer.block,
        };
        drop(producer);
        // The receiver of acknowledgements is closed only when the client is gone.
        let _ = self.acks.with_keep_alives(self.taken.send(taken)).await;
        Ok(())
    }

    /// As [`Ingest::push`], with columns known to fit and memory known: arrays of one message share memory, which
    /// would be counted once for each of them otherwise. Returns the number of the block.
    async fn push(
        &self,
        records: RecordBatch,
        bytes: usize,
        seq: u64,
    ) -> Result<Option<u64>, Status> {
        if records.num_rows() == 0 {
            return Ok(None);
        }
        let intake = &self.ingest.0;
        let memory = intake.budget.take(bytes).await;
        let offset = self.name.map(|name| (name, seq));
        let added = intake.add(records, bytes, memory, offset);
        Ok(Some(added.map_err(not_stored)?))
    }
}
