//! Written batches can be read back; anything else is an error or whole columns, quickly and within memory.

mod taken;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::{FlightData, SchemaAsIpc};
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeListArray, Float64Array,
    Int64Array, LargeStringArray, ListArray, NullArray, StringArray, StringViewArray,
    StringViewBuilder, StructArray, TimestampMicrosecondArray, UInt8Array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::ipc;
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use flatbuffers::FlatBufferBuilder;
use proptest::prelude::*;

use self::taken::most_taken;
use super::*;

type Row = (Option<String>, i64, Option<bool>, Vec<String>, Vec<u8>);

fn row() -> impl Strategy<Value = Row> {
    let text = || prop_oneof!["[ab]{0,3}", "[a-f]{12,20}", "[äß€]{1,9}"];
    (
        prop::option::of(text()),
        any::<i64>(),
        any::<Option<bool>>(),
        prop::collection::vec(text(), 0..3),
        prop::collection::vec(any::<u8>(), 0..9),
    )
}

/// A column of each kind of layout.
fn batch(rows: &[Row]) -> RecordBatch {
    let texts = || rows.iter().map(|row| row.0.as_deref());
    let numbers = || rows.iter().map(|row| row.1);
    let items: Vec<&String> = rows.iter().flat_map(|row| &row.3).collect();
    let lengths = || OffsetBuffer::<i32>::from_lengths(rows.iter().map(|row| row.3.len()));
    let item = |kind| Arc::new(Field::new("item", kind, false));
    let list = |kind, items: ArrayRef| ListArray::new(item(kind), lengths(), items, None);
    let twice: ArrayRef = Arc::new(UInt8Array::from_iter_values(
        numbers().flat_map(|n| [n as u8, (n >> 8) as u8]),
    ));
    let truths: ArrayRef = Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.2)));
    let views: ArrayRef = Arc::new(StringViewArray::from_iter(texts()));
    let inner = Arc::new(Field::new("inner", DataType::Utf8View, true));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from_iter(texts()))),
        ("large", Arc::new(LargeStringArray::from_iter(texts()))),
        ("view", Arc::clone(&views)),
        ("truth", truths),
        ("number", Arc::new(Int64Array::from_iter_values(numbers()))),
        (
            "float",
            Arc::new(Float64Array::from_iter_values(numbers().map(|n| n as f64))),
        ),
        (
            "time",
            Arc::new(TimestampMicrosecondArray::from_iter_values(numbers())),
        ),
        (
            "decimal",
            Arc::new(Decimal128Array::from_iter_values(numbers().map(i128::from))),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| &row.4))),
        ),
        (
            "list",
            Arc::new(list(
                DataType::Utf8,
                Arc::new(StringArray::from_iter_values(&items)),
            )),
        ),
        (
            "list of views",
            Arc::new(list(
                DataType::Utf8View,
                Arc::new(StringViewArray::from_iter_values(&items)),
            )),
        ),
        (
            "fixed list",
            Arc::new(FixedSizeListArray::new(
                item(DataType::UInt8),
                2,
                twice,
                None,
            )),
        ),
        ("struct", Arc::new(StructArray::from(vec![(inner, views)]))),
        ("null", Arc::new(NullArray::new(rows.len()))),
    ];
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn schema_message(schema: &Schema) -> FlightData {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into()
}

fn message_of(batch: &RecordBatch) -> FlightData {
    let schema = batch.schema();
    let messages = arrow_flight::utils::batches_to_flight_data(&schema, vec![batch.clone()]);
    messages.unwrap().pop().unwrap()
}

fn read(header: &[u8], body: &[u8], schema: &SchemaRef) -> Result<RecordBatch, Malformed> {
    let message = metadata(header)?;
    records(&message, &Buffer::from(body), schema, Some(1 << 20))
}

fn read_schema(header: &[u8]) -> Result<Option<Schema>, Malformed> {
    schema(&metadata(header)?)
}

/// A change of bytes: dangerous numbers, flipped bits, parts that are missing or doubled.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Flip(prop::sample::Index, u8),
    Number(prop::sample::Index, i64),
    Cut(prop::sample::Index),
    Twice(prop::sample::Index, prop::sample::Index),
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let numbers = vec![
        -1,
        0,
        1,
        7,
        64,
        255,
        4096,
        1 << 20,
        1 << 31,
        (1 << 32) - 1,
        1 << 40,
        1 << 62,
        i64::MAX,
        i64::MAX - 7,
        i64::MIN,
        -8,
    ];
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        8 => (at(), prop::sample::select(numbers)).prop_map(|(at, number)| Change::Number(at, number)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at()).prop_map(|(from, to)| Change::Twice(from, to)),
    ]
}

