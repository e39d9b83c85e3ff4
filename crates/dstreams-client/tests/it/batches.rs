//! Record batches arrive as they were sent, whatever their size.

use std::sync::Arc;

use dstreams_client::Client;
use dstreams_client::arrow::array::{
    ArrayRef, AsArray, DictionaryArray, Int64Array, RecordBatch, StringArray, StringViewArray,
};
use dstreams_client::arrow::compute::concat_batches;
use dstreams_client::arrow::datatypes::{DataType, Int32Type};

use crate::server::{Server, Store};
use crate::small;

#[tokio::test]
async fn batches_are_split_to_size_and_arrive_whole() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(
        (0..1000).map(|n| (n % 3 > 0).then_some(n)),
    ));
    let text = (0..1000).map(|n| format!("a text that is not short, number {n}"));
    let text: ArrayRef = Arc::new(StringViewArray::from_iter_values(text));
    let batch = RecordBatch::try_from_iter([("n", numbers), ("t", text)]).unwrap();
    let store = Store::new([("rows", batch.schema())]);
    let server = Server::start(&store);
    let mut options = small();
    options.pack_bytes = 1000;
    options.max_message_bytes = 10_000;
    let client = Client::connect(server.address, options).await.unwrap();
    let mut rows = client.batches("rows", batch.schema()).await.unwrap();
    rows.send(batch.slice(0, 0)).await.unwrap();
    for (start, rows_in) in [(0, 400), (400, 200), (600, 200), (800, 200)] {
        rows.send(batch.slice(start, rows_in)).await.unwrap();
    }
    let report = rows.finish().await.unwrap();
    assert_eq!(report.records_acknowledged, 1000);
    assert!(report.messages > 7, "it was cut: {report:?}");
    assert_eq!(
        concat_batches(&batch.schema(), &store.stored()).unwrap(),
        batch
    );
}

#[tokio::test]
async fn a_flushed_sender_of_batches_has_all_records_acknowledged() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..7));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let store = Store::new([("rows", batch.schema())]);
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let mut rows = client.batches("rows", batch.schema()).await.unwrap();
    let other = client.batches("rows", batch.schema()).await.unwrap();
    assert_eq!((rows.stream(), rows.sent()), ("rows", 0));
    assert!(rows.producer().len() > 8 && rows.producer() != other.producer());
    for flushed in [7, 14] {
        rows.send(batch.clone()).await.unwrap();
        rows.flush().await.unwrap();
        assert_eq!((rows.sent(), rows.acknowledged()), (flushed, flushed));
        let stored = store.stored();
        let stored = stored.iter().map(|rows| rows.num_rows() as u64);
        assert_eq!(stored.sum::<u64>(), flushed);
    }
    let before = rows.report();
    assert_eq!((before.records_sent, before.messages), (14, 2));
    assert_eq!(rows.finish().await.unwrap(), before);
}

#[tokio::test]
async fn dictionaries_arrive_as_their_values() {
    let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
    let batch = RecordBatch::try_from_iter([("w", Arc::new(words) as ArrayRef)]).unwrap();
    let plain = StringArray::from(vec!["a", "b", "a"]);
    let stored = RecordBatch::try_from_iter([("w", Arc::new(plain.clone()) as ArrayRef)]).unwrap();
    let store = Store::new([("rows", stored.schema())]);
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let mut rows = client.batches("rows", batch.schema()).await.unwrap();
    assert!(matches!(
        rows.schema().field(0).data_type(),
        DataType::Dictionary(_, _)
    ));
    rows.send(batch).await.unwrap();
    rows.finish().await.unwrap();
    assert_eq!(store.stored()[0].column(0).as_string::<i32>(), &plain);
}
