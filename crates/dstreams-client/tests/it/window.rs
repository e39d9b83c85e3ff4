//! The window bounds what is in flight, and `send` waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dstreams_client::{Client, LineSender};

use crate::server::{Server, Store};
use crate::{small, until};

/// Sends lines until a send waits, without acknowledgements; returns how many were taken.
async fn fill(
    lines: &mut LineSender,
    (client, store): (&Client, &Store),
    line: &str,
    window: usize,
) -> usize {
    for taken in 0..1000 {
        let full = async {
            until("the window is full", || {
                store.received.load(Relaxed) >= window
            })
            .await;
            round_trips(client).await;
        };
        tokio::select! {
            biased;
            sent = lines.send(line) => sent.unwrap(),
            () = full => return taken,
        }
    }
    panic!("send never waits");
}

/// Afterwards the server has received everything sent before.
async fn round_trips(client: &Client) {
    for _ in 0..5 {
        client.lines("other").await.unwrap().finish().await.unwrap();
    }
}

fn two_streams() -> Arc<Store> {
    let schema = dstreams_client::protocol::lines_schema;
    Store::new([("lines", schema()), ("other", schema())])
}

#[tokio::test]
async fn messages_in_flight_are_bounded() {
    let store = two_streams();
    let server = Server::start(&store);
    let mut options = small();
    options.pack_lines = 1;
    options.window_messages = 3;
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    store.acknowledging.send_replace(false);
    let taken = fill(&mut lines, (&client, &store), "line", 3).await;
    // Three in flight; one waits for the window, one in the channel, one is packed.
    assert!((3..=6).contains(&taken), "{taken} were taken");
    assert_eq!(store.received.load(Relaxed), 3);
    assert_eq!(lines.acknowledged(), 0);

    store.acknowledging.send_replace(true);
    lines.send("last").await.unwrap();
    // The send that was dropped while it waited had not taken its line.
    let report = lines.finish().await.unwrap();
    assert_eq!(report.records_sent, taken as u64 + 1);
    assert_eq!(store.stored_lines().len(), taken + 1);
}

#[tokio::test]
async fn bytes_in_flight_are_bounded() {
    let store = two_streams();
    let server = Server::start(&store);
    let mut options = small();
    options.pack_lines = 1;
    options.window_messages = 100;
    options.window_bytes = 10_000;
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    store.acknowledging.send_replace(false);
    let line = "x".repeat(3000); // with its header, three of them fit
    fill(&mut lines, (&client, &store), &line, 3).await;
    assert_eq!(store.received.load(Relaxed), 3);
    assert!(store.received_bytes.load(Relaxed) <= 10_000);
    store.acknowledging.send_replace(true);
    lines.finish().await.unwrap();

    // A message larger than the whole window goes alone.
    let mut lines = client.lines("lines").await.unwrap();
    lines.send(&"y".repeat(20_000)).await.unwrap();
    assert_eq!(lines.finish().await.unwrap().records_acknowledged, 1);
}