pub(crate) fn changed(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    match change {
        Change::Flip(at, bit) => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Change::Number(at, number) => {
            // Numbers are at multiples of four in the metadata.
            let at = at.index(bytes.len()) & !3;
            let end = bytes.len().min(at + 8);
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Twice(from, to) => {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let part = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.splice(to..to, part);
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn records_come_back_as_they_were(rows in prop::collection::vec(row(), 0..20), from in 0..20usize) {
        let batch = batch(&rows);
        let from = from.min(rows.len());
        let batch = batch.slice(from, rows.len() - from);
        let schema = batch.schema();
        let sent = schema_message(&schema);
        prop_assert_eq!(read_schema(&sent.data_header).unwrap().unwrap(), (*schema).clone());
        let sent = message_of(&batch);
        let back = read(&sent.data_header, &sent.data_body, &schema).unwrap();
        prop_assert_eq!(back, batch);
        prop_assert!(read_schema(&sent.data_header).unwrap().is_none());
    }

    #[test]
    fn changed_messages_are_refused_or_whole_and_take_little_memory(
        rows in prop::collection::vec(row(), 0..9),
        in_header in prop::collection::vec(change(), 0..3),
        in_body in prop::collection::vec(change(), 0..2),
    ) {
        let batch = batch(&rows);
        let sent = message_of(&batch);
        let header = in_header.iter().fold(sent.data_header.to_vec(), changed);
        let body = in_body.iter().fold(sent.data_body.to_vec(), changed);
        let schema = batch.schema();
        let (read, taken) = most_taken(|| read(&header, &body, &schema));
        // Copies of the message, and some hundred bytes for each column and for an error.
        let most = 4 * (header.len() + body.len()) + (64 << 10);
        prop_assert!(taken < most, "{taken} bytes for {} and {}", header.len(), body.len());
        if let Ok(read) = read {
            for column in read.columns() {
                prop_assert_eq!(column.to_data().validate_full().map_err(|e| e.to_string()), Ok(()));
                prop_assert_eq!(column.len(), read.num_rows());
            }
        }
    }

    #[test]
    fn changed_schemas_are_refused_or_read_and_take_little_memory(
        changes in prop::collection::vec(change(), 1..4),
    ) {
        let sent = schema_message(&batch(&[]).schema());
        let header = changes.iter().fold(sent.data_header.to_vec(), changed);
        let (read, taken) = most_taken(|| read_schema(&header));
        prop_assert!(taken < 64 * header.len() + (64 << 10), "{taken} bytes for {}", header.len());
        drop(read);
    }

    #[test]
    fn any_bytes_are_refused(header in prop::collection::vec(any::<u8>(), 0..99), body in prop::collection::vec(any::<u8>(), 0..99)) {
        let schema = batch(&[]).schema();
        prop_assert!(read(&header, &body, &schema).is_err());
    }
}

/// A batch with false claims: the typical findings of the fuzzing above, each by name.
fn lie(rows: i64, node: (i64, i64), buffers: &[(i64, i64)], views: &[i64]) -> Vec<u8> {
    let mut to = FlatBufferBuilder::new();
    let nodes = to.create_vector(&[ipc::FieldNode::new(node.0, node.1)]);
    let buffers: Vec<_> = buffers
        .iter()
        .map(|(at, length)| ipc::Buffer::new(*at, *length))
        .collect();
    let buffers = to.create_vector(&buffers);
    let views = to.create_vector(views);
    let batch = ipc::RecordBatchArgs {
        length: rows,
        nodes: Some(nodes),
        buffers: Some(buffers),
        variadicBufferCounts: Some(views),
        ..Default::default()
    };
    let batch = ipc::RecordBatch::create(&mut to, &batch).as_union_value();
    let message = ipc::MessageArgs {
        version: ipc::MetadataVersion::V5,
        header_type: MessageHeader::RecordBatch,
        header: Some(batch),
        ..Default::default()
    };
    let message = ipc::Message::create(&mut to, &message);
    to.finish(message, None);
    to.finished_data().to_vec()
}

fn one_column(kind: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("c", kind, true)]))
}

