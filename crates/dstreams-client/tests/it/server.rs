//! A server of the protocol, as `protocol.rs` defines it, that keeps everything in memory.
//!
//! It runs on a runtime of its own, so that dropping it is as sudden as a kill; what it stored stays in the
//! [`Store`], with which another can be started. It can be told to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::utils::flight_data_to_arrow_batch;
use arrow_flight::*;
use dstreams_client::arrow::array::{AsArray, RecordBatch};
use dstreams_client::arrow::datatypes::{Schema, SchemaRef};
use dstreams_client::protocol::{
    self, Answer, Offer, Opening, Sequence, VERSION_HEADER, parse_batch_metadata,
};
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server as Grpc;
use tonic::{Request, Response, Result, Status, Streaming};

type Shared<T> = Arc<tokio::sync::Mutex<T>>;

/// What outlives a server, and what a test looks at and turns.
pub struct Store {
    streams: BTreeMap<String, SchemaRef>,
    stored: Mutex<Vec<RecordBatch>>,
    producers: Mutex<HashMap<(String, String), Shared<Producer>>>,
    /// Batches read from the wire, repetitions included.
    pub received: AtomicUsize,
    /// Bytes of their data.
    pub received_bytes: AtomicUsize,
    /// Repetitions recognised.
    pub repeated: AtomicUsize,
    /// Calls opened.
    pub opened: AtomicU64,
    /// Calls that came to their end, or whose connection broke.
    pub ended: AtomicU64,
    /// Acknowledgements are held back while false.
    pub acknowledging: watch::Sender<bool>,
    /// Instead of acknowledgements held back, says that it is alive.
    pub says_alive: AtomicBool,
    /// Forgets all numbers when a call opens.
    pub forgets: AtomicBool,
    /// Opens each call with `{"ack":0}`, which is true of any number of batches taken.
    pub modest: AtomicBool,
    /// Answers this instead of the first acknowledgement.
    pub babbles: Mutex<Option<&'static str>>,
    /// The largest message it reads, in bytes.
    pub largest_message: AtomicUsize,
}

#[derive(Default)]
struct Producer {
    sequence: Sequence,
    /// Counts the calls of this producer: only the newest may store.
    epoch: u64,
}

