//! A client that is given a master's address finds the workers that take its stream.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use dstreams_client::{Client, Error, Outcome};
use tonic::Code;

use crate::endings::{no_one, three_tries};
use crate::master::Directory;
use crate::server::{Server, Store};
use crate::{patient, small, until};

/// Sends one line to `addresses`; returns whether that succeeded.
async fn one_line(addresses: impl dstreams_client::ToAddresses) -> Result<(), Error> {
    let client = Client::connect(addresses, three_tries()).await?;
    let mut lines = client.lines("lines").await?;
    lines.send("line").await?;
    lines.finish().await.map(|_| ())
}

#[tokio::test]
async fn records_go_to_the_worker_that_the_master_names() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let directory = Directory::lines([worker.address]);
    let master = Server::master(&directory);
    one_line(master.address).await.unwrap();
    assert_eq!(store.stored_lines(), ["line"]);
    assert_eq!(directory.asked(), 1);
}

#[tokio::test]
async fn all_spellings_of_locations_are_read() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let directory = Directory::lines([""; 0]);
    let master = Server::master(&directory);
    for spelling in ["grpc://{}", "grpc+tcp://{}", "http://{}/"] {
        let location = spelling.replace("{}", &worker.address.to_string());
        let others = ["grpc+tls://127.0.0.1:1", location.leak()];
        *directory.locations.lock().unwrap() = Some(others.to_vec());
        one_line(master.address).await.expect(spelling);
    }
    assert_eq!(store.stored_lines().len(), 3);

    let unusable = vec!["grpc+tls://127.0.0.1:1"];
    *directory.locations.lock().unwrap() = Some(unusable);
    let error = one_line(master.address).await.unwrap_err();
    assert!(matches!(&error, Error::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("grpc+tls"), "{error}");
}

#[tokio::test]
async fn masters_and_workers_can_be_given_together() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let (dead, _socket) = no_one();
    let directory = Directory::lines([dead]);
    let master = Server::master(&directory);
    // None of the master's workers is up; the given worker is.
    one_line([master.address, worker.address]).await.unwrap();
    assert!(directory.asked() > 0);
    // The first given master is down.
    let directory = Directory::lines([worker.address]);
    let master = Server::master(&directory);
    one_line([dead, master.address]).await.unwrap();
    assert_eq!(directory.asked(), 1);
    assert_eq!(store.stored_lines().len(), 2);
}

#[tokio::test]
async fn a_master_refuses_an_unknown_stream_without_retries() {
    let store = Store::lines();
    let worker = Server::start(&store);
    let directory = Directory::lines([worker.address]);
    let master = Server::master(&directory);
    let client = Client::connect(master.address, small()).await.unwrap();
    let error = client.lines("lnes").await.unwrap_err();
    let Error::Rejected { code, message, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*code, Code::NotFound);
    assert!(message.contains("there are: lines"), "{message}");
    assert!(!error.is_retryable());
    assert_eq!((directory.asked(), store.opened.load(Relaxed)), (1, 0));
}

#[tokio::test]
async fn a_sender_waits_for_the_first_worker() {
    let store = Store::lines();
    let directory = Directory::lines([""; 0]);
    *directory.unavailable.lock().unwrap() = Some("no worker has registered");
    let master = Server::master(&directory);
    let sending = tokio::spawn(async move {
        let client = Client::connect(master.address, patient()).await?;
        let mut lines = client.lines("lines").await?;
        lines.send("line").await?;
        lines.finish().await.map(|_| master)
    });
    until("it has asked twice", || directory.asked() >= 2).await;
    *directory.unavailable.lock().unwrap() = None;
    let before = directory.asked();
    until("it has heard of none", || directory.asked() >= before + 2).await;
    let worker = Server::start(&store);
    directory.names([worker.address]);
    sending.await.unwrap().unwrap();
    assert_eq!(store.stored_lines(), ["line"]);
}

#[tokio::test]
async fn giving_up_without_a_worker_has_the_masters_text() {
    let directory = Directory::lines([""; 0]);
    let master = Server::master(&directory);
    for (words, expected) in [
        (Some("still starting"), "still starting"),
        (None, "named none"),
    ] {
        *directory.unavailable.lock().unwrap() = words;
        let before = directory.asked();
        let error = one_line(master.address).await.unwrap_err();
        let Error::GaveUp { cause, tries, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(matches!(**cause, Error::NoWorker { .. }), "{cause:?}");
        assert_eq!((*tries, directory.asked() - before), (4, 4));
        let text = error.to_string();
        let wanted = [expected, &master.address.to_string(), "\"lines\""];
        assert!(wanted.iter().all(|part| text.contains(part)), "{text}");
        assert!(error.is_retryable() && error.outcome() == Outcome::Failed);
    }
}

#[tokio::test]
async fn senders_are_spread_over_the_workers() {
    let store = Store::lines();
    let workers: Vec<_> = (0..3).map(|_| Server::start(&store)).collect();
    let directory = Directory::lines(workers.iter().map(|worker| worker.address));
    let master = Server::master(&directory);
    let client = Client::connect(master.address, small()).await.unwrap();
    let mut senders = Vec::new();
    for _ in 0..60 {
        senders.push(client.lines("lines").await.unwrap());
    }
    let opened = |worker: &Server| worker.local.opened.load(Relaxed);
    let spread: Vec<_> = workers.iter().map(opened).collect();
    assert_eq!(spread.iter().sum::<u64>(), 60);
    // By chance in less than one of a million runs.
    assert!(spread.iter().all(|calls| *calls >= 4), "{spread:?}");
    drop((senders, Arc::clone(&store)));
}