#[test]
fn numbers_that_do_not_fit_the_bytes_are_refused_and_named() {
    let text = [(0, 0), (0, 8), (8, 8)];
    let cases = [
        (lie(-1, (1, 0), &text, &[]), "-1 rows"),
        (lie(1 << 40, (1, 0), &text, &[]), "1099511627776 rows"),
        (
            lie(1, (i64::MAX, 0), &text, &[]),
            "9223372036854775807 rows",
        ),
        (lie(1, (1, 2), &text, &[]), "1 rows and 2 nulls"),
        (
            lie(1, (1, 0), &[(0, 0), (0, 8), (8, 9)], &[]),
            "a buffer of 9 bytes at 8 in 16",
        ),
        (
            lie(1, (1, 0), &[(0, 0), (-8, 8), (8, 8)], &[]),
            "at -8 in 16",
        ),
        (
            lie(1, (1, 0), &[(0, 0), (0, -8), (8, 8)], &[]),
            "of -8 bytes",
        ),
        (
            lie(1, (1, 0), &[(0, 0), (i64::MAX, 8), (8, 8)], &[]),
            "a buffer of 8 bytes at",
        ),
        (
            lie(1, (1, 0), &[(0, 0), (0, 16), (0, 16)], &[]),
            "buffers of 32 bytes in 16",
        ),
        (
            lie(1, (1, 0), &text, &[i64::MAX]),
            "9223372036854775807 buffers",
        ),
        (lie(1, (1, 0), &text, &[-2]), "-2 buffers"),
        // Fewer buffers than the column has, and rows without data.
        (lie(1, (1, 0), &text[..2], &[]), "Buffer count mismatched"),
        (lie(4096, (4096, 0), &text, &[]), ""),
    ];
    for (header, says) in cases {
        let error = read(&header, &[0; 16], &one_column(DataType::Utf8)).unwrap_err();
        assert!(
            error.to_string().contains(says),
            "{error} does not say {says}"
        );
    }
    let fits = lie(1, (1, 0), &text, &[]);
    assert!(read(&fits, &[0; 16], &one_column(DataType::Utf8)).is_ok());
}

/// Reading or writing each text would be quadratic in the message's size.
#[test]
fn views_that_share_a_long_text_are_refused_at_once() {
    let text = "x".repeat(1 << 20);
    let mut views = StringViewBuilder::new();
    let block = views.append_block(text.into_bytes().into());
    for _ in 0..65_536 {
        views.try_append_view(block, 0, 1 << 20).unwrap();
    }
    let views: ArrayRef = Arc::new(views.finish());
    let offsets = OffsetBuffer::from_lengths([views.len()]);
    let item = Arc::new(Field::new("item", DataType::Utf8View, true));
    let list: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::clone(&views), None));
    for column in [views, list] {
        let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
        let sent = message_of(&batch);
        let begin = Instant::now();
        let error = read(&sent.data_header, &sent.data_body, &batch.schema()).unwrap_err();
        assert!(error.to_string().contains("68719476736 bytes"), "{error}");
        // Minutes without the bound.
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}

/// Some kilobytes that refer to one name ten thousand times.
#[test]
fn metadata_is_bounded_by_its_decoded_size() {
    let schema_of = |columns: usize, name: usize| {
        let mut to = FlatBufferBuilder::new();
        let name = to.create_string(&"n".repeat(name));
        let null = ipc::Null::create(&mut to, &ipc::NullArgs {}).as_union_value();
        let field = ipc::FieldArgs {
            name: Some(name),
            type_type: ipc::Type::Null,
            type_: Some(null),
            ..Default::default()
        };
        let field = ipc::Field::create(&mut to, &field);
        let fields = to.create_vector(&vec![field; columns]);
        let fields = ipc::SchemaArgs {
            fields: Some(fields),
            ..Default::default()
        };
        let schema = ipc::Schema::create(&mut to, &fields).as_union_value();
        let message = ipc::MessageArgs {
            version: ipc::MetadataVersion::V5,
            header_type: MessageHeader::Schema,
            header: Some(schema),
            ..Default::default()
        };
        let message = ipc::Message::create(&mut to, &message);
        to.finish(message, None);
        to.finished_data().to_vec()
    };
    let read = read_schema(&schema_of(1000, 1000)).unwrap().unwrap();
    assert_eq!(read.fields().len(), 1000);
    for (columns, name) in [(10_000, 10_000), (100_000, 1), (1000, 1 << 20)] {
        let bytes = schema_of(columns, name);
        assert!(bytes.len() < 2 << 20);
        let (read, taken) = most_taken(|| read_schema(&bytes));
        assert!(read.is_err(), "{columns} columns of names of {name} bytes");
        assert!(taken < 1 << 20, "{taken}");
    }
}

/// Types at which Arrow's reader panics.
#[test]
fn types_of_no_arrow_format_are_an_error() {
    let sent = schema_message(&one_column(DataType::Float64));
    let (mut refused, mut read) = (0, 0);
    for at in 0..sent.data_header.len() {
        for value in [0, 1, 3, 9, 255] {
            let mut header = sent.data_header.to_vec();
            header[at] = value;
            match read_schema(&header) {
                Err(error) if error.to_string().contains("not those of Arrow") => refused += 1,
                _ => read += 1,
            }
        }
    }
    assert!(refused > 0 && read > 0, "{refused} {read}");
}
