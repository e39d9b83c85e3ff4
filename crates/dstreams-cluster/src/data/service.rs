//! The Flight service of masters and workers: who may call, and which call goes where.

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

/// The largest message taken.
const MESSAGE: usize = 64 << 20;
/// The largest message of a client, by the setting's default and at most. Its records go on to other
/// workers in messages of their own, which have views of texts besides and must be taken for sure: a
/// copy that is refused is tried for ever.
pub const CLIENT_MESSAGE: usize = 16 << 20;
/// Bytes that may be sent on a call before they are read, and on a connection.
const CALL_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The largest HTTP/2 frame taken.
const FRAME: u32 = 256 << 10;
/// Connections at once to one port: of clients, workers and people.
pub const CONNECTIONS: usize = 16 << 10;
/// How often an idle connection is probed, and how long that may take between workers.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a process that works may stand still (stopped, swapped out, moved to another machine) before its connections to
/// a master, or those of a master, are given up. What a process that is gone sends instead is noticed at once.
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

    /// The request with the token.
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
        // In constant time: how far two texts agree is not told.
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

    /// Somebody asks for rows, for state, or to have an output's partition prepared.
    async fn rows(&self, ticket: Ticket) -> Result<Replies<FlightData>, Status>;

    /// A worker opens its link.
    async fn link(
        &self,
        messages: Request<Streaming<FlightData>>,
    ) -> Result<Replies<FlightData>, Status>;

    /// A client asks who takes a stream.
    async fn info(&self, of: FlightDescriptor) -> Result<FlightInfo, Status>;

    /// Somebody asks how things are.
    async fn status(&self) -> Result<Vec<u8>, Status>;

    /// Somebody wants a worker to leave; returns when it may.
    async fn drain(&self, worker: u32) -> Result<(), Status>;
}

/// The Flight service of masters and workers: checks the token, and passes each call to its handler.
pub struct Service {
    calls: Arc<dyn Calls>,
    token: Token,
}

fn not_spoken<T>() -> Result<T, Status> {
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
            _ => return not_spoken(),
        };
        let answer = arrow_flight::Result { body: body.into() };
        let answer = futures::stream::iter([Ok(answer)]);
        Ok(Response::new(Box::pin(answer)))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        not_spoken()
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        not_spoken()
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        not_spoken()
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        not_spoken()
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        not_spoken()
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
        Err(error) => return tracing::error!(%error, "a port cannot be served"),
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
            tracing::error!(%error, "a server ended");
        }
    });
}
