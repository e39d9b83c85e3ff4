//! Malformed input, which no process of ours ever sends, is refused with a reason, and the program keeps
//! running.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, PutResult, SchemaAsIpc, Ticket};
use dstreams_client::arrow::array::{ArrayRef, RecordBatch, StringArray};
use dstreams_client::protocol::{Opening, batch_metadata, lines_schema};
use dstreams_client::{Client, Error, Options};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::ports;
use crate::program::{block_on, soon, until};
use crate::rng::Rng;
use crate::scene::{OTHER, Scene, Setup};

/// The preface of an HTTP/2 connection, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The longest wait for something immediate: shorter than the timeout of idle connections.
const AT_ONCE_TIMEOUT: Duration = Duration::from_secs(4);

/// Sends garbage; returns when the other side has closed the connection.
fn send_garbage(to: SocketAddr, bytes: &[u8]) {
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(AT_ONCE_TIMEOUT)).unwrap();
    // The other side may have closed it already; a reset counts too.
    let _ = socket.write_all(bytes);
    let mut answer = [0; 4096];
    loop {
        match socket.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("{to} keeps a connection of garbage open")
            }
            Err(_) => return,
        }
    }
}

#[test]
fn garbage_on_every_port_closes_only_its_own_connection() {
    block_on(async {
        let scene = Scene::open(Setup::local()).await;
        scene.batches(2).await;
        let before: BTreeSet<_> = scene.status().workers.iter().map(|w| w.id).collect();
        let pids: Vec<_> = scene.workers.iter().map(|worker| worker.pid()).collect();
        let ports = ports::of_cluster(&pids);
        let has = |address: &str| ports.contains(&address.parse().unwrap());
        assert!(has(&scene.master), "{ports:?}");
        assert!(scene.status().workers.iter().all(|w| has(&w.ingest)));
        // Ports of the master and the scheduler, and for each worker its own and two of its executor.
        assert_eq!(ports.len(), 2 + 3 * 3, "{ports:?}");

        let mut random = Rng::new(7);
        let mut noise = |begin: &[u8]| -> Vec<u8> {
            let noise = (0..4096).map(|_| random.next() as u8);
            begin.iter().copied().chain(noise).collect()
        };
        let http = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        for garbage in [noise(b""), http, noise(PREFACE)] {
            for port in ports.clone() {
                let garbage = garbage.clone();
                let sending = tokio::task::spawn_blocking(move || send_garbage(port, &garbage));
                sending.await.unwrap();
            }
        }
        scene.batches(3).await;
        let now: BTreeSet<_> = scene.status().workers.iter().map(|w| w.id).collect();
        assert_eq!(before, now, "nobody was lost");
        scene.close().await;
    });
}

/// Connections of each kind to each port: more than a process has threads, fewer than this process has descriptors.
const SILENT_CONNECTIONS: usize = 15;

#[test]
fn silent_connections_and_partial_handshakes_block_no_one_else() {
    block_on(async {
        let scene = Scene::open(Setup::local()).await;
        scene.batches(2).await;
        let before: BTreeSet<_> = scene.status().workers.iter().map(|w| w.id).collect();
        let pids: Vec<_> = scene.workers.iter().map(|worker| worker.pid()).collect();
        let mut silent = Vec::new();
        for port in ports::of_cluster(&pids) {
            for begin in [&b""[..], &PREFACE[..9], PREFACE] {
                for _ in 0..SILENT_CONNECTIONS {
                    let mut socket = TcpStream::connect(port).unwrap();
                    socket.write_all(begin).unwrap();
                    silent.push(socket);
                }
            }
        }
        scene.batches(3).await;
        let sent = soon("its acknowledgement", send_line(&scene, 1000)).await;
        sent.unwrap();
        let now: BTreeSet<_> = scene.status().workers.iter().map(|w| w.id).collect();
        assert_eq!(before, now, "nobody was lost");
        drop(silent);
        scene.close().await;
    });
}

async fn flight(address: &str) -> FlightServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    FlightServiceClient::new(soon("a connection", channel.connect()).await.unwrap())
}

/// Messages of a call that stays open after them.
fn open_ended(
    messages: Vec<FlightData>,
) -> impl futures::Stream<Item = FlightData> + Send + 'static {
    futures::StreamExt::chain(futures::stream::iter(messages), futures::stream::pending())
}

fn said(text: &str) -> FlightData {
    FlightData {
        app_metadata: text.as_bytes().to_vec().into(),
        ..FlightData::default()
    }
}

/// All that a master answers to these messages, until it closes the link.
async fn link(master: &str, messages: &[&str]) -> String {
    let messages = messages.iter().map(|text| said(text)).collect();
    let exchange = flight(master).await.do_exchange(open_ended(messages)).await;
    let mut answers = exchange.unwrap().into_inner();
    let mut all = String::new();
    while let Some(answer) = soon("an answer", answers.message()).await.unwrap() {
        all.push_str(std::str::from_utf8(&answer.app_metadata).unwrap());
    }
    all
}

async fn put(address: &str, first: FlightData, copy: bool) -> Status {
    let mut request = Request::new(open_ended(vec![first]));
    if copy {
        let value = tonic::metadata::MetadataValue::from_static("1");
        request.metadata_mut().insert("x-dstreams-copy", value);
    }
    let mut client = flight(address).await;
    let answer = soon("an answer", client.do_put(request)).await;
    answer.expect_err("an error")
}

