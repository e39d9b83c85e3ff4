//! Blocks survive encoding to bytes; any other bytes are an error.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, ListArray, RecordBatch,
    StringViewArray, StringViewBuilder,
};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use proptest::prelude::*;

use super::*;
use crate::blocks::Budget;
use crate::encoding::write_batches;

/// Nullable strings, booleans, numbers, lists of strings.
fn schema() -> SchemaRef {
    let item = Arc::new(Field::new("item", DataType::Utf8View, true));
    Arc::new(Schema::new(vec![
        Field::new("text", DataType::Utf8View, true),
        Field::new("truth", DataType::Boolean, false),
        Field::new("number", DataType::Float64, false),
        Field::new("small", DataType::Int32, true),
        Field::new("list", DataType::List(item), false),
    ]))
}

type Row = (Option<String>, bool, u64, Option<i32>, Vec<Option<String>>);

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{0,2}", "[a-f]{12,14}", "[äß€]{1,9}"]
}

fn row() -> impl Strategy<Value = Row> {
    let list = prop::collection::vec(prop::option::of(text()), 0..3);
    let small = prop::option::of(any::<i32>());
    (
        prop::option::of(text()),
        any::<bool>(),
        any::<u64>(),
        small,
        list,
    )
}

/// Batches of rows, which may be slices of larger ones.
fn batches() -> impl Strategy<Value = Vec<RecordBatch>> {
    let batch = (prop::collection::vec(row(), 1..20), 0..9usize, 0..3usize);
    let batch = batch.prop_map(|(rows, from, cut)| {
        let batch = batch_of(&rows);
        let from = from.min(rows.len() - 1);
        let rows = (rows.len() - from).saturating_sub(cut).max(1);
        batch.slice(from, rows)
    });
    prop::collection::vec(batch, 0..4)
}

fn batch_of(rows: &[Row]) -> RecordBatch {
    let lists = OffsetBuffer::from_lengths(rows.iter().map(|row| row.4.len()));
    let items = rows.iter().flat_map(|row| row.4.clone());
    let items: ArrayRef = Arc::new(StringViewArray::from_iter(items));
    let schema = schema();
    let DataType::List(item) = schema.field(4).data_type() else {
        unreachable!()
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter(
            rows.iter().map(|row| row.0.clone()),
        )),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.1)))),
        Arc::new(Float64Array::from_iter_values(
            rows.iter().map(|row| f64::from_bits(row.2)),
        )),
        Arc::new(Int32Array::from_iter(rows.iter().map(|row| row.3))),
        Arc::new(ListArray::new(Arc::clone(item), lists, items, None)),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

fn id(receiver: u64, seq: u64) -> BlockId {
    BlockId {
        receiver: ReceiverId(receiver),
        seq,
    }
}

fn example() -> Block {
    let row = |text: &str| -> Row {
        let text = Some(text.to_owned());
        (text.clone(), true, 7, None, vec![text, None])
    };
    let batch = batch_of(&[row("a"), row("a text that does not fit a view")]);
    let offsets = [(Arc::from("sensor"), 4), (Arc::from(""), u64::MAX)];
    Block::new(id(3, 1 << 40), vec![batch], 4321, vec![]).with_offsets(offsets.into())
}

