//! The Flight service of masters and workers: authentication and dispatch of calls.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use dstreams::internal::Acceptor;
use dstreams_client::protocol::refusal;
use futures::{Stream, TryStreamExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Marks a `DoPut` as a copy of a block.
pub const COPY_HEADER: &str = "x-dstreams-copy";

/// The largest message accepted.
const MESSAGE: usize = 64 << 20;
/// The largest message of a client: the setting's default and its maximum. Its records are replicated to other
/// workers in larger messages (with views of texts), which must fit for sure: a refused copy would be
/// retried without end.
pub const CLIENT_MESSAGE: usize = 16 << 20;
/// Bytes in flight on one call, and on one connection, before the receiver reads them.
const CALL_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The largest HTTP/2 frame accepted.
const FRAME: u32 = 256 << 10;
/// The most connections at once to one port.
pub const CONNECTIONS: usize = 16 << 10;
/// How often an idle connection is probed, and how long the answer may take between workers.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a live process may stall (stopped, swapped out, migrated) before connections between it and a master are
/// given up. The end of a process is noticed at once: its system closes the connection.
pub const PAUSE: Duration = Duration::from_secs(60);

/// A stream of answers.
pub type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The secret that the processes of a cluster and its clients share; none on loopback.
#[derive(Clone, Default)]
pub struct Token(Option<Arc<str>>);

impl Token {
    pub fn new(token: Option<String>) -> Self {
        Token(token.map(|token| format!("Bearer {token}").into()))
    }

    /// Adds the token to the request.
    pub fn sign<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(token) = &self.0
            && let Ok(value) = token.parse()
        {
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    /// Refuses a call without the token.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(token) = &self.0 else { return Ok(()) };
        let given = request.metadata().get("authorization");
        let given = given.map(|value| value.as_bytes()).unwrap_or_default();
        // In constant time, so that timing does not reveal a matching prefix.
        let wrong = given.len() != token.len()
            || given
                .iter()
                .zip(token.bytes())
                .fold(0, |d, (a, b)| d | (a ^ b))
                != 0;
        match wrong {
            true => Err(Status::unauthenticated(
                "this cluster needs its token: see DSTREAMS_TOKEN and --token-file",
            )),
            false => Ok(()),
        }
    }
}

/// The calls that a process answers.
#[async_trait]
pub trait Calls: Send + Sync + 'static {
    /// A client sends records.
    async fn records(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Replies<PutResult>, Status>;

    /// A worker sends a copy of a block.
    async fn copy(&self, messages: Streaming<FlightData>) -> Result<(), Status>;

    /// A request for rows, for state, or to prepare an output's partition.
    async fn rows(&self, ticket: Ticket) -> Result<Replies<FlightData>, Status>;

    /// A worker opens its link.
    async fn link(
        &self,
        messages: Request<Streaming<FlightData>>,
    ) -> Result<Replies<FlightData>, Status>;

    /// A client asks which processes accept a stream.
    async fn info(&self, of: FlightDescriptor) -> Result<FlightInfo, Status>;

    /// A request for the cluster's status.
    async fn status(&self) -> Result<Vec<u8>, Status>;

    /// A request to drain a worker; returns when the worker may leave.
    async fn drain(&self, worker: u32) -> Result<(), Status>;
}

/// The Flight service of masters and workers: checks the token, and passes each call to its handler.
pub struct Service {
    calls: Arc<dyn Calls>,
    token: Token,
}

fn unsupported<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not spoken here"))
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = Replies<HandshakeResponse>;
    type ListFlightsStream = Replies<FlightInfo>;
    type DoGetStream = Replies<FlightData>;
    type DoPutStream = Replies<PutResult>;
    type DoExchangeStream = Replies<FlightData>;
    type DoActionStream = Replies<arrow_flight::Result>;
    type ListActionsStream = Replies<ActionType>;

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        self.token.check(&request)?;
        if request.metadata().contains_key(COPY_HEADER) {
            let copied = self.calls.copy(request.into_inner()).await;
            copied.map_err(refusal)?;
            let stored = futures::stream::iter([Ok(PutResult::default())]);
            return Ok(Response::new(Box::pin(stored)));
        }
        let answers = self.calls.records(request).await;
        answers.map(Response::new).map_err(refusal)
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        self.token.check(&request)?;
        let rows = self.calls.rows(request.into_inner()).await;
        let rows = rows.map_err(refusal)?.map_err(refusal);
        Ok(Response::new(Box::pin(rows)))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.token.check(&request)?;
        let link = self.calls.link(request).await;
        link.map(Response::new).map_err(refusal)
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.token.check(&request)?;
        let info = self.calls.info(request.into_inner()).await;
        info.map(Response::new).map_err(refusal)
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        self.token.check(&request)?;
        let action = request.into_inner();
        let body = match action.r#type.as_str() {
            "status" => self.calls.status().await.map_err(refusal)?,
            "drain" => {
                let worker = serde_json::from_slice(&action.body);
                let worker =
                    worker.map_err(|error| refusal(Status::invalid_argument(error.to_string())))?;
                self.calls.drain(worker).await.map_err(refusal)?;
                Vec::new()
            }
            _ => return unsupported(),
        };
        let answer = arrow_flight::Result { body: body.into() };
        let answer = futures::stream::iter([Ok(answer)]);
        Ok(Response::new(Box::pin(answer)))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unsupported()
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        unsupported()
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        unsupported()
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        unsupported()
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        unsupported()
    }
}

/// Opens a port.
pub async fn listen(address: &str) -> dstreams::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| dstreams::Error::Listen {
        address: address.to_owned(),
        source: Arc::new(source),
    })
}

/// Answers calls until `stop`. A connection that is silent for longer than `silence` is closed.
pub fn serve(
    listener: TcpListener,
    calls: Arc<dyn Calls>,
    token: Token,
    silence: Duration,
    stop: CancellationToken,
) {
    let acceptor = match Acceptor::new(listener, CONNECTIONS, "") {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(%error, "cannot accept connections on a port"),
    };
    let service = Service { calls, token };
    let service = FlightServiceServer::new(service).max_decoding_message_size(MESSAGE);
    let server = Server::builder()
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(silence))
        .add_service(service)
        .serve_with_incoming_shutdown(acceptor.into_stream(), stop.cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "a server stopped with an error");
        }
    });
}