#[test]
fn garbage_in_calls_is_answered_with_the_reason() {
    block_on(async {
        let scene = Scene::open(Setup::local()).await;
        scene.batches(2).await;
        let master = scene.master.clone();
        let worker = scene.status().workers[0].ingest.clone();
        let is = |status: Status, code: Code, text: &str| {
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(text), "{status}");
        };
        for address in [&master, &worker] {
            let got = flight(address).await.do_get(Ticket::new("{garbage")).await;
            is(
                got.unwrap_err(),
                Code::InvalidArgument,
                "not a ticket of this cluster",
            );
        }
        let first = || said("{garbage");
        is(
            put(&master, first(), false).await,
            Code::Unimplemented,
            "this is a master",
        );
        is(
            put(&master, first(), true).await,
            Code::Unimplemented,
            "this is a master",
        );
        is(
            put(&worker, first(), false).await,
            Code::InvalidArgument,
            "descriptor",
        );
        is(
            put(&worker, first(), true).await,
            Code::InvalidArgument,
            "not the header of a copy",
        );
        let mut client = flight(&worker).await;
        let exchange = client.do_exchange(open_ended(vec![first()]));
        is(
            exchange.await.unwrap_err(),
            Code::Unimplemented,
            "not a master",
        );

        let answer = link(&master, &["{garbage"]).await;
        assert!(answer.contains("not a message of this cluster"), "{answer}");
        let answer = link(&master, &["\"Ready\""]).await;
        assert!(
            answer.contains("the first message must be a greeting"),
            "{answer}"
        );
        // With the build and protocol that the master reports, the handshake goes further.
        let hello = |build: &str, version: &str| {
            format!(r#"{{"Hello":{{"version":{version},"build":"{build}","pid":1,"cores":1}}}}"#)
        };
        let answer = link(&master, &[&hello("another", "0")]).await;
        let ours = answer.split("the master build ").nth(1).expect(&answer);
        let (build, version) = ours.split_once(" (protocol ").expect(&answer);
        let version = version.split(')').next().expect(&answer);
        let answer = link(&master, &[&hello(build, version), "{garbage"]).await;
        assert!(answer.contains("Welcome"), "{answer}");
        assert!(answer.contains("not a message of this cluster"), "{answer}");

        scene.batches(3).await;
        assert_eq!(scene.status().workers.len(), 3);
        scene.close().await;
    });
}

/// The largest message that a worker accepts.
const MAX_MESSAGE: usize = 16 << 20;

async fn send_line(scene: &Scene, bytes: usize) -> Result<(), Error> {
    let mut options = Options::default();
    options.max_message_bytes = 2 * MAX_MESSAGE;
    options.window_bytes = 4 * MAX_MESSAGE;
    let client = Client::connect(&scene.master, options).await?;
    let mut lines = client.lines("lines").await?;
    let line = OTHER.to_owned() + &"x".repeat(bytes - OTHER.len());
    lines.send(&line).await?;
    lines.finish().await?;
    Ok(())
}

#[test]
fn a_large_line_arrives_and_a_too_large_one_is_refused() {
    block_on(async {
        let scene = Scene::open(Setup::local()).await;
        scene.batches(2).await;
        let refused = soon("the refusal", send_line(&scene, MAX_MESSAGE)).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
        assert!(
            error.to_string().contains(&MAX_MESSAGE.to_string()),
            "{error}"
        );
        // An accepted line is copied to another worker, in a slightly larger message.
        let bytes = MAX_MESSAGE - 260;
        let sent = soon("its acknowledgement", send_line(&scene, bytes)).await;
        sent.unwrap();
        let has = |line: &String| line.len() == bytes;
        until("its batch", || scene.others().iter().any(has)).await;
        scene.batches(1).await;
        scene.close().await;
    });
}

/// More messages than acknowledgements fit into the flow-control window, if all were queued.
const UNREAD_MESSAGES: u64 = 5_000;

/// Opens a raw call that sends numbered lines; the caller may read the answers.
async fn unread(worker: &str) -> Streaming<PutResult> {
    let schema = lines_schema();
    let opening = Opening {
        stream: "lines".into(),
        producer: Some("deaf".into()),
    };
    let mut first: FlightData = SchemaAsIpc::new(&schema, &Default::default()).into();
    first.flight_descriptor = Some(opening.descriptor());
    let line = move |seq: u64| {
        let text = StringArray::from(vec![format!("{OTHER} {seq}")]);
        let columns: Vec<ArrayRef> = vec![std::sync::Arc::new(text)];
        let batch = RecordBatch::try_new(lines_schema(), columns).unwrap();
        let messages = arrow_flight::utils::batches_to_flight_data(&schema, vec![batch]);
        let mut message = messages.unwrap().pop().unwrap();
        message.app_metadata = batch_metadata(seq);
        message
    };
    let messages = std::iter::once(first).chain((1..=UNREAD_MESSAGES).map(line));
    let messages =
        futures::StreamExt::chain(futures::stream::iter(messages), futures::stream::pending());
    flight(worker)
        .await
        .do_put(messages)
        .await
        .unwrap()
        .into_inner()
}

#[test]
fn a_client_that_reads_no_acknowledgements_blocks_no_other() {
    block_on(async {
        let mut setup = Setup::local();
        setup.aimed = true;
        let scene = Scene::open(setup).await;
        scene.batches(2).await;
        let pid = scene.workers[0].pid();
        let of = |status: dstreams_cluster::ClusterStatus| {
            let mut workers = status.workers.into_iter();
            workers.find(|worker| worker.pid == pid).unwrap()
        };
        // It sends to the same worker as the other client.
        let answers = unread(&of(scene.status()).ingest).await;
        until("all its lines", || {
            scene.others().len() as u64 == UNREAD_MESSAGES
        })
        .await;
        scene.acknowledged(50).await;
        drop(answers);
        let all: BTreeSet<_> = scene.others().into_iter().collect();
        assert_eq!(all.len() as u64, UNREAD_MESSAGES, "each line once");
        scene.close().await;
    });
}
