//! Arrow batches as bytes (an Arrow IPC stream), and back.

use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, GenericByteViewArray, MutableArrayData, RecordBatch,
    RecordBatchOptions, make_array,
};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{ByteViewType, DataType, Schema, SchemaRef};
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::reader::RecordBatchDecoder;
use datafusion::arrow::ipc::root_as_message;
use datafusion::arrow::ipc::writer::StreamEncoder;

use super::Pieces;
use crate::error::{Error, Result};

/// Of the bytes that texts hold, one in so many may be of no use to them.
const SLACK: usize = 8;

/// Appends batches of columns `schema`, with hardly more than what their rows need.
pub(crate) fn encode_batches(
    to: &mut Pieces,
    schema: &Schema,
    batches: &[RecordBatch],
) -> Result<()> {
    let mut encoder = StreamEncoder::try_new(schema)?;
    for batch in batches {
        let rows = match batch.columns().iter().all(is_dense) {
            true => batch.clone(),
            false => compact(batch)?,
        };
        let buffers = encoder.encode(&rows)?.into_iter();
        buffers.for_each(|buffer| to.push(buffer));
    }
    let buffers = encoder.finish()?.into_iter();
    buffers.for_each(|buffer| to.push(buffer));
    Ok(())
}

/// The same, in one place.
pub(crate) fn write_batches(
    to: &mut Vec<u8>,
    schema: &Schema,
    batches: &[RecordBatch],
) -> Result<()> {
    let mut pieces = Pieces::default();
    encode_batches(&mut pieces, schema, batches)?;
    to.reserve(pieces.len());
    pieces.iter().for_each(|piece| to.extend(piece));
    Ok(())
}

/// The batches in `bytes`, which must have the columns of `schema`, in types and nulls too.
///
/// They share one copy of `bytes`.
pub(crate) fn read_batches(
    what: &str,
    bytes: &[u8],
    schema: &SchemaRef,
) -> Result<Vec<RecordBatch>> {
    // Arrow checks the values, and panics at some lies about the layout.
    catch_unwind(AssertUnwindSafe(|| {
        decode(what, Buffer::from(bytes), schema)
    }))
    .unwrap_or_else(|_| Err(wrong(what, "their layout does not fit their data")))
}

/// The batches of an IPC stream. Compressed ones are refused: what they say of their size cannot be
/// believed, and memory is taken for it.
fn decode(what: &str, mut bytes: Buffer, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let wrong = |message: &dyn Display| wrong(what, message);
    let no_dictionaries = HashMap::new();
    let (mut agreed, mut batches) = (false, Vec::new());
    while let Some(header) = next_header(&mut bytes).map_err(|error| wrong(&error))? {
        let message = root_as_message(&header).map_err(|error| wrong(&error))?;
        let body = usize::try_from(message.bodyLength()).unwrap_or(usize::MAX);
        let body = split(&mut bytes, body).map_err(|error| wrong(&error))?;
        match (message.header_as_schema(), message.header_as_record_batch()) {
            (Some(theirs), _) if !agreed => {
                agree(what, &fb_to_schema(theirs), schema)?;
                agreed = true;
            }
            (_, Some(batch)) if agreed && batch.compression().is_none() => {
                let (schema, version) = (Arc::clone(schema), message.version());
                let decoder =
                    RecordBatchDecoder::try_new(&body, batch, schema, &no_dictionaries, &version);
                let batch = decoder.and_then(RecordBatchDecoder::read_record_batch);
                batches.push(batch.map_err(|error| wrong(&error))?);
            }
            (_, Some(_)) if agreed => return Err(wrong(&"a batch is compressed")),
            _ => return Err(wrong(&"a schema and then batches of rows belong there")),
        }
    }
    match agreed && bytes.is_empty() {
        true => Ok(batches),
        false => Err(wrong(&"they have no schema, or go on after their end")),
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
    let head = split(bytes, 8)?;
    match head.split_first_chunk() {
        Some(([0xff, 0xff, 0xff, 0xff], &[a, b, c, d])) => match u32::from_le_bytes([a, b, c, d]) {
            0 => Ok(None),
            header => Ok(Some(split(bytes, header as usize)?)),
        },
        _ => Err("there is no message where one belongs"),
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

/// Columns as text: names, types, nulls.
pub(crate) fn columns(schema: &Schema) -> String {
    let fields = schema.fields().iter().map(|field| {
        let nulls = if field.is_nullable() { "" } else { " not null" };
        format!("{}: {}{nulls}", field.name(), field.data_type())
    });
    format!("({})", fields.collect::<Vec<_>>().join(", "))
}

/// The same rows without what they do not use of the buffers they point into.
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

/// The same rows without what they do not use of the buffers that texts and lists point into.
pub(crate) fn compact_column(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        kind if kind.is_nested() => {
            // The rows alone: a slice of lists has all items of the whole.
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

/// Whether a column uses nearly all of the buffers it points into, so that it is written as it is.
fn is_dense(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Utf8View => are_dense(column.as_string_view()),
        DataType::BinaryView => are_dense(column.as_binary_view()),
        kind => !kind.is_nested(),
    }
}

fn are_dense<T: ByteViewType>(texts: &GenericByteViewArray<T>) -> bool {
    let held: usize = texts.data_buffers().iter().map(Buffer::len).sum();
    held - held / SLACK <= texts.total_buffer_bytes_used()
}