/// Floating-point numbers as their bits: a NaN equals nothing.
fn bits(batch: &RecordBatch) -> (RecordBatch, Vec<u64>) {
    let numbers = batch.column(2).as_primitive::<Float64Type>().values();
    let others = batch.project(&[0, 1, 3, 4]).unwrap();
    (
        others,
        numbers.iter().map(|number| number.to_bits()).collect(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_block_survives_encoding(
        batches in batches(),
        (receiver, seq, size) in (any::<u64>(), any::<u64>(), any::<u32>()),
        offsets in prop::collection::btree_map(text(), any::<u64>(), 0..4),
        flip in any::<prop::sample::Index>(),
    ) {
        let offsets: OffsetMap = offsets.into_iter().map(|(name, n)| (Arc::from(name), n)).collect();
        let block = Block::new(id(receiver, seq), batches, size as usize, vec![]);
        let block = block.with_offsets(offsets);
        let mut bytes = block.to_bytes(&schema()).unwrap();
        let back = Block::from_bytes(&bytes, &schema(), vec![]).unwrap();
        prop_assert_eq!(back.meta, block.meta);
        prop_assert_eq!(&back.offsets, &block.offsets);
        let all = |block: &Block| block.batches.iter().map(bits).collect::<Vec<_>>();
        prop_assert_eq!(all(&back), all(&block));
        prop_assert_eq!(back.to_bytes(&schema()).unwrap(), bytes.clone());

        let bit = flip.index(8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Block::from_bytes(&bytes, &schema(), vec![]).is_err());
    }
}

/// Receivers had 32 bits in format 1.
#[test]
fn blocks_of_earlier_programs_are_read() {
    let block = example();
    let bytes = block.to_bytes(&schema()).unwrap();
    let body = BLOCK.open(&bytes).unwrap();
    let mut old = BLOCK_1.begin(0);
    old.extend([&body[..4], &body[8..]].concat());
    let unsealed = old.clone();
    let sealed = Block::from_bytes(&BLOCK_1.seal(old), &schema(), vec![]).unwrap();
    let unsealed = Block::from_unsealed(&unsealed, &schema()).unwrap();
    for back in [sealed, unsealed] {
        assert_eq!((back.meta, &back.offsets), (block.meta, &block.offsets));
        assert_eq!(back.to_bytes(&schema()).unwrap(), bytes);
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_an_error() {
    let mut bytes = example().to_bytes(&schema()).unwrap();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(
            Block::from_bytes(&bytes, &schema(), vec![]).is_err(),
            "bit {bit}"
        );
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for end in 0..bytes.len() {
        assert!(
            Block::from_bytes(&bytes[..end], &schema(), vec![]).is_err(),
            "{end}"
        );
    }
    assert!(Block::from_bytes(&bytes, &schema(), vec![]).is_ok());
}

/// Made-up bytes with a valid checksum are an error or a block of valid columns.
#[test]
fn made_up_bytes_never_panic() {
    let bytes = example().to_bytes(&schema()).unwrap();
    let body = bytes.len() - 8;
    let (mut refused, mut taken) = (0, 0);
    for at in 12..body {
        for mask in [0x01, 0x80, 0xff] {
            let mut lie = bytes[..body].to_vec();
            lie[at] ^= mask;
            match Block::from_bytes(&BLOCK.seal(lie), &schema(), vec![]) {
                Err(_) => refused += 1,
                Ok(block) => {
                    taken += 1;
                    for column in block.batches.iter().flat_map(RecordBatch::columns) {
                        column.to_data().validate_full().unwrap();
                    }
                    block.to_bytes(&schema()).unwrap();
                }
            }
        }
    }
    assert!(
        refused > 500 && taken > 500,
        "{refused} refused, {taken} taken"
    );
    for end in 12..body {
        let cut = BLOCK.seal(bytes[..end].to_vec());
        assert!(
            Block::from_bytes(&cut, &schema(), vec![]).is_err(),
            "{end} bytes"
        );
    }
    let longer = BLOCK.seal([&bytes[..body], b"x"].concat());
    assert!(Block::from_bytes(&longer, &schema(), vec![]).is_err());
}

/// A compressed buffer may claim more bytes than memory could ever hold.
#[test]
fn compressed_records_are_refused() {
    let options = IpcWriteOptions::default();
    let options = options.try_with_compression(Some(CompressionType::LZ4_FRAME));
    let block = example();
    let mut records = Vec::new();
    let mut writer =
        StreamWriter::try_new_with_options(&mut records, &schema(), options.unwrap()).unwrap();
    writer.write(&block.batches[0]).unwrap();
    writer.finish().unwrap();

    let empty = Block::new(block.meta.id, vec![], 0, vec![]);
    let plain = empty.to_bytes(&schema()).unwrap();
    let mut none = Vec::new();
    write_batches(&mut none, &schema(), &[]).unwrap();
    let head = &plain[..plain.len() - 8 - none.len()];
    let bytes = BLOCK.seal([head, &records].concat());
    let error = Block::from_bytes(&bytes, &schema(), vec![])
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("compressed"), "{error}");
}

#[test]
fn an_error_names_both_schemas() {
    let block = example();
    let bytes = block.to_bytes(&schema()).unwrap();
    let fields = |change: &dyn Fn(&mut Vec<Field>)| {
        let schema = schema();
        let fields = schema.fields().iter();
        let mut fields: Vec<Field> = fields.map(|field| field.as_ref().clone()).collect();
        change(&mut fields);
        Arc::new(Schema::new(fields))
    };
    let cases: [(SchemaRef, [&str; 2]); 4] = [
        (
            fields(&|fields| fields[3] = Field::new("small", DataType::Int64, true)),
            ["small: Int64", "small: Int32"],
        ),
        (
            fields(&|fields| fields[1] = Field::new("lie", DataType::Boolean, false)),
            ["lie: Boolean", "truth: Boolean"],
        ),
        (
            fields(&|fields| fields[0] = Field::new("text", DataType::Utf8View, false)),
            ["text: Utf8View not null", "text: Utf8View,"],
        ),
        (
            fields(&|fields| drop(fields.pop())),
            ["small: Int32)", "list: List"],
        ),
    ];
    for (other, texts) in cases {
        let error = Block::from_bytes(&bytes, &other, vec![])
            .err()
            .unwrap()
            .to_string();
        for text in texts {
            assert!(error.contains(text), "{text} in: {error}");
        }
    }
}

/// A sender whose columns are declared without nulls, and have some.
#[test]
fn unexpected_nulls_are_refused() {
    let field = |nulls| Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, nulls)]));
    let column: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None]));
    let batch = RecordBatch::try_new(field(true), vec![column]).unwrap();
    let block = Block::new(id(0, 0), vec![batch], 0, vec![]);
    let bytes = block.to_bytes(&field(true)).unwrap();
    // The same with the schema without nulls: both schema messages have the same length.
    let (with, without) = (schema_bytes(&field(true)), schema_bytes(&field(false)));
    let at = bytes.windows(with.len()).position(|part| part == with);
    let at = at.unwrap();
    let rest = &bytes[at + with.len()..bytes.len() - 8];
    let lie = BLOCK.seal([&bytes[..at], &without, rest].concat());
    let error = Block::from_bytes(&lie, &field(false), vec![])
        .err()
        .unwrap();
    assert!(error.to_string().contains("null"), "{error}");
}

