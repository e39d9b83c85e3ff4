//! Decodes Arrow messages from untrusted senders: a schema, a batch of records.
//!
//! The metadata of a message is short and may claim anything. It is read with bounds, and its numbers are compared
//! with the data that came, before Arrow spends memory or time on them. Arrow does the rest: it checks layout and
//! values, and panics on some false claims, which are errors here.

use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::ipc::convert::fb_to_schema;
use datafusion::arrow::ipc::reader::RecordBatchDecoder;
use datafusion::arrow::ipc::{
    Message, MessageHeader, RecordBatch as Claims, root_as_message_with_opts,
};
use flatbuffers::VerifierOptions;

/// Limit on the size of metadata, with each part counted once per reference: about the memory that it takes, since
/// a message of some kilobytes can refer to one long name a million times.
const METADATA_LIMIT: usize = 16 << 20;
/// Limit on the tables in metadata, counted in the same way: a column has two or three.
const TABLES_LIMIT: usize = 1 << 16;
/// Limit on the rows of one batch: no sum or product of them overflows.
const ROWS_LIMIT: i64 = u32::MAX as i64;
/// Size of a text view in bytes; the first four are the text's length.
const VIEW_BYTES: usize = 16;

/// A message that cannot be read; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

fn malformed(why: impl Display) -> Malformed {
    Malformed(why.to_string())
}

/// The metadata of a message.
pub fn metadata(header: &[u8]) -> Result<Message<'_>, Malformed> {
    let bounds = VerifierOptions {
        max_tables: TABLES_LIMIT,
        max_apparent_size: METADATA_LIMIT,
        ..VerifierOptions::default()
    };
    root_as_message_with_opts(&bounds, header).map_err(malformed)
}

/// The schema in a message; `None` if it contains something else.
pub fn schema(message: &Message<'_>) -> Result<Option<Schema>, Malformed> {
    let Some(schema) = message.header_as_schema() else {
        return Ok(None);
    };
    // Arrow panics on types that are not in its format.
    let schema = catch_unwind(AssertUnwindSafe(|| fb_to_schema(schema)));
    let schema = schema.map_err(|_| malformed("its types are not those of Arrow"))?;
    Ok(Some(schema))
}

/// Decodes the batch of columns `schema` in a message with this body. If `texts` is given, its texts together must
/// not be larger, each counted once per view that refers to it.
///
/// The batch shares `body`; the additional memory is at most one copy, for data that is not aligned.
pub fn records(
    message: &Message<'_>,
    body: &Buffer,
    schema: &SchemaRef,
    texts: Option<usize>,
) -> Result<RecordBatch, Malformed> {
    let Some(claims) = message.header_as_record_batch() else {
        return Err(not_records(message.header_type()));
    };
    // I14 (ARCHITECTURE.md).
    check(&claims, body.len())?;
    if let Some(most) = texts {
        let bytes = text_bytes(&claims, body, schema)?;
        if bytes > most as u64 {
            return Err(malformed(format!(
                "its texts have {bytes} bytes when each is written out, the limit is {most} bytes; send fewer at once"
            )));
        }
    }
    let no_dictionaries = HashMap::new();
    let read = || {
        let (schema, version) = (schema.clone(), message.version());
        RecordBatchDecoder::try_new(body, claims, schema, &no_dictionaries, &version)?
            .read_record_batch()
    };
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| malformed("its layout does not fit its data"))?
        .map_err(malformed)
}

fn not_records(got: MessageHeader) -> Malformed {
    let advice = match got {
        MessageHeader::DictionaryBatch => "; send a dictionary column as its values",
        MessageHeader::Schema => "; the schema cannot change",
        _ => "",
    };
    let got = got.variant_name().unwrap_or("something unknown");
    malformed(format!("expected a record batch, got {got}{advice}"))
}

