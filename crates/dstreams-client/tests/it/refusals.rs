//! Refusals are immediate, name their cause, and are never retried.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dstreams_client::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use dstreams_client::{Client, Error, Outcome};
use tonic::Code;

use crate::server::{Server, Store};
use crate::small;

fn numbers(count: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
    RecordBatch::try_from_iter([("n", numbers)]).unwrap()
}

#[tokio::test]
async fn refusing_an_unknown_stream_lists_the_known_ones() {
    let store = Store::lines();
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let error = client.lines("lnes").await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Rejected {
                code: Code::NotFound,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("there are: lines"), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(error.outcome(), Outcome::Rejected);
}

#[tokio::test]
async fn refusing_a_schema_shows_both() {
    let store = Store::lines();
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let error = client
        .batches("lines", numbers(0).schema())
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Rejected {
                code: Code::InvalidArgument,
                ..
            }
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("Utf8") && text.contains("Int64"), "{text}");
}

#[tokio::test]
async fn a_message_over_the_servers_limit_ends_the_sender_with_a_tally() {
    let store = Store::lines();
    store.largest_message.store(10_000, Relaxed);
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send("small").await.unwrap();
    lines.flush().await.unwrap();
    lines.send(&"x".repeat(20_000)).await.unwrap();
    let error = lines.flush().await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Rejected {
                code: Code::OutOfRange,
                ..
            }
        ),
        "{error:?}"
    );
    let tally = error.tally().unwrap();
    assert_eq!((tally.acknowledged, tally.unacknowledged), (1, 1));
    // Every later call returns the same, and nothing was retried.
    let again = lines.send("more").await.unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    assert_eq!(
        lines.finish().await.unwrap_err().to_string(),
        error.to_string()
    );
    assert_eq!(store.opened.load(Relaxed), 1);
}

#[tokio::test]
async fn a_server_of_another_protocol_is_recognised() {
    let store = Store::lines();
    *store.babbles.lock().unwrap() = Some("hello");
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let error = client.lines("lines").await.unwrap_err();
    assert!(matches!(&error, Error::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("hello"), "{error}");
}

#[tokio::test]
async fn records_that_cannot_be_sent_leave_the_sender_usable() {
    let numbers_schema = numbers(0).schema();
    let store = Store::new([
        ("lines", dstreams_client::protocol::lines_schema()),
        ("numbers", numbers_schema),
    ]);
    let server = Server::start(&store);
    let mut options = small();
    options.pack_bytes = 50;
    options.max_message_bytes = 100;
    let client = Client::connect(server.address, options).await.unwrap();

    let mut lines = client.lines("lines").await.unwrap();
    let long = "x".repeat(101);
    let error = lines.send(&long).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                bytes: 101,
                limit: 100
            }
        ),
        "{error:?}"
    );
    let error = lines
        .send_text(format!("fine\n{long}").as_bytes())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                bytes: 101,
                limit: 100
            }
        ),
        "{error:?}"
    );
    let error = lines.send_text(b"fine\n\xff").await.unwrap_err();
    assert!(
        matches!(error, Error::NotText { valid_up_to: 5 }),
        "{error:?}"
    );
    lines.send("good").await.unwrap();
    assert_eq!(lines.finish().await.unwrap().records_acknowledged, 1);
    assert_eq!(store.stored_lines(), ["good"]);

    let mut rows = client
        .batches("numbers", numbers(0).schema())
        .await
        .unwrap();
    let other =
        RecordBatch::try_from_iter_with_nullable([("n", Arc::clone(numbers(1).column(0)), true)]);
    let error = rows.send(other.unwrap()).await.unwrap_err();
    let Error::WrongSchema { expected, got } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((expected.as_str(), got.as_str()), ("n: Int64", "n: Int64?"));
    rows.send(numbers(3)).await.unwrap();
    assert_eq!(rows.finish().await.unwrap().records_acknowledged, 3);
}
