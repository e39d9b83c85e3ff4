//! A block on its way to another worker: its header, then its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, FlightDescriptor};
use datafusion::arrow::array::RecordBatch;
use dstreams::cluster::{Block, Budget};
use dstreams_control::BlockMeta;
use futures::{Stream, TryStreamExt};
use serde::{Deserialize, Serialize};
use tonic::{Status, Streaming};

/// The largest message of Arrow data, in bytes.
const MESSAGE: usize = 2 << 20;

/// What a block is, beside its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyHeader {
    /// The worker that sends it, as the master numbers workers.
    pub sender: u32,
    /// Where it was received.
    pub received: Received,
    pub meta: BlockMeta,
    pub marks: BTreeMap<String, u64>,
}

impl CopyHeader {
    pub fn of(sender: u32, received: Received, block: &Block) -> Self {
        let marks = block
            .marks
            .iter()
            .map(|(name, last)| (name.to_string(), *last));
        CopyHeader {
            sender,
            received,
            meta: block.meta,
            marks: marks.collect(),
        }
    }
}

/// Which worker received a block, and for which input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub worker: u32,
    pub input: u32,
}

/// Rows as Flight messages; the first one has `descriptor`.
pub fn encode(
    rows: Vec<RecordBatch>,
    descriptor: Option<FlightDescriptor>,
) -> impl Stream<Item = Result<FlightData, FlightError>> + Send + 'static {
    let mut encoder = FlightDataEncoderBuilder::new().with_max_flight_data_size(MESSAGE);
    if let Some(first) = rows.first() {
        encoder = encoder.with_schema(first.schema());
    }
    let encoder = encoder.with_flight_descriptor(descriptor);
    encoder.build(futures::stream::iter(rows.into_iter().map(Ok)))
}

/// Rows from Flight messages.
pub async fn decode(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Vec<RecordBatch>, FlightError> {
    let messages = messages.map_err(|status| FlightError::Tonic(Box::new(status)));
    let rows = FlightRecordBatchStream::new_from_flight_data(messages);
    rows.try_collect().await
}

/// Reads a block that another worker sends.
pub async fn decode_copy(
    mut messages: Streaming<FlightData>,
    budget: &Budget,
) -> Result<(CopyHeader, Block), Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let first = messages.message().await?;
    let first = first.ok_or_else(|| Status::invalid_argument("a copy without a message"))?;
    let descriptor = first.flight_descriptor.as_ref();
    let command = descriptor.map(|d| d.cmd.clone()).unwrap_or_default();
    let header: CopyHeader = serde_json::from_slice(&command)
        .map_err(|error| invalid(&format!("no header of a copy of a block: {error}")))?;
    let memory = budget.take(header.meta.bytes as usize).await;
    let all = futures::stream::once(async move { Ok(first) });
    let all = futures::StreamExt::chain(all, messages);
    let rows = decode(all).await.map_err(|e| invalid(&e))?;
    let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
    if count as u64 != header.meta.rows {
        let wanted = header.meta.rows;
        return Err(Status::data_loss(format!(
            "a copy of block {} with {count} rows instead of {wanted}",
            header.meta.id
        )));
    }
    let marks = header.marks.iter();
    let marks = marks.map(|(name, last)| (Arc::from(name.as_str()), *last));
    let bytes = header.meta.bytes as usize;
    let block = Block::new(header.meta.id, rows, bytes, vec![memory]).with_marks(marks.collect());
    Ok((header, block))
}
