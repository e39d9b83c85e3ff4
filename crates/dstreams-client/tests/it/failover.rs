//! Workers die, refuse and come back, and so does the master: nothing acknowledged is lost, nothing is stored
//! twice, and the error of giving up lists what was tried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dstreams_client::{Client, Error, LineSender, Options, Outcome};
use tonic::Code;

use crate::endings::{no_one, three_tries};
use crate::master::Directory;
use crate::proxy::Proxy;
use crate::seed::{Random, seeds};
use crate::server::{Server, Store};
use crate::{patient, small, until};

/// The workers, the one with the only call first.
fn busy_first(mut workers: Vec<Server>) -> Vec<Server> {
    workers.sort_by_key(|worker| worker.local.opened.load(Relaxed) == 0);
    workers
}

fn addresses(workers: &[Server]) -> Vec<SocketAddr> {
    workers.iter().map(|worker| worker.address).collect()
}

/// Two workers with a shared store, their master, and a sender.
async fn two_workers(options: Options) -> (Arc<Store>, Vec<Server>, Arc<Directory>, LineSender) {
    let store = Store::lines();
    let workers = vec![Server::start(&store), Server::start(&store)];
    let directory = Directory::lines(addresses(&workers));
    let master = Server::master(&directory);
    let client = Client::connect(master.address, options).await.unwrap();
    let lines = client.lines("lines").await.unwrap();
    let mut workers = busy_first(workers);
    workers.push(master);
    (store, workers, directory, lines)
}

#[tokio::test]
async fn after_a_worker_dies_the_other_gets_only_the_rest() {
    let (store, mut servers, directory, mut lines) = two_workers(small()).await;
    store.acknowledging.send_replace(false);
    for _ in 0..28 {
        lines.send("stored").await.unwrap();
    }
    until("four messages are stored", || {
        store.stored_lines().len() == 28
    })
    .await;
    assert_eq!(lines.acknowledged(), 0);
    drop(servers.remove(0)); // the master does not know yet that it is gone
    until("the other one is asked", || store.opened.load(Relaxed) == 2).await;
    // Its first answer says that they are safe, though it acknowledges nothing new.
    until("they are acknowledged", || lines.acknowledged() == 28).await;
    store.acknowledging.send_replace(true);
    lines.send("rest").await.unwrap();
    let report = lines.finish().await.unwrap();
    assert_eq!((report.reconnects, report.resends), (1, 0), "{report:?}");
    assert_eq!(store.repeated.load(Relaxed), 0);
    assert_eq!(store.stored_lines().len(), 29);
    assert_eq!(directory.asked(), 2);
}

#[tokio::test]
async fn a_batch_lost_with_its_worker_is_sent_to_the_other() {
    let (store, mut servers, _directory, mut lines) = two_workers(small()).await;
    lines.send("safe").await.unwrap();
    lines.flush().await.unwrap();
    store.replicates_in.store(20_000_000, Relaxed);
    for _ in 0..7 {
        lines.send("lost").await.unwrap();
    }
    until("the worker has it", || store.received.load(Relaxed) == 2).await;
    store.replicates_in.store(0, Relaxed);
    drop(servers.remove(0));
    let report = lines.finish().await.unwrap();
    assert_eq!(report.resends, 1, "{report:?}");
    assert_eq!(store.stored_lines().len(), 8);
    assert_eq!(store.repeated.load(Relaxed), 0);
}

