//! A block on its way to another worker: its header, then its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, FlightDescriptor};
use datafusion::arrow::array::RecordBatch;
use dstreams::cluster::{Block, Budget, compact};
use dstreams_control::BlockMeta;
use futures::{Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tonic::{Status, Streaming};

use super::Replies;
use crate::plan::{Part, Source};

/// The largest message of Arrow data, in bytes, below what services take.
const MESSAGE: usize = 60 << 20;
/// Bytes of rows in one message, about.
const PIECE: usize = 16 << 20;
/// The largest record, in bytes: it fits into a message, with all that goes with it there.
pub const RECORD: usize = 32 << 20;

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

/// The answer to who asks for parts of what is held `here`.
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
                let missing = Status::not_found(format!("{:?} is not held here", part.source));
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
/// carry the whole buffer it points into along, in each piece anew.
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
    let all = all.chain(messages);
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray, StringViewArray};

    use super::*;

    #[test]
    fn large_rows_go_in_messages_that_fit_and_no_text_goes_twice() {
        let text = |n: usize| format!("{n} {}", "x".repeat(1 << 20));
        let texts: StringViewArray = (0..70).map(|n| Some(text(n))).collect();
        let rows = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
        let messages: Vec<FlightData> = futures::executor::block_on(
            encode(futures::stream::iter([Ok(rows)]), None).try_collect(),
        )
        .unwrap();
        let sizes: Vec<usize> = messages.iter().map(|m| m.data_body.len()).collect();
        assert!(sizes.iter().all(|size| *size < MESSAGE), "{sizes:?}");
        assert!(sizes.iter().sum::<usize>() < 80 << 20, "{sizes:?}");
        let messages = futures::stream::iter(messages.into_iter().map(Ok));
        let rows = futures::executor::block_on(decode(messages)).unwrap();
        let found = rows
            .iter()
            .flat_map(|rows| rows.column(0).as_string_view().iter());
        let found: Vec<_> = found.map(|text| text.unwrap().to_owned()).collect();
        assert_eq!(found, (0..70).map(text).collect::<Vec<_>>());
    }

    /// The largest records that are taken in lie together, among many small ones.
    #[test]
    fn records_of_different_sizes_go_in_messages_that_fit() {
        let text = |n: usize| "x".repeat(if (41..44).contains(&n) { RECORD } else { n });
        let texts: StringViewArray = (0..100).map(|n| Some(text(n))).collect();
        let rows = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
        let messages = encode(futures::stream::iter([Ok(rows)]), None);
        let messages: Vec<FlightData> =
            futures::executor::block_on(messages.try_collect()).unwrap();
        let sizes: Vec<usize> = messages.iter().map(|m| m.data_body.len()).collect();
        assert!(sizes.iter().all(|size| *size < MESSAGE), "{sizes:?}");
        let messages = futures::stream::iter(messages.into_iter().map(Ok));
        let rows = futures::executor::block_on(decode(messages)).unwrap();
        let lengths = rows.iter().flat_map(|rows| {
            let texts = rows.column(0).as_string_view().iter();
            texts.map(|text| text.unwrap().len()).collect::<Vec<_>>()
        });
        let expected: Vec<_> = (0..100).map(|n| text(n).len()).collect();
        assert_eq!(lengths.collect::<Vec<_>>(), expected);
    }
}
