//! Arrow batches as bytes (an Arrow IPC stream), and back.

use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, GenericByteViewArray, MutableArrayData, RecordBatch,
    RecordBatchOptions, make_array,
};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{ByteViewType, DataType, Schema, SchemaRef};
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::reader::RecordBatchDecoder;
use datafusion::arrow::ipc::root_as_message;
use datafusion::arrow::ipc::writer::StreamEncoder;

use super::pieces::ByteChunks;
use super::stream::ByteInput;
use crate::error::{Error, Result};

/// The approximate size of rows, without unused parts of shared buffers; at least the bytes that are written for
/// them.
pub(crate) fn bytes_of(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter();
    let bytes = columns.map(|column| match column.data_type() {
        DataType::Utf8View => 16 * column.len() + column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => {
            16 * column.len() + column.as_binary_view().total_buffer_bytes_used()
        }
        kind if kind.is_nested() => column.get_buffer_memory_size(),
        _ => {
            let bytes = column.to_data().get_slice_memory_size();
            bytes.unwrap_or_else(|_| column.get_buffer_memory_size())
        }
    });
    bytes.sum()
}

/// One in so many bytes of string buffers may be unused.
const UNUSED_FRACTION: usize = 8;

/// Appends batches with the columns of `schema`, with hardly more than the bytes that their rows need.
pub(crate) fn encode_batches(
    to: &mut ByteChunks,
    schema: &Schema,
    batches: &[RecordBatch],
) -> Result<()> {
    let mut writer = BatchWriter::new(schema)?;
    for batch in batches {
        to.append(writer.batch(batch)?);
    }
    to.append(writer.end()?);
    Ok(())
}

/// The same, batch by batch.
struct BatchWriter(StreamEncoder);

impl BatchWriter {
    fn new(schema: &Schema) -> Result<Self> {
        Ok(BatchWriter(StreamEncoder::try_new(schema)?))
    }

    /// The bytes of the next batch.
    fn batch(&mut self, batch: &RecordBatch) -> Result<ByteChunks> {
        Ok(self.0.encode(&dense(batch)?)?.into_iter().collect())
    }

    /// The bytes after the last batch.
    fn end(self) -> Result<ByteChunks> {
        Ok(self.0.finish()?.into_iter().collect())
    }
}

/// About how many bytes of rows are encoded, and later decoded, at once.
pub(crate) const ENCODED: usize = 4 << 20;

/// Rows to write, and a filter on them; all of them without one.
type EncodedParts<'a> = Result<(RecordBatch, Option<&'a BooleanArray>)>;

/// Calls `each` with the bytes of rows with the columns of `schema`, one part of the rows after another.
pub(crate) fn encode_in_parts<'a>(
    schema: &Schema,
    batches: impl Iterator<Item = EncodedParts<'a>>,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut writer = BatchWriter::new(schema)?;
    for batch in batches {
        let (all, shown) = batch?;
        let parts = bytes_of(&all).div_ceil(ENCODED).max(1);
        let most = all.num_rows().div_ceil(parts).max(1);
        let mut from = 0;
        while from < all.num_rows() {
            let mut rows = all.slice(from, most.min(all.num_rows() - from));
            // Some rows have longer strings than others.
            while rows.num_rows() > 1 && bytes_of(&rows) > 2 * ENCODED {
                rows = rows.slice(0, rows.num_rows() / 2);
            }
            let next = from + rows.num_rows();
            if let Some(shown) = shown {
                rows = filter_record_batch(&rows, &shown.slice(from, rows.num_rows()))?;
            }
            if rows.num_rows() > 0 {
                writer.batch(&rows)?.iter().try_for_each(&mut *each)?;
            }
            from = next;
        }
    }
    writer.end()?.iter().try_for_each(each)
}