/// The schema message of an IPC stream.
fn schema_bytes(schema: &SchemaRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_batches(&mut bytes, schema, &[]).unwrap();
    // Without the 8 bytes that end the stream.
    bytes.truncate(bytes.len() - 8);
    bytes
}

#[test]
fn wrong_sizes_are_refused() {
    let block = example();
    let bytes = block.to_bytes(&schema()).unwrap();
    let mut lie = bytes[..bytes.len() - 8].to_vec();
    // After the frame's header: receiver, number, records.
    assert_eq!(lie[28..36], 2u64.to_le_bytes());
    lie[28] = 3;
    let error = Block::from_bytes(&BLOCK.seal(lie.clone()), &schema(), vec![])
        .err()
        .unwrap();
    assert!(error.to_string().contains("2 records where 3"), "{error}");
    // Then its bytes of memory, which the store adds up.
    assert_eq!(lie[36..44], 4321u64.to_le_bytes());
    lie[28] = 2;
    lie[43] = 0xff;
    let error = Block::from_bytes(&BLOCK.seal(lie), &schema(), vec![]);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("bytes of memory"), "{error}");
}

#[test]
fn bytes_contain_only_the_strings_in_use() {
    let chunk = Buffer::from(vec![b'x'; 1 << 20]);
    let views = |at: &[u32]| {
        let mut texts = StringViewBuilder::new();
        let block = texts.append_block(chunk.clone());
        for at in at {
            texts.try_append_view(block, *at, 20).unwrap();
        }
        texts.finish()
    };
    let all: Vec<u32> = (0..5000).collect();
    let flat: ArrayRef = Arc::new(views(&all));
    let item = Arc::new(Field::new("item", DataType::Utf8View, false));
    let offsets = OffsetBuffer::from_lengths(all.iter().map(|_| 2));
    let items = Arc::new(views(&[&all[..], &all].concat()));
    let nested: ArrayRef = Arc::new(ListArray::new(Arc::clone(&item), offsets, items, None));
    let schema = Arc::new(Schema::new(vec![
        Field::new("flat", DataType::Utf8View, false),
        Field::new("nested", DataType::List(item), false),
    ]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![flat, nested]).unwrap();
    let batch = batch.slice(3000, 2);
    let block = Block::new(id(0, 0), vec![batch], 2 << 20, vec![]);
    let bytes = block.to_bytes(&schema).unwrap();
    assert!(bytes.len() < 4096, "{} bytes", bytes.len());
    let back = Block::from_bytes(&bytes, &schema, vec![]).unwrap();
    assert_eq!(back.batches, block.batches);
    assert_eq!(back.meta.bytes, 2 << 20);
}

#[tokio::test]
async fn a_decoded_block_holds_its_budget_share() {
    let budget = Budget::new(1000);
    let bytes = example().to_bytes(&schema()).unwrap();
    let share = budget.take(600).await;
    let block = Block::from_bytes(&bytes, &schema(), vec![share]).unwrap();
    assert_eq!(budget.used(), 600);
    drop(block);
    assert_eq!(budget.used(), 0);
}
