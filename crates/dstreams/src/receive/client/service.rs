//! The Flight service: opens `DoPut` calls. Flight's other calls are not supported.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use dstreams_client::protocol::{Opening, VERSION, VERSION_HEADER, refusal};
use futures::Stream as Futures;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Result, Status, Streaming};

use super::answers::answers;
use super::call::Call;
use super::columns::ColumnMapping;
use super::{ServerState, Stream};

/// Time limit for the first message of a call.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

pub type Answers<T> = Pin<Box<dyn Futures<Item = Result<T>> + Send>>;

/// With the size limit of a message; the server that reads it may accept more.
pub struct Service(Arc<ServerState>, usize);

impl Service {
    pub fn new(shared: Arc<ServerState>, most: usize) -> Self {
        Service(shared, most)
    }

    fn find(&self, name: &str) -> Result<Arc<Stream>> {
        let streams = self.0.streams();
        streams.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = streams.keys().map(|name| format!("`{name}`")).collect();
            let known = known.join(", ");
            Status::not_found(format!(
                "no stream `{name}` for clients; there are: {known}"
            ))
        })
    }

    /// Opens a call.
    pub async fn open(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Answers<PutResult>> {
        self.try_open(request).await.map_err(refusal)
    }

    async fn try_open(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Answers<PutResult>> {
        check_version(request.metadata())?;
        let peer = request.remote_addr();
        let mut messages = request.into_inner();
        let first = timeout(FIRST_MESSAGE_TIMEOUT, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first message came"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("a call without a message"))?;
        let opening = Opening::parse(first.flight_descriptor.as_ref())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let stream = self.find(&opening.stream)?;
        let columns = ColumnMapping::agree(&first, &stream)?;
        let producer = stream.producers.get(opening.producer.as_deref());
        let name: Option<Arc<str>> = opening.producer.map(Arc::from);
        let shown = match (&name, peer) {
            (Some(name), _) => name.to_string(),
            (None, Some(peer)) => peer.to_string(),
            (None, None) => String::new(),
        };
        let (acks, answers) = answers();
        let call = Call {
            messages,
            acks,
            columns,
            producer,
            name,
            shown,
            claims: self.0.claims.get().cloned(),
            most: self.1,
        };
        let sent = stream.calls.send(call).await;
        sent.map_err(|_| Status::unavailable("the program accepts no more records"))?;
        Ok(Box::pin(answers))
    }
}

impl Service {
    /// See [`super::Embedded::revoke`].
    pub async fn revoke(&self, stream: &str, producer: &str) -> crate::error::Result<u64> {
        let Ok(stream) = self.find(stream) else {
            return Ok(0);
        };
        let producer = stream.producers.get(Some(producer));
        let mut producer = producer.lock().await;
        producer.owned = false;
        producer.connection += 1;
        if let Some(ingest) = stream.ingest.get() {
            producer.safe(&ingest.0).await?;
        }
        Ok(producer.sequence.last())
    }
}

fn check_version(metadata: &MetadataMap) -> Result<()> {
    match metadata.get(VERSION_HEADER) {
        Some(version) if version.as_bytes() != VERSION.to_string().as_bytes() => {
            Err(Status::failed_precondition(format!(
                "this program speaks version {VERSION} of the protocol, the client {version:?}"
            )))
        }
        _ => Ok(()),
    }
}

fn not_spoken<T>() -> Result<T> {
    Err(Status::unimplemented(
        "records are sent with DoPut; no other call is supported",
    ))
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

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
        not_spoken()
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>> {
        not_spoken()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>> {
        not_spoken()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>> {
        not_spoken()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>> {
        not_spoken()
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>> {
        not_spoken()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>> {
        not_spoken()
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>> {
        not_spoken()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>> {
        not_spoken()
    }
}