#[tokio::test]
async fn an_unavailable_worker_is_left_for_the_next() {
    let store = Store::lines();
    let (one, other) = (Server::start(&store), Server::start(&store));
    let proxy = Proxy::faithful(other.address).await;
    let directory = Directory::lines([one.address, proxy.address]);
    let master = Server::master(&directory);
    let client = Client::connect(master.address, three_tries())
        .await
        .unwrap();
    one.local.unavailable.store(true, Relaxed);
    let mut senders = Vec::new();
    for _ in 0..10 {
        senders.push(client.lines("lines").await.unwrap());
    }
    assert_eq!(other.local.opened.load(Relaxed), 10);
    assert!(
        directory.asked() > 10,
        "no sender tried the other one first"
    );
    // Now the reverse, with all their connections cut.
    one.local.unavailable.store(false, Relaxed);
    other.local.unavailable.store(true, Relaxed);
    proxy.retarget(Some(other.address));
    for mut lines in senders {
        lines.send("line").await.unwrap();
        lines.finish().await.unwrap();
    }
    assert_eq!(one.local.opened.load(Relaxed), 10);
    assert_eq!(store.stored_lines().len(), 10);
    // No worker takes records: the error says why.
    one.local.unavailable.store(true, Relaxed);
    let error = client.lines("lines").await.unwrap_err();
    assert!(matches!(error, Error::GaveUp { .. }), "{error:?}");
    assert!(
        error.to_string().contains("not the one to talk to"),
        "{error}"
    );
}

#[tokio::test]
async fn a_later_worker_is_found_when_the_known_ones_die() {
    let (store, mut servers, directory, mut lines) = two_workers(small()).await;
    lines.send("one").await.unwrap();
    lines.flush().await.unwrap();
    servers.drain(0..2);
    let late = Server::start(&store);
    directory.names([late.address]);
    lines.send("two").await.unwrap();
    lines.finish().await.unwrap();
    assert_eq!(store.stored_lines(), ["one", "two"]);
    assert_eq!(late.local.opened.load(Relaxed), 1);
}

#[tokio::test]
async fn without_its_master_a_client_uses_known_workers_and_learns_new_ones_later() {
    let store = Store::lines();
    let workers = vec![Server::start(&store), Server::start(&store)];
    let directory = Directory::lines(addresses(&workers));
    let master = Server::master(&directory);
    let away = Proxy::faithful(master.address).await;
    let client = Client::connect(away.address, patient()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    lines.send("one").await.unwrap();
    lines.flush().await.unwrap();
    let mut workers = busy_first(workers);

    away.retarget(None);
    workers.remove(0);
    lines.send("two").await.unwrap();
    lines.flush().await.unwrap();
    assert_eq!(workers[0].local.opened.load(Relaxed), 1);
    assert_eq!(directory.asked(), 1, "the master was away");

    workers.remove(0);
    let late = Server::start(&store);
    directory.names([late.address]);
    lines.send("three").await.unwrap();
    let flushing = tokio::spawn(async move { lines.finish().await });
    until("it looks for the master", || away.connections() > 5).await;
    away.retarget(Some(master.address));
    let report = flushing.await.unwrap().unwrap();
    assert_eq!(report.records_acknowledged, 3);
    assert_eq!(store.stored_lines(), ["one", "two", "three"]);
}

/// A master without an answer counts as one that is away; one that names no worker is believed.
#[tokio::test]
async fn known_workers_are_tried_unless_the_master_names_none() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let proxy = Proxy::faithful(worker.address).await;
    let directory = Directory::lines([proxy.address]);
    let master = Server::master(&directory);
    let client = Client::connect(master.address, three_tries())
        .await
        .unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    *directory.unavailable.lock().unwrap() = Some("restarting");
    proxy.retarget(Some(worker.address));
    lines.send("one").await.unwrap();
    lines.flush().await.unwrap();
    assert!(directory.asked() > 1);
    assert_eq!(worker.local.opened.load(Relaxed), 2);

    *directory.unavailable.lock().unwrap() = None;
    directory.names([""; 0]);
    proxy.retarget(Some(worker.address));
    lines.send("two").await.unwrap();
    let error = lines.finish().await.unwrap_err();
    let Error::GaveUp { cause, tally, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**cause, Error::NoWorker { .. }), "{cause:?}");
    assert_eq!((tally.acknowledged, tally.unacknowledged), (1, 1));
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(worker.local.opened.load(Relaxed), 2);
}

