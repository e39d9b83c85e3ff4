//! When lines are sent: full messages at once, others after the linger, all of them on flush.

use std::pin::pin;
use std::time::Duration;

use dstreams_client::Client;
use futures::poll;

use crate::server::{Server, Store};
use crate::{small, until};

#[tokio::test]
async fn a_slow_feed_is_sent_without_a_flush() {
    let store = Store::lines();
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    for line in ["one", "two"] {
        lines.send(line).await.unwrap();
        until("the line is stored", || {
            store.stored_lines().last().is_some_and(|last| last == line)
        })
        .await;
    }
    until("both are acknowledged", || lines.acknowledged() == 2).await;
    assert_eq!(
        store.stored().len(),
        2,
        "two messages: the first did not wait for the second"
    );
}

#[tokio::test]
async fn lines_share_a_message_while_they_linger() {
    let store = Store::lines();
    let server = Server::start(&store);
    let mut options = small();
    options.linger = Duration::from_secs(3600);
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    for number in 0..10 {
        lines.send(&format!("line {number}")).await.unwrap();
    }
    until("the full message is acknowledged", || {
        lines.acknowledged() == 7
    })
    .await;
    assert_eq!(store.stored_lines().len(), 7, "three lines linger");
    lines.flush().await.unwrap();
    assert_eq!(lines.acknowledged(), 10);
    assert_eq!(store.stored().len(), 2, "seven lines and three");
}

/// A full pack that finds no room is taken when there is, without another call.
#[tokio::test]
async fn a_full_pack_does_not_linger() {
    let store = Store::lines();
    let server = Server::start(&store);
    let mut options = small();
    options.linger = Duration::from_secs(3600);
    options.window_messages = 1;
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    store.acknowledging.send_replace(false);
    let mut taken = 0;
    while poll!(pin!(lines.send("line"))).is_ready() {
        taken += 1;
        assert!(taken < 100, "send never waits");
        tokio::task::yield_now().await;
    }
    assert_eq!(taken % 7, 0, "it waits behind a full pack");
    store.acknowledging.send_replace(true);
    until("all packs are stored", || {
        store.stored_lines().len() == taken
    })
    .await;
}
