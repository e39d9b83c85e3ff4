//! Servers of the protocol, as `protocol.rs` defines it, that store everything in memory.
//!
//! Each runs on a runtime of its own, so that dropping it is as sudden as a kill; its records stay in the
//! [`Store`], with which another can be started. Several servers with one store are a cluster of workers: each
//! knows what is safe of a producer, and a batch that a worker had not stored yet dies with it. A server with a
//! [`Directory`] is a master. All can be made to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::utils::flight_data_to_arrow_batch;
use arrow_flight::*;
use dstreams_client::arrow::array::{AsArray, RecordBatch};
use dstreams_client::arrow::datatypes::{Schema, SchemaRef};
use dstreams_client::protocol::{
    self, Answer, Offer, Opening, Sequence, TOKEN_HEADER, VERSION_HEADER, parse_batch_metadata,
    parse_token_metadata,
};
use futures::{Stream, StreamExt};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server as Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Result, Status, Streaming};

use crate::master::Directory;

type Shared<T> = Arc<tokio::sync::Mutex<T>>;

/// Outlives a server; tests read and set it.
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
    /// Calls that ended, or whose connection broke.
    pub ended: AtomicU64,
    /// Acknowledgements are withheld while false.
    pub acknowledging: watch::Sender<bool>,
    /// While acknowledgements are withheld, answers that it is alive.
    pub says_alive: AtomicBool,
    /// Forgets all numbers when a call opens.
    pub forgets: AtomicBool,
    /// Opens each call with `{"ack":0}`, which is true after any number of batches.
    pub modest: AtomicBool,
    /// Answers this instead of the first acknowledgement.
    pub babbles: Mutex<Option<&'static str>>,
    /// The largest message it accepts, in bytes.
    pub largest_message: AtomicUsize,
    /// Microseconds from a batch's arrival until it is stored: a worker killed in between loses it.
    pub replicates_in: AtomicU64,
    /// The token every call must have.
    pub token: Mutex<Option<&'static str>>,
    places: Places,
}

/// The addresses of servers, reserved after they are gone: otherwise a server of another test could get one, and a
/// client that still tries it would send it foreign records.
#[derive(Default)]
pub struct Places(Mutex<Vec<TcpSocket>>);

impl Places {
    /// A socket to listen on, at an address that no other server gets.
    fn take(&self) -> TcpSocket {
        let bound = |address: SocketAddr| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            socket
        };
        let kept = bound("127.0.0.1:0".parse().unwrap());
        let socket = bound(kept.local_addr().unwrap());
        self.0.lock().unwrap().push(kept);
        socket
    }
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
            replicates_in: AtomicU64::default(),
            token: Mutex::default(),
            places: Places::default(),
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

    /// From now on all it knows of a producer of "lines" is that `last` was taken.
    pub async fn knows(&self, producer: &str, last: u64) {
        let opening = Opening {
            stream: "lines".to_string(),
            producer: Some(producer.to_string()),
        };
        let producer = self.producer(&opening);
        producer.lock().await.sequence = Sequence::after(last);
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

/// The part of one server that tests read and set.
#[derive(Default)]
pub struct Local {
    /// Calls opened here.
    pub opened: AtomicU64,
    /// Refuses to open calls as unavailable.
    pub unavailable: AtomicBool,
}

pub struct Server {
    pub address: SocketAddr,
    pub local: Arc<Local>,
    runtime: Option<Runtime>,
}

impl Server {
    pub fn start(store: &Arc<Store>) -> Self {
        let local = Arc::default();
        let service = Service {
            role: Role::Worker(Arc::clone(store)),
            local: Arc::clone(&local),
        };
        let largest_message = store.largest_message.load(Relaxed);
        Self::serve(service, local, largest_message, &store.places)
    }

    /// A master: names the workers that take a stream, and takes no records.
    pub fn master(directory: &Arc<Directory>) -> Self {
        let local = Arc::default();
        let service = Service {
            role: Role::Master(Arc::clone(directory)),
            local: Arc::clone(&local),
        };
        Self::serve(service, local, 4 << 20, &directory.places)
    }

    fn serve(service: Service, local: Arc<Local>, largest_message: usize, places: &Places) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listening = places.take();
        let address = listening.local_addr().unwrap();
        let service = FlightServiceServer::new(service).max_decoding_message_size(largest_message);
        let listener = {
            let _context = runtime.enter();
            listening.listen(1024).unwrap()
        };
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Grpc::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            local,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

struct Service {
    role: Role,
    local: Arc<Local>,
}

enum Role {
    Master(Arc<Directory>),
    Worker(Arc<Store>),
}

/// Is this the required token?
pub fn check_token(metadata: &MetadataMap, wanted: Option<&str>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let given = metadata.get(TOKEN_HEADER);
    let given = given.and_then(|value| parse_token_metadata(value.to_str().ok()?));
    match given {
        Some(given) if given == wanted => Ok(()),
        Some(_) => Err(Status::unauthenticated("this is not the token")),
        None => Err(Status::unauthenticated("no token came")),
    }
}

pub fn check_version(metadata: &MetadataMap) -> Result<()> {
    let version = metadata.get(VERSION_HEADER);
    match version {
        Some(version) if version.as_bytes() != b"1" => Err(Status::failed_precondition(format!(
            "version {version:?}, 1 is spoken"
        ))),
        _ => Ok(()),
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

impl Service {
    async fn open(&self, request: Request<Streaming<FlightData>>) -> Result<Boxed<PutResult>> {
        let Role::Worker(store) = &self.role else {
            return Err(Status::unimplemented("a master takes no records"));
        };
        let store = Arc::clone(store);
        check_version(request.metadata())?;
        check_token(request.metadata(), *store.token.lock().unwrap())?;
        if self.local.unavailable.load(Relaxed) {
            return Err(Status::unavailable("not the one to talk to now"));
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
        self.local.opened.fetch_add(1, Relaxed);
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
        let alive = tokio::time::sleep(Duration::from_millis(5));
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
            let replicates_in = store.replicates_in.load(Relaxed);
            if replicates_in > 0 {
                tokio::time::sleep(Duration::from_micros(replicates_in)).await;
            }
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
    Err(Status::unimplemented("this is not spoken here"))
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
    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>> {
        match &self.role {
            Role::Master(directory) => directory.answer(request).map(Response::new),
            Role::Worker(_) => unused(),
        }
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
