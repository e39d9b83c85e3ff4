//! The server against the client library, and against hand-made calls where the library is too well behaved.

#![allow(clippy::unwrap_used, clippy::panic)]

mod claims;
mod cuts;
mod strangers;

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, PutResult, SchemaAsIpc};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int64Array, LargeStringArray, RecordBatch,
    StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use dstreams_client::protocol::{Answer, Opening, VERSION_HEADER, batch_metadata};
use dstreams_client::{Client, Error as ClientError, Options};
use dstreams_control::ReceiverId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::*;
use crate::blocks::Budget;
use crate::config::Config;
use crate::receive::{DeadLetters, Intake};
use crate::stream::record::{Record, check_rows};

/// A server with its streams, and their intakes.
struct Served {
    clients: Clients,
    address: SocketAddr,
    streams: BTreeMap<&'static str, Arc<Intake>>,
    closing: StopSignal,
    runs: Vec<JoinHandle<Result<(), BoxError>>>,
}

impl Served {
    async fn start(streams: &[(&'static str, SchemaRef)], memory: usize) -> Self {
        Self::of(&Clients::listen("127.0.0.1:0"), streams, memory).await
    }

    async fn of(clients: &Clients, streams: &[(&'static str, SchemaRef)], memory: usize) -> Self {
        let mut config = Config::new(Duration::from_secs(1));
        config.block_bytes = 1000;
        let closing = StopSignal::default();
        let mut served = Served {
            clients: clients.clone(),
            address: "127.0.0.1:0".parse().unwrap(),
            streams: BTreeMap::new(),
            closing: closing.clone(),
            runs: Vec::new(),
        };
        let sources = streams
            .iter()
            .map(|(name, schema)| clients.stream(name, schema.clone(), |_| Ok(())));
        for (mut source, (name, schema)) in sources.collect::<Vec<_>>().into_iter().zip(streams) {
            let budget = Budget::new(memory);
            let dead = DeadLetters::default();
            let intake = Intake::new(ReceiverId(0), name, schema.clone(), &config, budget, dead);
            let intake = Arc::new(intake);
            served.streams.insert(name, Arc::clone(&intake));
            served.address = source.open().await.unwrap().unwrap();
            let run = Box::new(source).run(Ingest(intake), closing.clone());
            served.runs.push(tokio::spawn(run));
        }
        served
    }

    async fn lines() -> Self {
        Self::start(&[("lines", String::schema())], 1 << 20).await
    }

    /// The records that a stream received since the last call, sealed.
    fn taken(&self, stream: &str) -> Vec<RecordBatch> {
        let blocks = self.streams[stream].seal(false);
        blocks
            .iter()
            .flat_map(|block| block.batches.clone())
            .collect()
    }

    fn taken_lines(&self) -> Vec<String> {
        let lines = |batch: &RecordBatch| -> Vec<String> {
            let column = batch.column(0).as_string_view();
            column.iter().map(|line| line.unwrap().to_owned()).collect()
        };
        self.taken("lines").iter().flat_map(lines).collect()
    }

    async fn client(&self) -> Client {
        let mut options = Options::default();
        options.retry.tries = 3;
        options.retry.first_pause = Duration::from_millis(1);
        Client::connect(self.address, options).await.unwrap()
    }
}

async fn flight(served: &Served) -> FlightServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", served.address)).unwrap();
    FlightServiceClient::new(endpoint.connect().await.unwrap())
}

/// A call made by hand.
struct Hand {
    messages: mpsc::Sender<FlightData>,
    answers: Streaming<PutResult>,
}

fn lines_schema() -> Schema {
    Schema::new(vec![Field::new("value", DataType::Utf8, true)])
}

fn message(schema: &Schema, columns: Vec<ArrayRef>) -> FlightData {
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
    let mut messages = arrow_flight::utils::batches_to_flight_data(schema, vec![batch]).unwrap();
    messages.pop().unwrap()
}

fn line(text: &str, seq: Option<u64>) -> FlightData {
    let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
    FlightData {
        app_metadata: seq.map(batch_metadata).unwrap_or_default(),
        ..message(&lines_schema(), vec![column])
    }
}

impl Hand {
    async fn call(
        served: &Served,
        producer: Option<&str>,
        schema: &Schema,
    ) -> Result<Self, Status> {
        let opening = Opening {
            stream: "lines".into(),
            producer: producer.map(str::to_owned),
        };
        let mut first: FlightData = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into();
        first.flight_descriptor = Some(opening.descriptor());
        let (messages, sent) = mpsc::channel(100);
        messages.send(first).await.unwrap();
        let mut client = flight(served).await;
        let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
        let answers = client.do_put(sent).await?.into_inner();
        Ok(Hand { messages, answers })
    }

    async fn lines(served: &Served, producer: Option<&str>) -> Self {
        Self::call(served, producer, &lines_schema()).await.unwrap()
    }

    async fn send(&self, message: FlightData) {
        self.messages.send(message).await.unwrap();
    }

    async fn next_ack(&mut self) -> u64 {
        loop {
            let answer = soon(self.answers.message()).await.unwrap().unwrap();
            if let Answer::Ack(ack) = Answer::parse(&answer).unwrap() {
                return ack;
            }
        }
    }

    /// Waits for the acknowledgement of `seq`.
    async fn acknowledged(&mut self, seq: u64) {
        let mut last = 0;
        while last < seq {
            last = self.next_ack().await;
        }
        assert_eq!(last, seq);
    }

    async fn refused(&mut self) -> Status {
        loop {
            match soon(self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a refusal"),
                Err(status) => return status,
            }
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), future).await;
    waited.unwrap_or_else(|_| panic!("no answer within 20 s"))
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
    assert!(waited.is_ok(), "timed out waiting until {what}");
}

#[tokio::test]
async fn one_server_takes_lines_and_rows_of_several_streams() {
    let pair = <(String, i64)>::schema();
    let streams = [("lines", String::schema()), ("pairs", pair)];
    let served = Served::start(&streams, 1 << 20).await;
    let client = served.client().await;
    let mut lines = client.lines("lines").await.unwrap();
    let text = (0..100)
        .map(|n| format!("a line that is not inlined {n}\n"))
        .collect::<String>();
    lines.send_text(text.as_bytes()).await.unwrap();
    lines.send("short").await.unwrap();

    let key: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b"]));
    let value: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let pairs = RecordBatch::try_from_iter([("key", key), ("value", value)]).unwrap();
    let mut rows = client.batches("pairs", pairs.schema()).await.unwrap();
    rows.send(pairs).await.unwrap();

    assert_eq!(lines.finish().await.unwrap().records_acknowledged, 101);
    assert_eq!(rows.finish().await.unwrap().records_acknowledged, 2);
    let expected: Vec<_> = text.lines().chain(["short"]).map(str::to_owned).collect();
    assert_eq!(served.taken_lines(), expected);
    let pairs = served.taken("pairs");
    assert_eq!(pairs[0].schema(), <(String, i64)>::schema());
    assert_eq!(pairs[0].column(0).as_string_view().value(1), "b");
    assert_eq!(
        pairs[0].column(1).as_primitive::<Int64Type>().values(),
        &[1, 2]
    );
}

#[tokio::test]
async fn a_repeated_batch_is_acknowledged_again_and_not_stored_twice() {
    let served = Served::lines().await;
    let mut one = Hand::lines(&served, Some("p")).await;
    assert_eq!(one.next_ack().await, 0);
    one.send(line("one", Some(1))).await;
    one.acknowledged(1).await;
    drop(one);
    let mut two = Hand::lines(&served, Some("p")).await;
    assert_eq!(two.next_ack().await, 1);
    two.send(line("one", Some(1))).await;
    assert_eq!(two.next_ack().await, 1);
    two.send(line("two", Some(2))).await;
    assert_eq!(two.next_ack().await, 2);
    assert_eq!(served.taken_lines(), ["one", "two"]);

    // Another producer has numbers of its own; one without a name, or without numbers, works too.
    let mut other = Hand::lines(&served, Some("q")).await;
    assert_eq!(other.next_ack().await, 0);
    other.send(line("three", None)).await;
    other.acknowledged(1).await;
    let mut naive = Hand::lines(&served, None).await;
    naive.send(line("four", None)).await;
    naive.send(line("four", None)).await;
    naive.acknowledged(2).await;
    assert_eq!(served.taken_lines(), ["three", "four", "four"]);
}

/// The connection breaks while its batch waits for memory: the next one must learn the outcome.
#[tokio::test]
async fn a_new_connection_waits_for_what_the_old_one_still_stores() {
    let served = Served::start(&[("lines", String::schema())], 1000).await;
    let intake = Arc::clone(&served.streams["lines"]);
    let full = intake.budget.take(1000).await;
    let mut old = Hand::lines(&served, Some("p")).await;
    old.send(line("one", Some(1))).await;
    let producer = served.clients.shared.streams()["lines"]
        .producers
        .get(Some("p"));
    until("the batch waits for memory", || {
        producer.try_lock().is_err()
    })
    .await;
    let mut new = Hand::lines(&served, Some("p")).await;
    drop(full);
    assert_eq!(new.next_ack().await, 1);
    new.send(line("one", Some(1))).await;
    new.send(line("two", Some(2))).await;
    new.acknowledged(2).await;
    assert_eq!(served.taken_lines(), ["one", "two"]);
    // The old one must not continue.
    let _ = old.messages.send(line("three", Some(2))).await;
    assert_eq!(old.refused().await.code(), Code::Aborted);
    assert!(served.taken_lines().is_empty());
}

#[tokio::test]
async fn full_memory_blocks_the_client_until_there_is_room() {
    let served = Served::start(&[("lines", String::schema())], 20_000).await;
    let client = served.client().await;
    let mut lines = client.lines("lines").await.unwrap();
    let text = "x".repeat(999) + "\n";
    let producing = tokio::spawn(async move {
        for _ in 0..200 {
            lines.send_text(text.as_bytes()).await.unwrap();
            lines.flush().await.unwrap();
        }
        lines.finish().await.unwrap()
    });
    let mut rows = 0;
    let mut most = 0;
    while !producing.is_finished() || rows < 200 {
        until("something comes in", || {
            served.streams["lines"].budget.used() > 15_000 || producing.is_finished()
        })
        .await;
        most = most.max(served.streams["lines"].budget.used());
        rows += served.taken_lines().len();
    }
    assert_eq!(rows, 200);
    assert!((15_000..=20_000).contains(&most), "{most}");
    assert_eq!(producing.await.unwrap().records_acknowledged, 200);
}

#[tokio::test]
async fn unknown_streams_and_wrong_columns_are_refused_with_the_expected_ones() {
    let pair = <(String, i64)>::schema();
    let served = Served::start(&[("lines", String::schema()), ("pairs", pair)], 1 << 20).await;
    let client = served.client().await;
    let error = client.lines("lnes").await.unwrap_err();
    let ClientError::Rejected { code, message, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*code, Code::NotFound);
    assert!(message.contains("`lines`, `pairs`"), "{message}");

    let error = client.lines("pairs").await.unwrap_err();
    let ClientError::Rejected { code, message, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*code, Code::InvalidArgument);
    assert!(message.contains("key: Utf8View, value: Int64"), "{message}");
    assert!(message.contains("(value: Utf8)"), "{message}");

    let renamed = Schema::new(vec![Field::new("line", DataType::Utf8, false)]);
    let refused = Hand::call(&served, None, &renamed).await.err().unwrap();
    assert!(
        refused.message().contains("got (line: Utf8)"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn bad_batches_end_their_call_and_nothing_else() {
    let served = Served::lines().await;
    let mut good = Hand::lines(&served, Some("good")).await;
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let mut garbage = line("garbage", Some(1));
    garbage.data_body = garbage.data_body.slice(0..1);
    let mut not_utf8 = line("\u{e9}", Some(1));
    let mut body = not_utf8.data_body.to_vec();
    body.iter_mut()
        .filter(|byte| **byte == 0xc3)
        .for_each(|byte| *byte = 0xff);
    not_utf8.data_body = body.into();
    let schema_again = SchemaAsIpc::new(&lines_schema(), &IpcWriteOptions::default()).into();
    let cases = [
        (
            message(&lines_schema(), vec![nulls]),
            Code::InvalidArgument,
            "null",
        ),
        (
            line("a gap", Some(7)),
            Code::OutOfRange,
            "expected number 2, got 7",
        ),
        (garbage, Code::InvalidArgument, "cannot be read"),
        (not_utf8, Code::InvalidArgument, "cannot be read"),
        (schema_again, Code::InvalidArgument, "cannot change"),
    ];
    for (number, (bad, code, text)) in cases.into_iter().enumerate() {
        let mut hand = Hand::lines(&served, Some(&number.to_string())).await;
        hand.send(line("before", Some(1))).await;
        hand.acknowledged(1).await;
        hand.send(FlightData {
            app_metadata: match bad.app_metadata.is_empty() || code == Code::OutOfRange {
                true => bad.app_metadata.clone(),
                false => batch_metadata(2),
            },
            ..bad
        })
        .await;
        let status = hand.refused().await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(
            status.message().contains(text),
            "{} lacks {text}",
            status.message()
        );
        assert_eq!(served.taken_lines(), ["before"]);
    }
    good.send(line("good", Some(1))).await;
    good.acknowledged(1).await;
    assert_eq!(served.taken_lines(), ["good"]);
}

#[tokio::test]
async fn dictionaries_and_other_protocols_are_refused() {
    let served = Served::lines().await;
    let words: DictionaryArray<Int32Type> = ["a"].into_iter().collect();
    let dictionary = Schema::new(vec![Field::new("value", words.data_type().clone(), false)]);
    let refused = Hand::call(&served, None, &dictionary).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("Dictionary"),
        "{}",
        refused.message()
    );

    let mut client = flight(&served).await;
    let mut request = Request::new(tokio_stream::empty::<FlightData>());
    request.metadata_mut().insert(VERSION_HEADER, 2.into());
    let refused = client.do_put(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("version 1"),
        "{}",
        refused.message()
    );

    let clients = Clients::listen("127.0.0.1:0").max_message_bytes(1000);
    let served = Served::of(&clients, &[("lines", String::schema())], 1 << 20).await;
    let mut hand = Hand::lines(&served, None).await;
    hand.send(line(&"x".repeat(2000), None)).await;
    assert_eq!(hand.refused().await.code(), Code::OutOfRange);
}

#[tokio::test]
async fn closing_ends_the_calls_keeps_what_was_acknowledged_and_frees_the_address() {
    let pair = <(String, i64)>::schema();
    let streams = [("lines", String::schema()), ("pairs", pair)];
    let mut served = Served::start(&streams, 1 << 20).await;
    let mut hand = Hand::lines(&served, Some("p")).await;
    hand.send(line("one", Some(1))).await;
    hand.acknowledged(1).await;
    served.closing.request();
    let status = hand.refused().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    drop(hand);
    for run in served.runs.drain(..) {
        run.await.unwrap().unwrap();
    }
    assert_eq!(served.taken_lines(), ["one"]);
    until("the address is free", || {
        std::net::TcpListener::bind(served.address).is_ok()
    })
    .await;
}

#[tokio::test]
async fn two_streams_of_one_name_and_addresses_in_use_fail_the_start() {
    let clients = Clients::listen("127.0.0.1:0");
    let mut first = clients.stream("lines", String::schema(), check_rows::<String>);
    let mut second = clients.stream("lines", String::schema(), check_rows::<String>);
    assert!(
        first
            .open()
            .await
            .unwrap_err()
            .to_string()
            .contains("there are two")
    );
    let address = second.open().await.unwrap().unwrap();
    let mut taken = Clients::listen(&address.to_string()).stream(
        "lines",
        String::schema(),
        check_rows::<String>,
    );
    let error = taken.open().await.unwrap_err().to_string();
    assert!(error.contains("cannot listen on"), "{error}");
}