/// The number of bytes that an encoder produces.
pub(crate) fn length_of(
    encode: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<u64> {
    let mut length = 0;
    encode(&mut |bytes| {
        length += bytes.len() as u64;
        Ok(())
    })?;
    Ok(length)
}

/// Appends batches with the columns of `schema`, with hardly more than the bytes that their rows need.
pub(crate) fn write_batches(
    to: &mut Vec<u8>,
    schema: &Schema,
    batches: &[RecordBatch],
) -> Result<()> {
    let mut pieces = ByteChunks::default();
    encode_batches(&mut pieces, schema, batches)?;
    to.reserve(pieces.len());
    pieces.iter().for_each(|piece| to.extend(piece));
    Ok(())
}

/// The batches in `bytes`, which must match `schema`, including types and nullability.
///
/// They share one copy of `bytes`.
pub(crate) fn read_batches(
    what: &str,
    bytes: &[u8],
    schema: &SchemaRef,
) -> Result<Vec<RecordBatch>> {
    // Arrow checks the values, and panics on some invalid layouts.
    catch_unwind(AssertUnwindSafe(|| {
        decode(what, Buffer::from(bytes), schema)
    }))
    .unwrap_or_else(|_| Err(wrong(what, "their layout does not fit their data")))
}

fn decode(what: &str, mut bytes: Buffer, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let wrong = |message: &dyn Display| wrong(what, message);
    let (mut agreed, mut batches) = (None, Vec::new());
    let schemas = std::slice::from_ref(schema);
    while let Some(header) = next_header(&mut bytes).map_err(|error| wrong(&error))? {
        let body = body_of(&header).map_err(|error| wrong(&error))?;
        let body = usize::try_from(body).unwrap_or(usize::MAX);
        let body = split(&mut bytes, body).map_err(|error| wrong(&error))?;
        batches.extend(decode_message(what, &header, &body, schemas, &mut agreed)?);
    }
    match agreed.is_some() && bytes.is_empty() {
        true => Ok(batches),
        false => Err(wrong(&"they have no schema, or continue after their end")),
    }
}

/// Calls `each` with the next batches in `from`, to the end of their stream; only one is in memory at a time. They
/// must match one of `schemas`.
pub(crate) fn each_batch(
    what: &str,
    from: &mut ByteInput<'_>,
    schemas: &[SchemaRef],
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let wrong = |message: &dyn Display| wrong(what, message);
    let mut agreed = None;
    while let Some(length) = header_length(&from.buffer(8)?).map_err(|error| wrong(&error))? {
        let header = from.buffer(length)?;
        let body = from.buffer(body_of(&header).map_err(|error| wrong(&error))?)?;
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            decode_message(what, &header, &body, schemas, &mut agreed)
        }));
        let batch =
            decoded.unwrap_or_else(|_| Err(wrong(&"their layout does not fit their data")))?;
        batch.map_or(Ok(()), &mut each)?;
    }
    match agreed.is_some() {
        true => Ok(()),
        false => Err(wrong(&"they have no schema")),
    }
}

/// The length of the data after a header.
fn body_of(header: &Buffer) -> Result<u64, String> {
    let message = root_as_message(header).map_err(|error| error.to_string())?;
    Ok(u64::try_from(message.bodyLength()).unwrap_or(u64::MAX))
}

/// Decodes a message of an IPC stream: first the schema, then batches. Compressed batches are refused: their
/// declared size cannot be trusted, and memory would be allocated for it.
fn decode_message(
    what: &str,
    header: &Buffer,
    body: &Buffer,
    schemas: &[SchemaRef],
    agreed: &mut Option<SchemaRef>,
) -> Result<Option<RecordBatch>> {
    let wrong = |message: &dyn Display| wrong(what, message);
    let message = root_as_message(header).map_err(|error| wrong(&error))?;
    match (message.header_as_schema(), message.header_as_record_batch()) {
        (Some(theirs), _) if agreed.is_none() => {
            let theirs = fb_to_schema(theirs);
            let mut same = schemas
                .iter()
                .filter(|ours| columns(ours) == columns(&theirs));
            *agreed = same.next().cloned();
            match (&agreed, schemas.first()) {
                (None, Some(ours)) => agree(what, &theirs, ours).map(|()| None),
                _ => Ok(None),
            }
        }
        (_, Some(batch)) => match agreed {
            Some(schema) if batch.compression().is_none() => {
                let (schema, version) = (Arc::clone(schema), message.version());
                let no_dictionaries = HashMap::new();
                let decoder =
                    RecordBatchDecoder::try_new(body, batch, schema, &no_dictionaries, &version);
                let batch = decoder.and_then(RecordBatchDecoder::read_record_batch);
                batch.map(Some).map_err(|error| wrong(&error))
            }
            Some(_) => Err(wrong(&"a batch is compressed")),
            None => Err(wrong(&"expected a schema and then batches of rows")),
        },
        _ => Err(wrong(&"expected a schema and then batches of rows")),
    }
}

