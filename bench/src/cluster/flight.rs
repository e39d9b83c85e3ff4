//! A plain Arrow Flight `DoPut`: a server that stores nothing, and a client that sends the same batches as the
//! client library, built before the clock starts.

use std::pin::Pin;
use std::time::Instant;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use bench_input::LINE_BYTES;
use futures::{Stream, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::processes::{Process, guard};
use super::runtime;
use super::sender::{batches_of, text};
use crate::own::{Outcome, flag};
use crate::system::cpu;

/// As in the workers' server.
const CALL_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_FRAME_SIZE: u32 = 256 << 10;

/// `bench flight`: prints its address, and answers each message as it comes.
pub fn server(flags: &[String]) -> Outcome<()> {
    guard(flags);
    runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let server = Server::builder()
            .initial_stream_window_size(CALL_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE)
            .add_service(FlightServiceServer::new(Nothing))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        Ok(server.await?)
    })
}

/// `bench part flight [--clients N] [--lines N]`
pub fn flight(flags: &[String]) -> Outcome<Value> {
    let clients = flag(flags, "--clients", 1usize)?;
    let lines = flag(flags, "--lines", 4_000_000usize)?;
    let mut server = Process::own(&["flight".into()])?;
    let address = format!("http://{}", server.line()?);
    let (text, _) = text(lines)?;
    let parts = (0..clients).map(|at| bench_input::input::part(&text, at, clients));
    let parts = parts.map(batches_of).collect::<Outcome<Vec<_>>>()?;
    // As in the sender of the client library: one thread for the connections, one that waits.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut channels = Vec::new();
    for _ in 0..clients {
        let endpoint = Endpoint::from_shared(address.clone())?.tcp_nodelay(true);
        channels.push(runtime.block_on(endpoint.connect())?);
    }
    let (own, taker) = (std::process::id(), server.id());
    let (start, used) = (Instant::now(), (cpu(own), cpu(taker)));
    let mut sending = Vec::new();
    for (channel, batches) in channels.into_iter().zip(parts) {
        sending.push(runtime.spawn(async move {
            let wanted = batches.len();
            let descriptor = FlightDescriptor::new_path(vec!["lines".into()]);
            let encoder = FlightDataEncoderBuilder::new().with_flight_descriptor(Some(descriptor));
            let messages = encoder.build(futures::stream::iter(batches.into_iter().map(Ok)));
            let messages = messages.filter_map(|message| futures::future::ready(message.ok()));
            let answers = FlightServiceClient::new(channel).do_put(messages).await?;
            let answers: Vec<PutResult> = answers.into_inner().try_collect().await?;
            // The schema is a message too.
            match answers.len() == wanted + 1 {
                true => Ok(wanted),
                false => Err(Status::data_loss("messages were not answered")),
            }
        }));
    }
    let mut messages = 0;
    for sending in sending {
        messages += runtime.block_on(sending)??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let sent = json!({
        "checked": true, "records": lines, "messages": messages, "seconds": seconds,
        "bytes_per_s": (lines * LINE_BYTES) as f64 / seconds,
        "cpu_s": (cpu(own) - used.0).as_secs_f64(),
    });
    Ok(super::acks::result(
        "flight",
        clients,
        &sent,
        cpu(taker) - used.1,
    ))
}

/// Stores nothing.
struct Nothing;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<T, Status> {
    Err(Status::unimplemented("only DoPut"))
}

#[tonic::async_trait]
impl FlightService for Nothing {
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
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let answers = request.into_inner().map_ok(|_| PutResult::default());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        not_here()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        not_here()
    }

    async fn get_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        not_here()
    }

    async fn do_action(
        &self,
        _: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        not_here()
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        not_here()
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        not_here()
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        not_here()
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        not_here()
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        not_here()
    }
}
