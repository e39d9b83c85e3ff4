//! The token is sent with every call; a missing or wrong one ends a sender at once.

use std::sync::atomic::Ordering::Relaxed;

use dstreams_client::{Client, Error, Options, Outcome};

use crate::master::Directory;
use crate::proxy::Proxy;
use crate::server::{Server, Store};
use crate::small;

fn with(token: Option<&str>) -> Options {
    let mut options = small();
    options.token = token.map(str::to_string);
    options
}

#[tokio::test]
async fn every_call_has_the_token_even_after_reconnecting() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let proxy = Proxy::faithful(worker.address).await;
    let directory = Directory::lines([proxy.address]);
    let master = Server::master(&directory);
    *store.token.lock().unwrap() = Some("s3cret");
    *directory.token.lock().unwrap() = Some("s3cret");
    let options = with(Some("s3cret"));
    let client = Client::connect(master.address, options).await.unwrap();
    assert!(!format!("{client:?}").contains("s3cret"));
    let mut lines = client.lines("lines").await.unwrap();
    for line in ["one", "two"] {
        lines.send(line).await.unwrap();
        lines.flush().await.unwrap();
        proxy.retarget(Some(worker.address));
    }
    lines.send("three").await.unwrap();
    assert!(lines.finish().await.unwrap().reconnects > 0);
    assert_eq!(store.stored_lines(), ["one", "two", "three"]);
    assert!(directory.asked() > 1, "asked again after the break");
}

#[tokio::test]
async fn a_missing_or_wrong_token_is_refused_at_once() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let directory = Directory::lines([worker.address]);
    let master = Server::master(&directory);
    *directory.token.lock().unwrap() = Some("s3cret");
    *store.token.lock().unwrap() = Some("s3cret");
    for address in [master.address, worker.address] {
        for (token, words) in [
            (None, "requires a token"),
            (Some("guess"), "rejects the given"),
        ] {
            let client = Client::connect(address, with(token)).await.unwrap();
            let before = directory.asked();
            let error = client.lines("lines").await.unwrap_err();
            let Error::Unauthenticated { token_given, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*token_given, token.is_some());
            let text = error.to_string();
            assert!(
                text.contains(words) && text.contains(&address.to_string()),
                "{text}"
            );
            assert!(
                !text.contains("guess") && !text.contains("s3cret"),
                "{text}"
            );
            assert!(!error.is_retryable());
            assert_eq!(error.outcome(), Outcome::Rejected);
            assert!(directory.asked() <= before + 1, "not tried again");
        }
    }
    assert_eq!(store.opened.load(Relaxed), 0);
    // A server that requires no token ignores it.
    *store.token.lock().unwrap() = None;
    let client = Client::connect(worker.address, with(Some("guess"))).await;
    let _ = client.unwrap().lines("lines").await.unwrap();
}

#[tokio::test]
async fn a_changed_token_ends_a_sender_with_a_tally() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let proxy = Proxy::faithful(worker.address).await;
    *store.token.lock().unwrap() = Some("old");
    let options = with(Some("old"));
    let client = Client::connect(proxy.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send("safe").await.unwrap();
    lines.flush().await.unwrap();
    *store.token.lock().unwrap() = Some("new");
    proxy.retarget(Some(worker.address));
    lines.send("not taken").await.unwrap();
    let error = lines.finish().await.unwrap_err();
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
    let tally = error.tally().unwrap();
    assert_eq!((tally.acknowledged, tally.unacknowledged), (1, 1));
    assert_eq!(store.stored_lines(), ["safe"]);
}

#[tokio::test]
async fn an_invalid_token_is_refused_before_anything_is_sent() {
    let error = Client::connect("127.0.0.1:1", with(Some("two words"))).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Options { .. }), "{error:?}");
}
