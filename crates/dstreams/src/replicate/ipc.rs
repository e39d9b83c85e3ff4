//! Arrow batches as bytes (an Arrow IPC stream), and back.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, MutableArrayData, RecordBatch, RecordBatchOptions, make_array,
};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::reader::RecordBatchDecoder;
use datafusion::arrow::ipc::root_as_message;
use datafusion::arrow::ipc::writer::StreamWriter;

use crate::error::{Error, Result};

/// Appends batches of columns `schema`, with nothing but what their rows need.
pub(crate) fn write_batches(
    to: &mut Vec<u8>,
    schema: &Schema,
    batches: &[RecordBatch],
) -> Result<()> {
    let mut writer = StreamWriter::try_new(to, schema)?;
    for batch in batches {
        writer.write(&compact(batch)?)?;
    }
    Ok(writer.finish()?)
}

/// The batches in `bytes`, which must have the columns of `schema`, in types and nulls too.
///
/// They share one copy of `bytes`.
pub(crate) fn read_batches(
    what: &str,
    bytes: &[u8],
    schema: &SchemaRef,
) -> Result<Vec<RecordBatch>> {
    let wrong = |message: String| Error::Bytes {
        what: what.to_owned(),
        message,
    };
    // Arrow checks the values, and panics at some lies about the layout.
    let (found, batches) = catch_unwind(AssertUnwindSafe(|| decode(Buffer::from(bytes))))
        .map_err(|_| wrong("their layout does not fit their data".into()))?
        .map_err(|error| wrong(error.to_string()))?;
    let (ours, theirs) = (columns(schema), columns(&found));
    if ours != theirs {
        return Err(Error::Schema {
            what: format!("columns of {what}"),
            expected: ours,
            found: theirs,
        });
    }
    let batches = batches.iter().map(|batch| {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let (schema, columns) = (Arc::clone(schema), batch.columns().to_vec());
        RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|error| wrong(error.to_string()))
    });
    batches.collect()
}

/// The schema and the batches of an IPC stream. Compressed batches are refused: what they say of
/// their size cannot be believed, and memory is taken for it.
fn decode(mut bytes: Buffer) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let wrong = |message: &str| ArrowError::IpcError(message.to_owned());
    let (mut schema, mut batches) = (None, Vec::new());
    let no_dictionaries = HashMap::new();
    while let Some(header) = next_header(&mut bytes)? {
        let message = root_as_message(&header).map_err(|error| wrong(&error.to_string()))?;
        let body = usize::try_from(message.bodyLength()).unwrap_or(usize::MAX);
        let body = split(&mut bytes, body)?;
        match (message.header_as_schema(), message.header_as_record_batch()) {
            (Some(found), _) if schema.is_none() => {
                schema = Some(Arc::new(fb_to_schema(found)));
            }
            (_, Some(batch)) if batch.compression().is_none() => {
                let schema = schema.clone().ok_or_else(|| wrong("there is no schema"))?;
                let version = message.version();
                let batch =
                    RecordBatchDecoder::try_new(&body, batch, schema, &no_dictionaries, &version)?;
                batches.push(batch.read_record_batch()?);
            }
            (_, Some(_)) => return Err(wrong("a batch is compressed")),
            _ => return Err(wrong("there is something other than batches of rows")),
        }
    }
    match schema {
        Some(schema) if bytes.is_empty() => Ok((schema, batches)),
        Some(_) => Err(wrong("there are bytes after the end")),
        None => Err(wrong("there is no schema")),
    }
}

/// The header of the next message; none at the end of the stream.
fn next_header(bytes: &mut Buffer) -> Result<Option<Buffer>, ArrowError> {
    let head = split(bytes, 8)?;
    match head.split_first_chunk() {
        Some(([0xff, 0xff, 0xff, 0xff], &[a, b, c, d])) => match u32::from_le_bytes([a, b, c, d]) {
            0 => Ok(None),
            header => Ok(Some(split(bytes, header as usize)?)),
        },
        _ => Err(ArrowError::IpcError("there is no message".into())),
    }
}

/// Takes the first `length` bytes.
fn split(bytes: &mut Buffer, length: usize) -> Result<Buffer, ArrowError> {
    if length > bytes.len() {
        return Err(ArrowError::IpcError("they end too early".into()));
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
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(compact_column);
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}

fn compact_column(column: &ArrayRef) -> Result<ArrayRef> {
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
