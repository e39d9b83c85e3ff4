//! Servers that are down, vanish, or are silent: the client moves on, or gives up within bounds and reports what
//! was safe.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dstreams_client::{Client, Error, Options, Outcome, Retry};

use crate::proxy::Proxy;
use crate::server::{Server, Store};
use crate::{small, until};

/// An address without a listener: bound, and never listened on while the socket lives.
pub fn no_one() -> (SocketAddr, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

pub fn three_tries() -> Options {
    let mut options = small();
    options.retry.tries = 3;
    options
}

#[tokio::test]
async fn connect_takes_the_first_address_that_answers() {
    let store = Store::lines();
    let server = Server::start(&store);
    let (dead, _socket) = no_one();
    let client = Client::connect([dead, server.address], three_tries())
        .await
        .unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send("line").await.unwrap();
    lines.finish().await.unwrap();
    assert_eq!(store.stored_lines(), ["line"]);

    let error = Client::connect(dead, three_tries()).await.unwrap_err();
    assert!(matches!(&error, Error::Connect { address, .. } if *address == dead.to_string()));
    assert!(error.is_retryable() && error.outcome() == Outcome::Failed);
    assert!(
        error.to_string().contains("refused"),
        "the cause is missing: {error}"
    );
}

#[tokio::test]
async fn a_sender_moves_to_the_next_address_when_its_server_dies() {
    let store = Store::lines();
    let (first, second) = (Server::start(&store), Server::start(&store));
    let addresses = [first.address, second.address];
    let client = Client::connect(addresses, three_tries()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send("one").await.unwrap();
    lines.flush().await.unwrap();
    drop(first);
    lines.send("two").await.unwrap();
    let report = lines.finish().await.unwrap();
    assert_eq!(store.stored_lines(), ["one", "two"]);
    assert!(report.reconnects >= 1, "{report:?}");
}

#[tokio::test]
async fn giving_up_an_absent_server_reports_what_was_safe() {
    let store = Store::lines();
    let server = Server::start(&store);
    let proxy = Proxy::faithful(server.address).await;
    let client = Client::connect(proxy.address, three_tries()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    for _ in 0..10 {
        lines.send("safe").await.unwrap();
    }
    lines.flush().await.unwrap();
    proxy.retarget(None);
    lines.send("on the way").await.unwrap();
    let error = lines.finish().await.unwrap_err();
    let Error::GaveUp {
        tries,
        tally,
        cause,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!((tally.acknowledged, tally.unacknowledged), (10, 1));
    assert_eq!(*tries, 4, "three more after the first");
    assert!(cause.is_retryable(), "{cause:?}");
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn progress_prevents_giving_up_a_connection_that_breaks_often() {
    let store = Store::lines();
    let server = Server::start(&store);
    let proxy = Proxy::faithful(server.address).await;
    let client = Client::connect(proxy.address, three_tries()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    for round in 1..=10 {
        store.acknowledging.send_replace(false);
        lines.send("line").await.unwrap();
        until("it is on the way", || store.received.load(Relaxed) == round).await;
        proxy.retarget(Some(server.address));
        store.acknowledging.send_replace(true);
        lines.flush().await.unwrap();
    }
    assert_eq!(lines.finish().await.unwrap().records_acknowledged, 10);
    assert_eq!(store.stored_lines().len(), 10);
}

/// With nothing to send nothing can fail: the sender waits for new work.
#[tokio::test]
async fn an_idle_sender_survives_any_absence() {
    let store = Store::lines();
    let server = Server::start(&store);
    let proxy = Proxy::faithful(server.address).await;
    let mut options = small();
    options.retry.tries = 1;
    let client = Client::connect(proxy.address, options).await.unwrap();
    let idle = client.lines("lines").await.unwrap();
    let mut busy = client.lines("lines").await.unwrap();
    proxy.retarget(None);
    busy.send("line").await.unwrap();
    let error = busy.flush().await.unwrap_err();
    assert!(matches!(error, Error::GaveUp { tries: 2, .. }), "{error:?}");
    proxy.retarget(Some(server.address));
    let mut back = idle; // reconnecting all the while, it would have given up as well
    back.send("line").await.unwrap();
    assert_eq!(back.finish().await.unwrap().reconnects, 1);
}

#[tokio::test]
async fn a_server_that_never_acknowledges_is_given_up() {
    let store = Store::lines();
    let server = Server::start(&store);
    let mut options = three_tries();
    options.ack_timeout = Duration::from_millis(20);
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    store.acknowledging.send_replace(false);
    lines.send("line").await.unwrap();
    until("it tries another connection", || {
        store.opened.load(Relaxed) >= 2
    })
    .await;
    // The second connection's first answer says that the line was stored: progress after all.
    lines.flush().await.unwrap();
    assert_eq!(store.stored_lines(), ["line"]);

    // A server that forgets even that makes no progress.
    store.forgets.store(true, Relaxed);
    lines.send("never").await.unwrap();
    let error = lines.finish().await.unwrap_err();
    let Error::GaveUp { cause, tally, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**cause, Error::NoAck { .. }), "{cause:?}");
    assert_eq!((tally.acknowledged, tally.unacknowledged), (1, 1));
}

#[tokio::test]
async fn a_server_that_reports_alive_is_not_given_up() {
    let store = Store::lines();
    let server = Server::start(&store);
    let mut options = three_tries();
    options.ack_timeout = Duration::from_millis(200);
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    store.says_alive.store(true, Relaxed);
    store.acknowledging.send_replace(false);
    lines.send("line").await.unwrap();
    // Longer than the timeout for a silent server (the only wait for time: nothing happens).
    let waited = tokio::time::timeout(Duration::from_millis(600), lines.flush()).await;
    assert!(waited.is_err(), "{waited:?}");
    store.acknowledging.send_replace(true);
    assert_eq!(lines.finish().await.unwrap().reconnects, 0);
}

#[tokio::test]
async fn a_dropped_sender_closes_its_connection_and_sends_nothing_more() {
    let store = Store::lines();
    let server = Server::start(&store);
    let mut options = small();
    options.linger = Duration::from_secs(3600);
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    store.acknowledging.send_replace(false);
    for _ in 0..10 {
        lines.send("line").await.unwrap();
    }
    until("seven of them are on the way", || {
        store.received.load(Relaxed) == 1
    })
    .await;
    drop(lines);
    until("the call is over", || store.ended.load(Relaxed) == 1).await;
    assert_eq!(store.stored_lines().len(), 7, "three lingered");
}

#[test]
fn a_sender_without_its_runtime_returns_an_error() {
    let store = Store::lines();
    let server = Server::start(&store);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut lines = runtime.block_on(async {
        let client = Client::connect(server.address, small()).await.unwrap();
        let mut lines = client.lines("lines").await.unwrap();
        lines.send("safe").await.unwrap();
        lines.flush().await.unwrap();
        lines
    });
    drop(runtime);
    let error = futures::executor::block_on(lines.send("more")).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
    assert_eq!(error.tally().unwrap().acknowledged, 1);
    assert_eq!(error.outcome(), Outcome::Failed);
}

/// No duration is too long: the longest of each, and all of them; and zero where that is allowed.
#[tokio::test]
async fn durations_may_be_infinite_or_zero() {
    let (most, none) = (Duration::MAX, Duration::ZERO);
    let with = |set: fn(&mut Options, Duration), time| {
        let mut options = small();
        set(&mut options, time);
        options
    };
    let retry: fn(&mut Options, Duration) = |options, time| {
        options.retry = Retry::default();
        options.retry.elapsed = time;
        options.retry.first_pause = time;
        options.retry.longest_pause = time;
    };
    let all = [
        with(|options, time| options.linger = time, most),
        with(|options, time| options.connect_timeout = time, most),
        with(|options, time| options.open_timeout = time, most),
        with(|options, time| options.ack_timeout = time, most),
        with(|options, time| options.keep_alive = time, most),
        with(retry, most),
        {
            let mut options = with(retry, none);
            options.linger = none;
            options
        },
    ];
    for options in all {
        let shown = format!("{options:?}");
        let store = Store::lines();
        let server = Server::start(&store);
        let client = Client::connect(server.address, options).await.unwrap();
        let mut lines = client.lines("lines").await.unwrap();
        let sent = async {
            lines.send("one").await?;
            // The task polls its timers.
            tokio::task::yield_now().await;
            lines.send("two").await?;
            lines.flush().await?;
            lines.finish().await
        };
        let sent = tokio::time::timeout(Duration::from_secs(20), sent).await;
        sent.expect(&shown).expect(&shown);
        assert_eq!(store.stored_lines(), ["one", "two"]);
    }
}