#[tokio::test]
async fn the_error_of_giving_up_lists_the_last_tries() {
    let (store, mut servers, directory, mut lines) = two_workers(three_tries()).await;
    lines.send("safe").await.unwrap();
    lines.flush().await.unwrap();
    let all: Vec<_> = servers.iter().map(|server| server.address).collect();
    servers.clear();
    lines.send("on the way").await.unwrap();
    let error = lines.finish().await.unwrap_err();
    let text = error.to_string();
    for address in all {
        assert!(text.contains(&address.to_string()), "no {address}: {text}");
    }
    let Error::GaveUp { before, tally, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(before.len(), 2, "{before:?}");
    assert_eq!((tally.acknowledged, tally.unacknowledged), (1, 1));
    assert_eq!(store.stored_lines(), ["safe"]);
    assert_eq!(directory.asked(), 1);
}

/// A round tries each worker once, so many dead ones do not use up the bound on rounds.
#[tokio::test]
async fn many_dead_workers_do_not_use_up_the_tries() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let dead: Vec<_> = (0..30).map(|_| no_one()).collect();
    let all = dead.iter().map(|(address, _)| *address);
    let directory = Directory::lines(all.chain([worker.address]));
    let master = Server::master(&directory);
    let client = Client::connect(master.address, three_tries())
        .await
        .unwrap();
    for _ in 0..5 {
        let mut lines = client.lines("lines").await.unwrap();
        lines.send("line").await.unwrap();
        lines.finish().await.unwrap();
    }
    assert_eq!(store.stored_lines().len(), 5);
    assert!(directory.asked() > 5, "none of the dead was tried");
}

/// A worker that lost its cluster's knowledge: the gap is reported, and nothing is skipped.
#[tokio::test]
async fn a_worker_behind_the_acknowledgements_gets_nothing() {
    let (store, mut servers, _directory, mut lines) = two_workers(small()).await;
    for line in ["one", "two", "three"] {
        lines.send(line).await.unwrap();
        lines.flush().await.unwrap();
    }
    store.knows(lines.producer(), 1).await;
    drop(servers.remove(0));
    lines.send("four").await.unwrap();
    let error = lines.finish().await.unwrap_err();
    let Error::Rejected { code, message, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*code, Code::OutOfRange);
    assert!(message.contains("expected 2"), "{message}");
    let tally = error.tally().unwrap();
    assert_eq!((tally.acknowledged, tally.unacknowledged), (3, 1));
    assert_eq!(store.stored_lines(), ["one", "two", "three"]);
}

#[derive(Debug, Default)]
struct Fired {
    cuts: u64,
    kills: u64,
    without_master: u64,
    places: u64,
    repeated: u64,
    /// Batches that a worker received and never stored.
    abandoned: u64,
    resends: u64,
}

/// A worker behind a proxy, so that its address outlives it.
struct Place {
    proxy: Proxy,
    worker: Option<Server>,
    /// Calls opened with earlier workers at this place.
    opened: u64,
}

impl Place {
    fn kill(&mut self) {
        self.opened = self.opened();
        self.worker = None;
        self.proxy.retarget(None);
    }

    fn restart(&mut self, store: &Arc<Store>) {
        let worker = Server::start(store);
        self.proxy.retarget(Some(worker.address));
        self.worker = Some(worker);
    }

    fn opened(&self) -> u64 {
        let now = self.worker.as_ref();
        self.opened + now.map_or(0, |worker| worker.local.opened.load(Relaxed))
    }
}