/// Compares what a batch claims with the bytes that came.
fn check(claims: &Claims<'_>, body: usize) -> Result<(), Malformed> {
    if claims.compression().is_some() {
        // Arrow would allocate the uncompressed sizes that it claims.
        return Err(malformed("it is compressed; send it uncompressed"));
    }
    let nodes = claims.nodes().into_iter().flatten();
    let nodes = nodes.map(|node| (node.length(), node.null_count()));
    for (rows, nulls) in nodes.chain([(claims.length(), 0)]) {
        if !(0..=ROWS_LIMIT).contains(&rows) || nulls > rows {
            return Err(malformed(format!(
                "{rows} rows and {nulls} nulls in one column"
            )));
        }
    }
    // Writers put buffers one after another. If they could overlap, each column could claim all the bytes.
    let (mut all, mut count) = (0, 0);
    for buffer in claims.buffers().into_iter().flatten() {
        range(buffer.offset(), buffer.length(), body)?;
        all += buffer.length() as u64;
        count += 1;
    }
    if all > body as u64 {
        return Err(malformed(format!("buffers of {all} bytes in {body} bytes")));
    }
    let mut views = claims.variadicBufferCounts().into_iter().flatten();
    match views.find(|buffers| !(0..=count).contains(buffers)) {
        Some(buffers) => Err(malformed(format!("{buffers} buffers of {count}"))),
        None => Ok(()),
    }
}

/// The place of a buffer in the body.
fn range(offset: i64, length: i64, body: usize) -> Result<std::ops::Range<usize>, Malformed> {
    let whole = |number: i64| usize::try_from(number).ok();
    let end = offset.checked_add(length).and_then(whole);
    match (whole(offset), whole(length), end) {
        (Some(start), Some(_), Some(end)) if end <= body => Ok(start..end),
        _ => Err(malformed(format!(
            "a buffer of {length} bytes at {offset} in {body} bytes"
        ))),
    }
}

/// Bytes of all texts that views refer to. Many views may share a long text: reading it for each takes time, and
/// writing it for each takes memory, quadratic in the message's size.
fn text_bytes(claims: &Claims<'_>, body: &Buffer, schema: &Schema) -> Result<u64, Malformed> {
    let buffers = claims.buffers().into_iter().flatten();
    let mut buffers = buffers.map(|buffer| (buffer.offset(), buffer.length()));
    let mut counts = claims.variadicBufferCounts().into_iter().flatten();
    let mut fields = schema.fields().iter();
    fields.try_fold(0, |sum, field| {
        Ok(sum + texts_of(field, body, &mut buffers, &mut counts)?)
    })
}

/// The same for one column, whose buffers come next.
fn texts_of(
    field: &Field,
    body: &Buffer,
    buffers: &mut dyn Iterator<Item = (i64, i64)>,
    counts: &mut dyn Iterator<Item = i64>,
) -> Result<u64, Malformed> {
    use DataType::*;
    let (skipped, children): (usize, Vec<&Field>) = match field.data_type() {
        Utf8View | BinaryView => {
            let (_, views) = (buffers.next(), buffers.next());
            let texts = usize::try_from(counts.next().unwrap_or(0)).unwrap_or(0);
            (&mut *buffers).take(texts).for_each(drop);
            let (offset, length) = views.unwrap_or((0, 0));
            let views = body[range(offset, length, body.len())?].chunks_exact(VIEW_BYTES);
            let length = |view: &[u8]| view.first_chunk().map_or(0, |it| u32::from_le_bytes(*it));
            return Ok(views.map(|view| u64::from(length(view))).sum());
        }
        Null => (0, vec![]),
        Utf8 | LargeUtf8 | Binary | LargeBinary => (3, vec![]),
        List(item) | LargeList(item) | Map(item, _) => (2, vec![item]),
        ListView(item) | LargeListView(item) => (3, vec![item]),
        FixedSizeList(item, _) => (1, vec![item]),
        Struct(fields) => (1, fields.iter().map(|field| &**field).collect()),
        RunEndEncoded(ends, values) => (0, vec![ends, values]),
        Union(..) => return Err(malformed("it has a union, which is not supported")),
        _ => (2, vec![]),
    };
    (&mut *buffers).take(skipped).for_each(drop);
    children.into_iter().try_fold(0, |sum, child| {
        Ok(sum + texts_of(child, body, buffers, counts)?)
    })
}

#[cfg(test)]
pub(crate) mod tests;
