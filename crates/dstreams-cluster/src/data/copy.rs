//! The replica of a block as sent to another worker: its header, then its rows.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, FlightDescriptor};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams::internal::message::{self, Malformed};
use dstreams::internal::{Block, Budget, compact};
use dstreams_control::BlockMeta;
use futures::{Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{PAUSE, Replies};
use crate::plan::{Part, Source};

/// The largest message of Arrow data, in bytes; below the limit of services.
const MESSAGE: usize = 60 << 20;
/// Approximate bytes of rows in one message.
const PIECE: usize = 16 << 20;
/// The largest record, in bytes: it fits into a message with all overhead.
pub const RECORD: usize = 32 << 20;

/// The largest plausible size of a block in bytes: more than any machine's memory.
const MAX_BLOCK_BYTES: u64 = 1 << 48;

/// The description of a block, besides its rows.
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
            .offsets
            .iter()
            .map(|(name, last)| (name.to_string(), *last));
        CopyHeader {
            sender,
            received,
            meta: block.meta,
            marks: marks.collect(),
        }
    }

    /// Reads the header in the first message of a copy.
    fn parse(first: &FlightData) -> Result<Self, Status> {
        let descriptor = first.flight_descriptor.as_ref();
        let command = descriptor.map(|it| &it.cmd[..]).unwrap_or_default();
        let header = serde_json::from_slice::<Self>(command);
        let wrong =
            |why| Status::invalid_argument(format!("not the header of a copy of a block: {why}"));
        let header = header.map_err(|error| wrong(error.to_string()))?;
        match header.meta.bytes {
            0..=MAX_BLOCK_BYTES => Ok(header),
            bytes => Err(wrong(format!("a block of {bytes} bytes"))),
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
    rows: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
    descriptor: Option<FlightDescriptor>,
) -> impl Stream<Item = Result<FlightData, FlightError>> + Send + 'static {
    let pieces = rows.map_ok(|rows| {
        let pieces = pieces(rows).into_iter();
        futures::stream::iter(pieces.map(|piece| piece.map_err(outside)))
    });
    let encoder = FlightDataEncoderBuilder::new().with_max_flight_data_size(MESSAGE);
    let encoder = encoder.with_flight_descriptor(descriptor);
    encoder.build(pieces.try_flatten())
}

/// Answers a request for parts of the data stored `here`.
pub fn serve_parts<H>(
    parts: Vec<Part>,
    here: impl Fn(Source) -> H + Send + 'static,
) -> Replies<FlightData>
where
    H: Future<Output = dstreams::Result<Option<Vec<RecordBatch>>>> + Send + 'static,
{
    let rows = futures::stream::iter(parts).then(move |part| {
        let held = here(part.source.clone());
        async move {
            let Some(held) = held.await.map_err(outside)? else {
                let missing = Status::not_found(format!("{:?} is not stored here", part.source));
                return Err(FlightError::from(missing));
            };
            Ok(futures::stream::iter(part.cut(held)).map(Ok))
        }
    });
    Box::pin(encode(rows.try_flatten(), None).map_err(Status::from))
}

fn outside(error: dstreams::Error) -> FlightError {
    FlightError::ExternalError(error.into())
}

/// The rows in pieces that fit into a message. Texts of a piece get a buffer of their own: a view would
/// send along the whole buffer it points into, once per piece.
fn pieces(rows: RecordBatch) -> Vec<dstreams::Result<RecordBatch>> {
    let count = rows.get_array_memory_size().div_ceil(PIECE);
    if count < 2 {
        return vec![Ok(rows)];
    }
    let length = rows.num_rows().div_ceil(count).max(1);
    let starts = (0..rows.num_rows()).step_by(length);
    let piece = |from| rows.slice(from, length.min(rows.num_rows() - from));
    // Rows differ in size: a piece may still be too large.
    let cut = |piece: dstreams::Result<RecordBatch>| match piece {
        Ok(piece) if piece.num_rows() > 1 => pieces(piece),
        piece => vec![piece],
    };
    starts.flat_map(|from| cut(compact(&piece(from)))).collect()
}

/// Rows from Flight messages: the first message has the schema, each other one a record batch.
#[derive(Default)]
struct CopiedRows {
    schema: Option<SchemaRef>,
    batches: Vec<RecordBatch>,
}

impl CopiedRows {
    fn add(&mut self, message: FlightData) -> Result<(), Status> {
        let damaged = |error: Malformed| Status::invalid_argument(format!("rows: {error}"));
        let metadata = message::metadata(&message.data_header).map_err(damaged)?;
        match &self.schema {
            Some(schema) => {
                let body = Buffer::from(message.data_body);
                let batch = message::records(&metadata, &body, schema, None);
                self.batches.push(batch.map_err(damaged)?);
            }
            None => {
                let schema = message::schema(&metadata).map_err(damaged)?;
                let none = || Status::invalid_argument("rows: the schema must come first");
                self.schema = Some(Arc::new(schema.ok_or_else(none)?));
            }
        }
        Ok(())
    }
}

/// Rows from Flight messages.
pub async fn decode(
    messages: impl Stream<Item = Result<FlightData, Status>>,
) -> Result<Vec<RecordBatch>, Status> {
    let mut messages = pin!(messages);
    let mut rows = CopiedRows::default();
    while let Some(message) = messages.next().await {
        rows.add(message?)?;
    }
    Ok(rows.batches)
}

/// The next message of a copy. Waits for a limited time only: the copy occupies memory of the budget meanwhile.
async fn next(messages: &mut Streaming<FlightData>) -> Result<Option<FlightData>, Status> {
    let next = timeout(PAUSE, messages.message()).await;
    next.map_err(|_| Status::deadline_exceeded(format!("a copy stalled for {PAUSE:?}")))?
}

/// Reads a block from another worker.
pub async fn decode_copy(
    mut messages: Streaming<FlightData>,
    budget: &Budget,
) -> Result<(CopyHeader, Block), Status> {
    let first = next(&mut messages).await?;
    let first = first.ok_or_else(|| Status::invalid_argument("an empty copy"))?;
    let header = CopyHeader::parse(&first)?;
    let memory = budget.take(header.meta.bytes as usize).await;
    let mut rows = CopiedRows::default();
    rows.add(first)?;
    while let Some(message) = next(&mut messages).await? {
        rows.add(message)?;
    }
    let count: usize = rows.batches.iter().map(RecordBatch::num_rows).sum();
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
    let block = Block::new(header.meta.id, rows.batches, bytes, vec![memory]);
    let block = block.with_offsets(marks.collect());
    Ok((header, block))
}

#[cfg(test)]
mod tests;
