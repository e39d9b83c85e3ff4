//! Records from programs that use `dstreams-client`, or any Arrow Flight library: one server, many
//! streams.
//!
//! The protocol is defined in [`dstreams_client::protocol`]. The server (`service`) opens a call and
//! hands it to its stream's source, where it runs (`call`): decode (`columns`), deduplicate
//! (`producers`), push, acknowledge (`answers`). A push that waits for memory stops the reading, so
//! the client's window closes.

mod answers;
mod call;
mod columns;
mod producers;
mod service;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::call::Call;
use self::producers::Producers;
use self::service::Service;
use super::accept::Acceptor;
use super::ingest::Ingest;
use super::source::{Source, SourcePlacement, StopSignal};
use crate::debug::debug_as;
use crate::error::{BoxError, Error};
use crate::stream::record::RowCheck;

/// Bytes that a client may send on a call before they are read. The default of HTTP/2, 64 KiB, slows a client that
/// sends lines even on one machine.
const CALL_WINDOW: u32 = 4 << 20;
/// The same for all calls on one connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The largest HTTP/2 frame accepted: most messages fit into one, and would take sixteen by default.
const MAX_FRAME_SIZE: u32 = 256 << 10;
/// Interval and timeout of the probes of an idle connection: a client that vanished silently must not block its
/// producer forever.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Number of calls that may wait for their stream to start.
const MAX_WAITING_CALLS: usize = 16;
/// How long a stopping server waits until its last answers are sent.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

/// The address for programs that send records with the client library `dstreams-client` (or any Arrow Flight
/// library, see its `protocol` module). Serves any number of streams; added to a context with
/// [`StreamContext::clients`](crate::StreamContext::clients).
///
/// An acknowledged record survives what [`Ingest::push`] promises. Each record of a client is received once, even
/// if its connection broke and the client sent it again, as long as this program lives (or is restarted in its
/// directory) and has not forgotten the producer. It remembers connected producers and, of each stream, the
/// [`Config::producers`](crate::Config::producers) others that sent last; the number of forgotten ones is logged,
/// and in [`Status::forgotten_producers`](crate::Status::forgotten_producers).
///
/// Refused, with what was expected and what came: unknown streams (the error lists the known ones), columns with
/// other names or types, nulls where the stream has none, texts that name no variant of an enum, messages over
/// [`Clients::max_message_bytes`]. Text may come as `Utf8`, `LargeUtf8` or `Utf8View`, and is checked; bytes and lists
/// may be large ones; times in milliseconds may have any zone, or none, which is UTC; items of lists may be declared
/// nullable.
///
/// Backpressure: when the memory for received records is full, the connections are not read and the clients wait.
///
/// ```
/// use dstreams::{Clients, StreamContext};
///
/// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
/// let clients = Clients::listen("127.0.0.1:0");
/// let lines = ctx.clients::<String>("lines", &clients);
/// let views = ctx.clients::<(String, i64)>("views", &clients);
/// # Ok::<(), dstreams::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "clients are taken where a context reads them"]
pub struct Clients {
    shared: Arc<ServerState>,
    max_message_bytes: usize,
}

debug_as!(Clients { max_message_bytes });

/// The calls of clients, for a server of somebody else's: see [`Clients::embed`].
#[doc(hidden)]
pub struct Embedded(Service, Clients);

debug_as!(Embedded);

impl Embedded {
    /// Serves a call of a client.
    pub async fn do_put(
        &self,
        request: tonic::Request<tonic::Streaming<arrow_flight::FlightData>>,
    ) -> Result<service::Answers<arrow_flight::PutResult>, tonic::Status> {
        self.0.open(request).await
    }

    /// Whether this serves the streams of these clients.
    pub fn is_of(&self, clients: &Clients) -> bool {
        Arc::ptr_eq(&self.1.shared, &clients.shared)
    }

    /// Accepts no more batches of this producer here; returns the number of the last one once it is safe. Fails if
    /// it cannot become safe.
    pub async fn revoke(&self, stream: &str, producer: &str) -> crate::error::Result<u64> {
        self.0.revoke(stream, producer).await
    }
}

/// State shared by the server and the sources of its streams.
struct ServerState {
    address: String,
    streams: Mutex<BTreeMap<String, Arc<Stream>>>,
    /// The running server, as long as a source needs it.
    serving: tokio::sync::Mutex<Weak<Serving>>,
    /// On a cluster: decides which worker receives the batches of which producer.
    claims: OnceLock<Arc<dyn Claims>>,
}

/// On a cluster, asked before the first batch of a producer is received.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Waits until no other worker receives batches of this producer; returns the number of the last one that was
    /// received.
    async fn claim(&self, stream: &str, producer: &str) -> Result<u64, tonic::Status>;
}

/// A stream that clients send to.
struct Stream {
    name: String,
    schema: SchemaRef,
    check: RowCheck,
    producers: Producers,
    /// Where records are pushed, once the stream runs.
    ingest: OnceLock<Ingest>,
    calls: mpsc::Sender<Call>,
}

