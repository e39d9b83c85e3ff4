//! Whatever happens to connections and servers, each record is stored once, in order.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dstreams_client::{Client, Report};

use crate::proxy::Proxy;
use crate::seed::{Random, seeds};
use crate::server::{Server, Store};
use crate::{small, until};

#[derive(Debug, Default)]
struct Fired {
    cuts: u64,
    repeated: usize,
    report: Report,
}

/// Sends 300 lines, in ways chosen by the seed, over connections that are cut.
async fn through_cuts(seed: u64) -> Fired {
    let why = format!("seed {seed}");
    let mut random = Random::new(seed);
    let store = Store::lines();
    // To a modest server every unacknowledged message is sent again, also what it has.
    store.modest.store(random.below(2) == 0, Relaxed);
    let server = Server::start(&store);
    let proxy = Proxy::cutting(server.address, &mut random).await;
    // Even the first connection may be cut; `connect` does not retry.
    let client = loop {
        match Client::connect(proxy.address, small()).await {
            Ok(client) => break client,
            Err(error) => assert!(error.is_retryable(), "seed {seed}: {error}"),
        }
    };
    let mut lines = client.lines("lines").await.expect(&why);
    let mut expected = Vec::new();
    while expected.len() < 300 {
        let next = |number: usize| format!("seed {seed} line {number}");
        match random.below(40) {
            0 => lines.flush().await.expect(&why),
            1..10 => {
                let many = 1 + random.below(20) as usize;
                let chunk: Vec<_> = (0..many).map(|n| next(expected.len() + n)).collect();
                let taken = lines.send_text(chunk.join("\n").as_bytes()).await;
                assert_eq!(taken.expect(&why), many as u64, "seed {seed}");
                expected.extend(chunk);
            }
            _ => {
                let line = next(expected.len());
                lines.send(&line).await.expect(&why);
                expected.push(line);
            }
        }
    }
    let report = lines.finish().await.expect(&why);
    assert_eq!(store.stored_lines(), expected, "seed {seed}");
    assert_eq!(report.records_sent, expected.len() as u64, "seed {seed}");
    assert_eq!(
        report.records_acknowledged,
        expected.len() as u64,
        "seed {seed}"
    );
    assert_eq!(report.messages, store.stored().len() as u64, "seed {seed}");
    Fired {
        cuts: proxy.cuts(),
        repeated: store.repeated.load(Relaxed),
        report,
    }
}

#[tokio::test]
async fn cut_connections_lose_and_repeat_nothing() {
    let mut all = Fired::default();
    let seeds = seeds(120);
    for seed in &seeds {
        let fired = through_cuts(*seed).await;
        all.cuts += fired.cuts;
        all.repeated += fired.repeated;
        all.report.resends += fired.report.resends;
        all.report.reconnects += fired.report.reconnects;
    }
    if seeds.len() >= 100 {
        // The faults fired: connections were cut, some of them with acknowledgements in flight.
        let enough = seeds.len() as u64 / 10;
        assert!(
            all.cuts > enough && all.report.reconnects > enough,
            "{all:?}"
        );
        assert!(
            all.repeated as u64 > enough && all.report.resends > enough,
            "{all:?}"
        );
    }
}

#[tokio::test]
async fn a_killed_and_restarted_server_has_each_line_once() {
    let store = Store::lines();
    let mut server = Server::start(&store);
    let proxy = Proxy::faithful(server.address).await;
    let client = Client::connect(proxy.address, small()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    let expected: Vec<_> = (0..500).map(|number| format!("line {number}")).collect();
    for (number, line) in expected.iter().enumerate() {
        let before = store.opened.load(Relaxed);
        let kill = number % 100 == 50;
        if kill {
            drop(std::mem::replace(&mut server, Server::start(&store)));
            proxy.retarget(Some(server.address));
        }
        lines.send(line).await.unwrap();
        if kill {
            until("the client is back", || store.opened.load(Relaxed) > before).await;
        }
    }
    let report = lines.finish().await.unwrap();
    assert_eq!(store.stored_lines(), expected);
    assert_eq!(report.reconnects, 5, "{report:?}");
}

#[tokio::test]
async fn a_forgetful_server_gets_everything_unacknowledged() {
    let store = Store::lines();
    let server = Server::start(&store);
    let proxy = Proxy::faithful(server.address).await;
    let client = Client::connect(proxy.address, small()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send("one").await.unwrap();
    lines.flush().await.unwrap();
    store.forgets.store(true, Relaxed);
    proxy.retarget(Some(server.address));
    lines.send("two").await.unwrap();
    let report = lines.finish().await.unwrap();
    assert_eq!(store.stored_lines(), ["one", "two"]);
    assert_eq!(report.reconnects, 1);
}

#[tokio::test]
async fn two_senders_of_one_client_do_not_disturb_each_other() {
    let store = Store::lines();
    let server = Server::start(&store);
    let client = Client::connect(server.address, small()).await.unwrap();
    let mut one = client.lines("lines").await.unwrap();
    let mut other = client.lines("lines").await.unwrap();
    assert_ne!(one.producer(), other.producer());
    assert_eq!((one.stream(), other.stream()), ("lines", "lines"));
    for number in 0..100 {
        one.send(&format!("one {number}")).await.unwrap();
        other.send(&format!("other {number}")).await.unwrap();
    }
    one.finish().await.unwrap();
    other.finish().await.unwrap();
    let stored = store.stored_lines();
    for name in ["one", "other"] {
        let expected: Vec<_> = (0..100).map(|number| format!("{name} {number}")).collect();
        let prefix = format!("{name} ");
        let got: Vec<_> = stored
            .iter()
            .filter(|line| line.starts_with(&prefix))
            .collect();
        assert_eq!(got, expected.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_report_counts_messages_and_their_bytes() {
    let server = Server::start(&Store::lines());
    let client = Client::connect(server.address, small()).await.unwrap();
    let sent = async |flushes: u64| {
        let mut lines = client.lines("lines").await.unwrap();
        for _ in 0..flushes {
            lines
                .send("a line of thirty-two characters.")
                .await
                .unwrap();
            lines.flush().await.unwrap();
        }
        let report = lines.finish().await.unwrap();
        assert_eq!(report.messages, flushes, "{report:?}");
        report.bytes
    };
    let (three, six) = (sent(3).await, sent(6).await);
    // Beside the text, a message has a header and offsets.
    assert!((3 * 32..3 * 1_000).contains(&three), "{three}");
    assert_eq!(six, 2 * three);
}

/// The time for an acknowledgement begins with the message that waits for it.
#[tokio::test]
async fn a_sender_that_rests_for_long_keeps_its_connection() {
    let store = Store::lines();
    let server = Server::start(&store);
    let mut options = small();
    options.ack_timeout = Duration::from_secs(1);
    let client = Client::connect(server.address, options).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send("one").await.unwrap();
    lines.flush().await.unwrap();
    // Nothing happens meanwhile.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    lines.send("two").await.unwrap();
    let report = lines.finish().await.unwrap();
    assert_eq!((report.reconnects, report.resends), (0, 0), "{report:?}");
    assert_eq!(store.stored_lines(), ["one", "two"]);
}