impl Store {
    pub fn new(streams: impl IntoIterator<Item = (&'static str, SchemaRef)>) -> Arc<Self> {
        let streams = streams
            .into_iter()
            .map(|(name, schema)| (name.to_string(), schema));
        Arc::new(Self {
            streams: streams.collect(),
            stored: Mutex::default(),
            producers: Mutex::default(),
            received: AtomicUsize::default(),
            received_bytes: AtomicUsize::default(),
            repeated: AtomicUsize::default(),
            opened: AtomicU64::default(),
            ended: AtomicU64::default(),
            acknowledging: watch::Sender::new(true),
            says_alive: AtomicBool::default(),
            forgets: AtomicBool::default(),
            modest: AtomicBool::default(),
            babbles: Mutex::default(),
            largest_message: AtomicUsize::new(4 << 20),
        })
    }

    /// One stream, "lines".
    pub fn lines() -> Arc<Self> {
        Self::new([("lines", protocol::lines_schema())])
    }

    pub fn stored(&self) -> Vec<RecordBatch> {
        self.stored.lock().unwrap().clone()
    }

    pub fn stored_lines(&self) -> Vec<String> {
        let lines = |batch: &RecordBatch| -> Vec<String> {
            let column = batch.column(0).as_string::<i32>();
            column
                .iter()
                .map(|line| line.unwrap().to_string())
                .collect()
        };
        self.stored.lock().unwrap().iter().flat_map(lines).collect()
    }

    fn producer(&self, opening: &Opening) -> Shared<Producer> {
        match &opening.producer {
            None => Arc::default(),
            Some(name) => {
                let key = (opening.stream.clone(), name.clone());
                Arc::clone(self.producers.lock().unwrap().entry(key).or_default())
            }
        }
    }

    fn schema_of(&self, opening: &Opening) -> Result<&SchemaRef> {
        let known: Vec<_> = self.streams.keys().map(String::as_str).collect();
        let unknown = || {
            format!(
                "no stream {:?}, there are: {}",
                opening.stream,
                known.join(", ")
            )
        };
        self.streams
            .get(&opening.stream)
            .ok_or_else(|| Status::not_found(unknown()))
    }
}

pub struct Server {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    pub fn start(store: &Arc<Store>) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let service = FlightServiceServer::new(Service(Arc::clone(store)))
            .max_decoding_message_size(store.largest_message.load(Relaxed));
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            Grpc::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

struct Service(Arc<Store>);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

impl Service {
    async fn open(&self, request: Request<Streaming<FlightData>>) -> Result<Boxed<PutResult>> {
        let store = Arc::clone(&self.0);
        let version = request.metadata().get(VERSION_HEADER);
        if version.is_some_and(|version| version.as_bytes() != b"1") {
            return Err(Status::failed_precondition(format!(
                "version {version:?}, 1 is spoken"
            )));
        }
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await?
            .ok_or_else(|| Status::cancelled("no message"))?;
        let opening = Opening::parse(first.flight_descriptor.as_ref())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let expected = store.schema_of(&opening)?;
        let got = Schema::try_from(&first).unwrap();
        if **expected != got {
            let text = format!("expected {:?}, got {:?}", expected.fields(), got.fields());
            return Err(Status::invalid_argument(text));
        }
        store.opened.fetch_add(1, Relaxed);
        let producer = store.producer(&opening);
        let (epoch, last) = {
            let mut producer = producer.lock().await;
            if store.forgets.load(Relaxed) {
                producer.sequence = Sequence::default();
            }
            producer.epoch += 1;
            (producer.epoch, producer.sequence.last())
        };
        let (answers, answered) = mpsc::channel(1000);
        let first = match *store.babbles.lock().unwrap() {
            Some(text) => PutResult {
                app_metadata: text.into(),
            },
            None if store.modest.load(Relaxed) => Answer::Ack(0).to_put_result(),
            None => Answer::Ack(last).to_put_result(),
        };
        let schema = Arc::clone(expected);
        tokio::spawn(async move {
            let _ = answers.send(Ok(first)).await;
            let end = receive(&store, &schema, &producer, epoch, messages, &answers).await;
            store.ended.fetch_add(1, Relaxed);
            if let Err(status) = end {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(ReceiverStream::new(answered).boxed())
    }
}

async fn receive(
    store: &Arc<Store>,
    schema: &SchemaRef,
    producer: &tokio::sync::Mutex<Producer>,
    epoch: u64,
    mut messages: Streaming<FlightData>,
    answers: &mpsc::Sender<Result<PutResult>>,
) -> Result<()> {
    let mut held = Vec::new();
    let mut gate = store.acknowledging.subscribe();
    loop {
        let open = *gate.borrow_and_update();
        if open {
            for ack in held.drain(..) {
                let _ = answers.send(Ok(Answer::Ack(ack).to_put_result())).await;
            }
        }
        let alive = tokio::time::sleep(std::time::Duration::from_millis(5));
        tokio::select! {
            message = messages.message() => {
                let Some(message) = message? else { break };
                store.received.fetch_add(1, Relaxed);
                store.received_bytes.fetch_add(message.data_body.len(), Relaxed);
                held.push(take(store, schema, producer, epoch, &message).await?);
            }
            _ = gate.changed() => {}
            () = alive, if !open && store.says_alive.load(Relaxed) => {
                let _ = answers.send(Ok(Answer::Alive.to_put_result())).await;
            }
        }
    }
    for ack in held {
        let _ = answers.send(Ok(Answer::Ack(ack).to_put_result())).await;
    }
    Ok(())
}

async fn take(
    store: &Store,
    schema: &SchemaRef,
    producer: &tokio::sync::Mutex<Producer>,
    epoch: u64,
    message: &FlightData,
) -> Result<u64> {
    let seq = parse_batch_metadata(&message.app_metadata)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let batch = flight_data_to_arrow_batch(message, Arc::clone(schema), &HashMap::new()).unwrap();
    let mut producer = producer.lock().await;
    if producer.epoch != epoch {
        return Err(Status::aborted("a newer connection took over"));
    }
    match producer.sequence.offer(seq) {
        Offer::Next(seq) => {
            store.stored.lock().unwrap().push(batch);
            producer.sequence.taken(seq);
        }
        Offer::Repeated => {
            store.repeated.fetch_add(1, Relaxed);
        }
        Offer::Gap { expected } => {
            return Err(Status::out_of_range(format!(
                "expected {expected}, got {seq:?}"
            )));
        }
    }
    Ok(producer.sequence.last())
}

fn unused<T>() -> Result<T> {
    Err(Status::unimplemented("only DoPut"))
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = Boxed<HandshakeResponse>;
    type ListFlightsStream = Boxed<FlightInfo>;
    type DoGetStream = Boxed<FlightData>;
    type DoPutStream = Boxed<PutResult>;
    type DoExchangeStream = Boxed<FlightData>;
    type DoActionStream = Boxed<arrow_flight::Result>;
    type ListActionsStream = Boxed<ActionType>;

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>> {
        self.open(request).await.map(Response::new)
    }
    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>> {
        unused()
    }
    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>> {
        unused()
    }
    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>> {
        unused()
    }
    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>> {
        unused()
    }
    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>> {
        unused()
    }
    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>> {
        unused()
    }
    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>> {
        unused()
    }
    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>> {
        unused()
    }
    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>> {
        unused()
    }
}