/// A running server; it stops when the last source drops it.
struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Clients {
    /// Listens on `address` (host and port; port 0 for a free one) when the context starts.
    ///
    /// ```
    /// # use dstreams::{Clients, StreamContext};
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let clients = Clients::listen("0.0.0.0:7001");
    /// let lines = ctx.clients::<String>("lines", &clients); // dstreams send HOST:7001 --stream lines FILE
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn listen(address: &str) -> Self {
        Clients {
            shared: Arc::new(ServerState {
                address: address.to_owned(),
                streams: Mutex::default(),
                serving: tokio::sync::Mutex::default(),
                claims: OnceLock::new(),
            }),
            max_message_bytes: 16 << 20,
        }
    }

    /// The largest message taken, in bytes. Default: 16 MiB, eight times what `dstreams-client` makes
    /// (foreign libraries do not cut their batches). One message per connection is held beside the
    /// memory for received records.
    ///
    /// ```
    /// # use dstreams::Clients;
    /// let clients = Clients::listen("0.0.0.0:7001").max_message_bytes(64 << 20);
    /// ```
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Whether both share one server.
    #[doc(hidden)]
    pub fn is_same(&self, other: &Clients) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Serves calls within a server of somebody else's, which asks `claims` for producers; the
    /// address given is not listened on. That server takes messages of `most` bytes from clients.
    #[doc(hidden)]
    pub fn embed(&self, claims: Arc<dyn Claims>, most: usize) -> Embedded {
        let _ = self.shared.claims.set(claims);
        let most = self.max_message_bytes.min(most);
        Embedded(Service::new(Arc::clone(&self.shared), most), self.clone())
    }

    /// The source of one stream. With a second one of the same name, opening the first fails.
    pub(crate) fn stream(&self, name: &str, schema: SchemaRef, check: RowCheck) -> ClientSource {
        let (sender, calls) = mpsc::channel(MAX_WAITING_CALLS);
        let stream = Arc::new(Stream {
            name: name.to_owned(),
            schema,
            check,
            producers: Producers::default(),
            ingest: OnceLock::new(),
            calls: sender,
        });
        self.shared
            .streams()
            .insert(name.to_owned(), Arc::clone(&stream));
        let clients = self.clone();
        ClientSource {
            clients,
            stream,
            calls,
            serving: None,
        }
    }

    /// Binds the address and starts the server.
    async fn serve(&self, connections: usize) -> Result<Arc<Serving>, BoxError> {
        let listener = TcpListener::bind(&self.shared.address).await;
        let listener = listener.map_err(|source| Error::Listen {
            address: self.shared.address.clone(),
            source: Arc::new(source),
        })?;
        let address = listener.local_addr()?;
        // The refusal is empty: nothing can be sent to a client before it has started to speak HTTP/2.
        let incoming = Acceptor::new(listener, connections, "")?.into_stream();
        let most = self.max_message_bytes;
        let service = FlightServiceServer::new(Service::new(Arc::clone(&self.shared), most))
            .max_decoding_message_size(most);
        let stop = CancellationToken::new();
        let server = Server::builder()
            .initial_stream_window_size(CALL_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE)
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_INTERVAL))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let task = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%address, %error, "the server for clients failed");
            }
        });
        let task = Mutex::new(Some(task));
        Ok(Arc::new(Serving {
            address,
            stop,
            task,
        }))
    }
}

impl ServerState {
    fn streams(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls with this name go to this stream.
    fn serves(&self, stream: &Arc<Stream>) -> bool {
        self.streams()
            .get(&stream.name)
            .is_some_and(|known| Arc::ptr_eq(known, stream))
    }
}

impl Serving {
    /// Stops the server; waits, up to a limit, until the last answers are sent.
    async fn end(self) {
        self.stop.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(LAST_ANSWERS_TIMEOUT, task).await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The source of one stream of a [`Clients`].
pub(crate) struct ClientSource {
    clients: Clients,
    stream: Arc<Stream>,
    calls: mpsc::Receiver<Call>,
    serving: Option<Arc<Serving>>,
}

#[async_trait]
impl Source for ClientSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.stream.schema)
    }

    fn connect(&mut self, ingest: &Ingest) {
        let (most, forgotten) = ingest.0.bound();
        self.stream.producers.bound(most, forgotten);
        for producer in ingest.0.oldest_first() {
            let last = ingest.offsets().get(producer);
            let last = last.copied().unwrap_or_default();
            self.stream.producers.restore(producer, last);
        }
        let _ = self.stream.ingest.set(ingest.clone());
    }

    fn place(&self) -> SourcePlacement {
        SourcePlacement::Everywhere(self.clients.clone())
    }

    async fn open(&mut self) -> Result<Option<SocketAddr>, BoxError> {
        if !self.clients.shared.serves(&self.stream) {
            let name = &self.stream.name;
            return Err(format!("clients send to one stream `{name}`, there are two").into());
        }
        if self.clients.shared.claims.get().is_some() {
            return Ok(None);
        }
        let connections = self.stream.ingest.get().map(|ingest| ingest.0.connections);
        let connections = connections.unwrap_or(usize::MAX);
        let mut running = self.clients.shared.serving.lock().await;
        let serving = match running.upgrade() {
            Some(serving) => serving,
            None => self.clients.serve(connections).await?,
        };
        *running = Arc::downgrade(&serving);
        let address = serving.address;
        self.serving = Some(serving);
        Ok(Some(address))
    }

    async fn run(mut self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = closing.requested() => break,
                Some(call) = self.calls.recv() => {
                    running.spawn(call.run(ingest.clone(), closing.clone()));
                }
                Some(ended) = running.join_next(), if !running.is_empty() => note(ended),
            }
        }
        // Closing the queue ends the calls that still wait.
        self.calls.close();
        while let Some(call) = self.calls.recv().await {
            running.spawn(call.run(ingest.clone(), closing.clone()));
        }
        while let Some(ended) = running.join_next().await {
            note(ended);
        }
        if let Some(serving) = self.serving.take().and_then(Arc::into_inner) {
            serving.end().await; // this was the last stream
        }
        Ok(())
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a client's call failed");
    }
}

#[cfg(test)]
mod tests;