fn agree(what: &str, theirs: &Schema, ours: &Schema) -> Result<()> {
    let (theirs, ours) = (columns(theirs), columns(ours));
    match theirs == ours {
        true => Ok(()),
        false => Err(Error::Schema {
            what: format!("columns of {what}"),
            expected: ours,
            found: theirs,
        }),
    }
}

fn wrong(what: &str, message: impl Display) -> Error {
    Error::Bytes {
        what: what.to_owned(),
        message: message.to_string(),
    }
}

/// The header of the next message; none at the end of the stream.
fn next_header(bytes: &mut Buffer) -> Result<Option<Buffer>, &'static str> {
    match header_length(&split(bytes, 8)?)? {
        None => Ok(None),
        Some(length) => Ok(Some(split(bytes, length as usize)?)),
    }
}

/// The length of a header, from the bytes before it; none at the end of the stream.
fn header_length(head: &[u8]) -> Result<Option<u64>, &'static str> {
    match head.split_first_chunk() {
        Some(([0xff, 0xff, 0xff, 0xff], &[a, b, c, d])) => {
            let length = u32::from_le_bytes([a, b, c, d]);
            Ok((length > 0).then_some(length.into()))
        }
        _ => Err("a message is missing"),
    }
}

/// Takes the first `length` bytes.
fn split(bytes: &mut Buffer, length: usize) -> Result<Buffer, &'static str> {
    if length > bytes.len() {
        return Err("they end too early");
    }
    let first = bytes.slice_with_length(0, length);
    bytes.advance(length);
    Ok(first)
}

/// Columns as text: names, types, nullability.
pub(crate) fn columns(schema: &Schema) -> String {
    let fields = schema.fields().iter().map(|field| {
        let nulls = if field.is_nullable() { "" } else { " not null" };
        format!("{}: {}{nulls}", field.name(), field.data_type())
    });
    format!("({})", fields.collect::<Vec<_>>().join(", "))
}

/// The same rows, without unused parts of the buffers that they point into.
pub fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(compact_column);
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}

/// The same rows, without unused parts of the buffers that strings and lists point into.
pub(crate) fn compact_column(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        kind if kind.is_nested() => {
            // Only its rows: a slice of lists has all items of the whole array.
            let data = column.to_data();
            let mut rows = MutableArrayData::new(vec![&data], false, data.len());
            rows.try_extend(0, 0, data.len())?;
            let rows = rows.freeze();
            let children = rows.child_data().iter();
            let children = children
                .map(|child| Ok(compact_column(&make_array(child.clone()))?.to_data()))
                .collect::<Result<_>>()?;
            make_array(rows.into_builder().child_data(children).build()?)
        }
        _ => Arc::clone(column),
    })
}

/// The same rows; they are copied if the buffers that they point into contain much else.
pub(crate) fn dense(batch: &RecordBatch) -> Result<RecordBatch> {
    match batch.columns().iter().all(is_dense) {
        true => Ok(batch.clone()),
        false => compact(batch),
    }
}

/// Whether a column uses nearly all of the buffers that it points into, so that it is written unchanged.
fn is_dense(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Utf8View => are_dense(column.as_string_view()),
        DataType::BinaryView => are_dense(column.as_binary_view()),
        kind => !kind.is_nested(),
    }
}

fn are_dense<T: ByteViewType>(texts: &GenericByteViewArray<T>) -> bool {
    let held: usize = texts.data_buffers().iter().map(Buffer::len).sum();
    held - held / UNUSED_FRACTION <= texts.total_buffer_bytes_used()
}
