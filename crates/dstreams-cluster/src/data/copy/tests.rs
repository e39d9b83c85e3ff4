//! Rows travel in messages of bounded size and come back; foreign messages are refused or read in full.

use arrow_flight::SchemaAsIpc;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray, StringViewArray,
};
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
};
use dstreams_control::{BlockId, ReceiverId};
use futures::executor::block_on;
use proptest::prelude::*;

use super::*;

#[test]
fn large_rows_fit_into_messages_and_no_text_is_sent_twice() {
    let text = |n: usize| format!("{n} {}", "x".repeat(1 << 20));
    let texts: StringViewArray = (0..70).map(|n| Some(text(n))).collect();
    let rows = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
    let messages: Vec<FlightData> =
        futures::executor::block_on(encode(futures::stream::iter([Ok(rows)]), None).try_collect())
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

fn batch(rows: &[(Option<String>, i64, bool)]) -> RecordBatch {
    let texts = || rows.iter().map(|row| row.0.as_deref());
    let columns: [(&str, ArrayRef); 4] = [
        ("view", Arc::new(StringViewArray::from_iter(texts()))),
        ("text", Arc::new(StringArray::from_iter(texts()))),
        (
            "number",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        ),
        (
            "truth",
            Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.2)))),
        ),
    ];
    let columns = columns.map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn sent(batches: Vec<RecordBatch>) -> Vec<FlightData> {
    let rows = futures::stream::iter(batches.into_iter().map(Ok));
    block_on(encode(rows, None).try_collect()).unwrap()
}

fn read(messages: Vec<FlightData>) -> Result<Vec<RecordBatch>, Status> {
    block_on(decode(futures::stream::iter(messages.into_iter().map(Ok))))
}

/// `bytes` with eight bytes overwritten, at a multiple of four.
fn overwritten(bytes: &[u8], at: prop::sample::Index, word: i64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        let at = at.index(bytes.len()) & !3;
        let end = bytes.len().min(at + 8);
        bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn rows_round_trip_and_damaged_messages_are_valid_or_refused(
        rows in prop::collection::vec((prop::option::of("[a-c]{0,20}"), any::<i64>(), any::<bool>()), 2..9),
        of in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        word in prop_oneof![any::<i64>(), -2i64..99, Just(i64::MAX), Just(1 << 40)],
        in_body in any::<bool>(),
        lost in any::<prop::sample::Index>(),
    ) {
        let batches = vec![batch(&rows), batch(&rows[1..])];
        let messages = sent(batches.clone());
        prop_assert_eq!(read(messages.clone()).unwrap(), batches.clone());

        let mut changed = messages.clone();
        let message = &mut changed[of.index(messages.len())];
        match in_body {
            true => message.data_body = overwritten(&message.data_body, at, word).into(),
            false => message.data_header = overwritten(&message.data_header, at, word).into(),
        }
        match read(changed) {
            Ok(batches) => {
                for column in batches.iter().flat_map(RecordBatch::columns) {
                    prop_assert!(column.to_data().validate_full().is_ok());
                }
            }
            Err(status) => prop_assert_eq!(status.code(), tonic::Code::InvalidArgument),
        }

        let mut fewer = messages.clone();
        let lost = lost.index(messages.len());
        fewer.remove(lost);
        // Batches are counted by their rows; without the schema nothing can be read.
        prop_assert_eq!(read(fewer).is_ok(), lost > 0);
        let twice = [&messages[..], &messages[..]].concat();
        prop_assert!(read(twice).is_err());
    }

    #[test]
    fn headers_round_trip_and_damaged_ones_are_refused(
        (sender, worker, input) in any::<(u32, u32, u32)>(),
        (receiver, seq, rows) in any::<(u64, u64, u64)>(),
        bytes in prop_oneof![0..=MAX_BLOCK_BYTES, MAX_BLOCK_BYTES + 1..],
        marks in prop::collection::btree_map(".{0,5}", any::<u64>(), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let id = BlockId { receiver: ReceiverId(receiver), seq };
        let header = CopyHeader {
            sender,
            received: Received { worker, input },
            meta: BlockMeta { id, rows, bytes },
            marks,
        };
        let json = serde_json::to_vec(&header).unwrap();
        let first = |command: &[u8]| FlightData {
            flight_descriptor: Some(FlightDescriptor::new_cmd(command.to_vec())),
            ..FlightData::default()
        };
        let read = CopyHeader::parse(&first(&json));
        prop_assert_eq!(read.is_ok(), bytes <= MAX_BLOCK_BYTES);
        read.into_iter().for_each(|read| assert_eq!(read, header));
        let refused = CopyHeader::parse(&first(&json[..cut.index(json.len())])).unwrap_err();
        prop_assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        prop_assert!(CopyHeader::parse(&FlightData::default()).is_err());
    }
}

/// Arrow's reader allocates the size that a compressed buffer claims, and the process aborts if memory is short.
#[test]
fn compressed_rows_are_refused_whatever_size_they_claim() {
    let options = IpcWriteOptions::default();
    let options = options
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .unwrap();
    let rows = batch(&vec![(Some("the same text".to_owned()), 7, true); 999]);
    let mut dictionaries = DictionaryTracker::new(false);
    let mut context = IpcWriteContext::default();
    let encoded =
        IpcDataGenerator::default().encode(&rows, &mut dictionaries, &options, &mut context);
    let (_, encoded) = encoded.unwrap();
    let schema: FlightData = SchemaAsIpc::new(&rows.schema(), &options).into();
    let mut body = encoded.arrow_data;
    body[..8].copy_from_slice(&(1i64 << 60).to_le_bytes());
    let rows = FlightData {
        data_header: encoded.ipc_message.into(),
        data_body: body.into(),
        ..FlightData::default()
    };
    let refused = read(vec![schema, rows]).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("compressed"), "{refused:?}");
}

/// The largest allowed records lie together, among many small ones.
#[test]
fn records_of_different_sizes_fit_into_messages() {
    let text = |n: usize| "x".repeat(if (41..44).contains(&n) { RECORD } else { n });
    let texts: StringViewArray = (0..100).map(|n| Some(text(n))).collect();
    let rows = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
    let messages = encode(futures::stream::iter([Ok(rows)]), None);
    let messages: Vec<FlightData> = futures::executor::block_on(messages.try_collect()).unwrap();
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