/// Sends 300 lines to a cluster of three workers that are cut off, killed and restarted, with a master that comes
/// and goes, as chosen by the seed.
async fn through_deaths(seed: u64, fired: &mut Fired) {
    let why = format!("seed {seed}");
    let mut random = Random::new(seed);
    let store = Store::lines();
    store.modest.store(random.below(4) == 0, Relaxed);
    store.replicates_in.store(random.below(2) * 300, Relaxed);
    let mut places = Vec::new();
    for _ in 0..3 {
        let worker = Server::start(&store);
        let proxy = Proxy::cutting(worker.address, &mut random).await;
        places.push(Place {
            proxy,
            worker: Some(worker),
            opened: 0,
        });
    }
    let directory = Directory::lines(places.iter().map(|place| place.proxy.address));
    let master = Server::master(&directory);
    let away = Proxy::faithful(master.address).await;
    let client = Client::connect(away.address, patient()).await.expect(&why);
    let mut lines = client.lines("lines").await.expect(&why);
    let mut expected = Vec::new();
    let mut master_is_away = false;
    while expected.len() < 300 {
        let place = random.below(3) as usize;
        let alive = places.iter().filter(|p| p.worker.is_some()).count();
        match random.below(60) {
            0..3 if alive > 1 && places[place].worker.is_some() => {
                places[place].kill();
                fired.kills += 1;
            }
            3..6 if places[place].worker.is_none() => places[place].restart(&store),
            6 => {
                master_is_away = !master_is_away;
                away.retarget((!master_is_away).then_some(master.address));
            }
            7 => {
                lines.flush().await.expect(&why);
                assert_eq!(store.stored_lines(), expected, "seed {seed}");
            }
            _ => {
                let line = format!("seed {seed} line {}", expected.len());
                lines.send(&line).await.expect(&why);
                expected.push(line);
            }
        }
        fired.without_master += u64::from(master_is_away);
    }
    let report = lines.finish().await.expect(&why);
    assert_eq!(store.stored_lines(), expected, "seed {seed}");
    assert_eq!(report.records_acknowledged, 300, "seed {seed}");
    assert_eq!(report.messages, store.stored().len() as u64, "seed {seed}");
    fired.places += places.iter().filter(|place| place.opened() > 0).count() as u64;
    fired.cuts += places.iter().map(|place| place.proxy.cuts()).sum::<u64>();
    let repeated = store.repeated.load(Relaxed);
    fired.repeated += repeated as u64;
    let abandoned = store.received.load(Relaxed) - repeated - store.stored().len();
    fired.abandoned += abandoned as u64;
    fired.resends += report.resends;
}

#[tokio::test]
async fn dying_workers_lose_and_repeat_nothing() {
    let mut fired = Fired::default();
    let seeds = seeds(60);
    for seed in &seeds {
        through_deaths(*seed, &mut fired).await;
    }
    if seeds.len() >= 50 {
        // The faults fired, and each kind of recovery was needed.
        let Fired {
            cuts,
            kills,
            without_master,
            places,
            repeated,
            abandoned,
            resends,
        } = fired;
        let seeds = seeds.len() as u64;
        assert!(places > 2 * seeds, "most use all three workers: {places}");
        let counts = [cuts, kills, without_master, repeated, abandoned, resends];
        assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
    }
}

/// Records reported as safe are safe, even if the client gives up because the whole cluster dies.
#[tokio::test]
async fn acknowledged_records_are_stored_when_the_whole_cluster_dies() {
    for seed in seeds(20) {
        let (store, mut servers, _directory, mut lines) = two_workers(three_tries()).await;
        let mut random = Random::new(seed);
        store.replicates_in.store(random.below(500), Relaxed);
        let dies_at = 20 + random.below(200) as usize;
        let all: Vec<_> = (0..300).map(|number| format!("line {number}")).collect();
        let mut ended = None;
        for (number, line) in all.iter().enumerate() {
            match number {
                number if number == dies_at / 2 => drop(servers.remove(0)),
                number if number == dies_at => servers.clear(),
                _ => {}
            }
            if let Err(error) = lines.send(line).await {
                ended = Some(error);
                break;
            }
        }
        let error = match ended {
            Some(error) => error,
            None => lines.finish().await.unwrap_err(),
        };
        let Error::GaveUp { tally, .. } = error else {
            panic!("seed {seed}: {error:?}")
        };
        let stored = store.stored_lines();
        assert_eq!(stored, all[..stored.len()], "seed {seed}");
        assert!(stored.len() as u64 >= tally.acknowledged, "seed {seed}");
        assert!(tally.unacknowledged > 0, "seed {seed}");
    }
}
