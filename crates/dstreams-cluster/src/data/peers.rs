//! [`Peers`]: connections to the other processes of a cluster.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, Ticket};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use dstreams::internal::Block;
use dstreams::{BoxError, Error, Prepared, Result};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::copy::{CopyHeader, decode, encode};
use super::service::{COPY_HEADER, KEEP_ALIVE, Token};
use crate::plan::{CachedId, Part, Slice};
use crate::plan::{TaskName, TaskState};
use crate::retry::retryable;

/// The largest message accepted from a peer; senders cut into much smaller ones.
const MESSAGE: usize = 64 << 20;
/// The most parts requested in one call: some hundred bytes each.
const PARTS_PER_CALL: usize = 4096;
/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a process may take to begin an answer before another one that has the rows is asked too. The answer of a machine
/// that is not busy begins much sooner.
const HEDGE_DELAY: Duration = Duration::from_millis(25);
/// How long a short request may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to a worker for data that it stores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DataRequest {
    /// Rows of these parts, in this order.
    Rows(Vec<Part>),
    /// The state of a partition.
    State { partition: u32 },
    /// Let an output's sink prepare a partition that is stored there.
    Prepare { output: usize, kept: CachedId },
    /// Whether these tasks of the engine run there, or ran.
    Tasks(Vec<TaskName>),
}

impl DataRequest {
    pub fn parse(ticket: &Ticket) -> Result<Self, Status> {
        let ask = serde_json::from_slice(&ticket.ticket);
        ask.map_err(|error| {
            Status::invalid_argument(format!("not a ticket of this cluster: {error}"))
        })
    }
}

/// A connection to a process.
#[derive(Clone)]
struct Connection {
    channel: Channel,
    /// Set once the process is given up: its calls fail at once.
    given_up: CancellationToken,
}

/// Connections to the other processes of a cluster, opened when they are first needed.
/// Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    connections: Arc<Mutex<HashMap<String, Connection>>>,
    token: Token,
    /// An address, and how long its process may be silent.
    patient: Option<(Arc<str>, Duration)>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peers")
    }
}

impl Peers {
    pub fn new(token: Token) -> Self {
        Peers {
            connections: Arc::default(),
            token,
            patient: None,
        }
    }

    /// Connections to this address tolerate a silence, e.g. of a master that is stopped or whose machine swaps.
    pub fn patient(mut self, address: &str, silence: Duration) -> Self {
        self.patient = Some((address.into(), silence));
        self
    }

    /// How often a connection to this address is probed, and how long an answer may take.
    fn probes(&self, address: &str) -> (Duration, Duration) {
        let silence = self.patient.as_ref().filter(|(of, _)| **of == *address);
        let silence = silence.map_or(KEEP_ALIVE, |(_, silence)| *silence);
        (KEEP_ALIVE.min(silence), silence)
    }

    /// A connection to this address, opened at its first use and reopened when it broke.
    pub fn client(&self, address: &str) -> Result<FlightServiceClient<Channel>, Status> {
        let channel = self.connection(address)?.channel;
        Ok(FlightServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self, address: &str) -> Result<Connection, Status> {
        let mut connections = self.lock();
        Ok(match connections.get(address) {
            Some(connection) => connection.clone(),
            None => {
                let (every, silence) = self.probes(address);
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|error| Status::invalid_argument(format!("{address}: {error}")))?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true)
                    .initial_stream_window_size(8 << 20)
                    .initial_connection_window_size(16 << 20)
                    .http2_keep_alive_interval(every)
                    .keep_alive_timeout(silence)
                    .keep_alive_while_idle(true);
                let connection = Connection {
                    channel: endpoint.connect_lazy(),
                    given_up: CancellationToken::new(),
                };
                connections.insert(address.to_owned(), connection.clone());
                connection
            }
        })
    }

    /// The result of a call to the process at `address`; an error as soon as the process is given up, which may be long
    /// before its connection breaks.
    async fn unless_given_up<T>(
        &self,
        address: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let given_up = self.connection(address)?.given_up;
        tokio::select! {
            biased;
            () = given_up.cancelled() => Err(lost()),
            done = call => done,
        }
    }

    /// A request with the token of this cluster.
    pub fn request<T>(&self, message: T) -> Request<T> {
        self.token.sign(Request::new(message))
    }

    /// Forgets the connection to this address: its process is given up, and calls to it fail. Later ones open another
    /// connection.
    pub fn forget(&self, address: &str) {
        if let Some(connection) = self.lock().remove(address) {
            connection.given_up.cancel();
        }
    }

    /// The rows of all slices, in their order. Slices that are not `held` here are fetched; adjacent ones at the same
    /// workers share a call.
    pub async fn read(
        &self,
        slices: &[Slice],
        held: Vec<Option<Vec<RecordBatch>>>,
    ) -> Result<Vec<RecordBatch>> {
        let all: Vec<_> = slices.iter().zip(held).collect();
        let together = |(a, a_held): &(&Slice, Option<_>), (b, b_held): &(&Slice, Option<_>)| {
            a_held.is_none() && b_held.is_none() && a.at == b.at
        };
        let runs = all.chunk_by(together);
        let runs = runs
            .flat_map(|run| run.chunks(PARTS_PER_CALL))
            .map(async |run| match run {
                [(slice, Some(held))] => Ok(slice.part.cut(held.clone())),
                _ => {
                    let parts: Vec<_> = run.iter().map(|(slice, _)| slice.part.clone()).collect();
                    self.fetch(&parts, run[0].0.at.iter()).await
                }
            });
        let rows = futures::future::try_join_all(runs).await?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// The rows, from the first of `addresses` that has them all. When one has not begun to answer for a while, the next is
    /// asked too, and the rows come from the one that begins first.
    pub async fn fetch(
        &self,
        parts: &[Part],
        addresses: impl Iterator<Item = &String>,
    ) -> Result<Vec<RecordBatch>> {
        let wanted = DataRequest::Rows(parts.to_vec());
        let mut addresses = addresses.peekable();
        let (mut asked, mut said) = (FuturesUnordered::new(), Vec::new());
        loop {
            if asked.is_empty() {
                let Some(address) = addresses.next() else {
                    break;
                };
                asked.push(self.ask(&wanted, address));
            }
            tokio::select! {
                biased;
                Some((address, answer)) = asked.next() => {
                    let rows = match answer {
                        Ok(messages) => self.unless_given_up(address, decode(messages)).await,
                        Err(status) => Err(status),
                    };
                    match rows {
                        Ok(rows) => return Ok(rows),
                        Err(status) => {
                            tracing::debug!(?parts, address, %status, "not fetched");
                            said.push(format!("{address}: {}", status.message()));
                        }
                    }
                }
                () = tokio::time::sleep(HEDGE_DELAY), if addresses.peek().is_some() => {
                    asked.extend(addresses.next().map(|address| self.ask(&wanted, address)));
                }
            }
        }
        let said = said.join("; ");
        let (first, more) = (parts.first(), parts.len().saturating_sub(1));
        Err(retryable(format!(
            "{first:?} and {more} more could not be read: {said}"
        )))
    }

    /// The beginning of an answer, with the address.
    async fn ask<'a>(
        &self,
        wanted: &DataRequest,
        address: &'a String,
    ) -> (&'a String, Result<Streaming<FlightData>, Status>) {
        let answer = self.get(wanted, address);
        (address, self.unless_given_up(address, answer).await)
    }

    async fn get(&self, ask: &DataRequest, address: &str) -> Result<Streaming<FlightData>, Status> {
        let ticket = serde_json::to_vec(ask);
        let ticket = ticket.map_err(|error| Status::internal(error.to_string()))?;
        let mut client = self.client(address)?;
        let answer = client.do_get(self.request(Ticket::new(ticket))).await?;
        Ok(answer.into_inner())
    }

    /// The whole state of a partition, streamed from its primary.
    pub async fn state(
        &self,
        partition: u32,
        address: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
        let from = address.to_owned();
        let failed = move |status: Status| {
            let said = status.message();
            retryable(format!(
                "state of partition {partition} from {from}: {said}"
            ))
        };
        let given_up = self.connection(address).map_err(&failed)?.given_up;
        let ask = DataRequest::State { partition };
        let pieces = self.get(&ask, address);
        let pieces = self.unless_given_up(address, pieces).await;
        let pieces = pieces
            .map_err(&failed)?
            .take_until(given_up.clone().cancelled_owned());
        // Without an error, a state would seem to be complete.
        let cut = async move { given_up.is_cancelled().then(|| Err(lost())) };
        let cut = futures::stream::once(cut).filter_map(std::future::ready);
        let pieces = pieces.chain(cut);
        Ok(pieces.map(move |piece| piece.map(|piece| piece.data_body).map_err(&failed)))
    }

    /// The states of tasks as a worker knows them, in their order.
    pub async fn tasks(
        &self,
        tasks: Vec<TaskName>,
        worker: &str,
    ) -> Result<Vec<TaskState>, Status> {
        let asked = async {
            let states = joined(self.get(&DataRequest::Tasks(tasks), worker).await?).await?;
            serde_json::from_slice(&states).map_err(|error| Status::data_loss(error.to_string()))
        };
        let late = || Status::deadline_exceeded("no answer");
        tokio::time::timeout(ANSWER_TIMEOUT, asked)
            .await
            .map_err(|_| late())?
    }

    /// Lets an output's sink prepare a partition where it is stored; `name` is the output's.
    pub async fn prepare(
        &self,
        (output, name): (usize, &str),
        kept: CachedId,
        address: &str,
    ) -> Result<Prepared> {
        let prepared = async {
            let ask = DataRequest::Prepare { output, kept };
            let prepared = joined(self.get(&ask, address).await?).await?;
            Ok(Prepared(prepared))
        };
        let prepared = self.unless_given_up(address, prepared).await;
        prepared.map_err(|status: Status| match status.code() {
            Code::Internal => Error::Sink {
                output: name.to_owned(),
                cause: BoxError::from(status.message()).into(),
            },
            _ => retryable(format!("output {name} at {address}: {}", status.message())),
        })
    }

    /// Sends a replica of a block to the worker at `address`; returns once it is stored.
    pub async fn copy(
        &self,
        header: &CopyHeader,
        block: &Block,
        address: &str,
    ) -> Result<(), Status> {
        let header = serde_json::to_vec(header);
        let header = header.map_err(|error| Status::internal(error.to_string()))?;
        let descriptor = FlightDescriptor::new_cmd(header);
        let rows = futures::stream::iter(block.batches.clone()).map(Ok);
        let messages = encode(rows, Some(descriptor));
        // An encoder fails only on rows that it cannot encode; the receiver counts the rows.
        let messages = messages.filter_map(|message| futures::future::ready(message.ok()));
        let mut request = self.request(messages);
        request.metadata_mut().insert(
            COPY_HEADER,
            tonic::metadata::MetadataValue::from_static("1"),
        );
        let copied = async {
            let mut answers = self.client(address)?.do_put(request).await?.into_inner();
            match answers.message().await? {
                Some(_) => Ok(()),
                None => Err(Status::aborted("the copy was not confirmed")),
            }
        };
        self.unless_given_up(address, copied).await
    }
}

/// The failure of calls to a process that was given up.
fn lost() -> Status {
    Status::unavailable("the worker there was lost")
}

/// The bytes of all messages.
async fn joined(mut pieces: Streaming<FlightData>) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await? {
        bytes.extend_from_slice(&piece.data_body);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow_flight::{FlightInfo, PutResult};
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use dstreams_control::{BlockId, ReceiverId};
    use futures::TryStreamExt;
    use tokio::net::TcpListener;

    use super::super::service::{Calls, Replies, serve};
    use super::*;

    /// A worker that has a row, or none.
    #[derive(Default)]
    struct Holder {
        row: Option<i64>,
        asked: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Calls for Holder {
        async fn rows(&self, _: Ticket) -> Result<Replies<FlightData>, Status> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let row = self.row.ok_or_else(|| Status::not_found("it has no row"))?;
            let column: ArrayRef = Arc::new(Int64Array::from(vec![row]));
            let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
            let messages = encode(futures::stream::iter([Ok(rows)]), None);
            Ok(Box::pin(messages.map_err(Status::from)))
        }

        async fn records(
            &self,
            _: Request<Streaming<FlightData>>,
        ) -> Result<Replies<PutResult>, Status> {
            unreachable!()
        }

        async fn copy(&self, _: Streaming<FlightData>) -> Result<(), Status> {
            unreachable!()
        }

        async fn link(
            &self,
            _: Request<Streaming<FlightData>>,
        ) -> Result<Replies<FlightData>, Status> {
            unreachable!()
        }

        async fn info(&self, _: FlightDescriptor) -> Result<FlightInfo, Status> {
            unreachable!()
        }

        async fn status(&self) -> Result<Vec<u8>, Status> {
            unreachable!()
        }

        async fn drain(&self, _: u32) -> Result<(), Status> {
            unreachable!()
        }
    }

    impl Holder {
        /// Serves it until the test ends.
        async fn serve(row: Option<i64>) -> (Arc<Self>, String) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let holder = Arc::new(Holder {
                row,
                ..Holder::default()
            });
            let (calls, stop) = (Arc::clone(&holder), CancellationToken::new());
            serve(listener, calls, Token::new(None), KEEP_ALIVE, stop);
            (holder, address)
        }
    }

    fn a_block() -> [Part; 1] {
        let receiver = ReceiverId(1);
        let block = crate::plan::Source::Block(BlockId { receiver, seq: 0 });
        [Part::from(block)]
    }

    fn rows(fetched: &[RecordBatch]) -> usize {
        fetched.iter().map(RecordBatch::num_rows).sum()
    }

    /// The silent one is connected, like a process that is stopped.
    #[tokio::test]
    async fn a_fetch_asks_the_next_worker_if_the_first_is_silent() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = (silent.local_addr().unwrap().to_string(), silent);
        let (holder, address) = Holder::serve(Some(7)).await;
        let (nobody, empty) = Holder::serve(None).await;
        // Otherwise its connection breaks after a while, and the next worker is asked because of that.
        let peers = Peers::new(Token::new(None)).patient(&silent.0, Duration::from_secs(3600));
        for order in [[&silent.0, &empty, &address], [&empty, &silent.0, &address]] {
            let block = a_block();
            let fetched = peers.fetch(&block, order.into_iter());
            let fetched = tokio::time::timeout(Duration::from_secs(60), fetched).await;
            assert_eq!(rows(&fetched.unwrap().unwrap()), 1);
        }
        assert_eq!(holder.asked.load(Ordering::SeqCst), 2);
        assert!(nobody.asked.load(Ordering::SeqCst) > 0);
    }

    #[tokio::test]
    async fn a_fetch_fails_with_what_each_worker_said() {
        let ((_, one), (_, two)) = (Holder::serve(None).await, Holder::serve(None).await);
        let peers = Peers::new(Token::new(None));
        let error = peers.fetch(&a_block(), [&one, &two].into_iter()).await;
        let error = error.unwrap_err();
        assert!(error.is_retryable());
        for address in [one, two] {
            let said = format!("{address}: it has no row");
            assert!(error.to_string().contains(&said), "{error}");
        }
        let none = peers.fetch(&a_block(), std::iter::empty()).await;
        assert!(none.unwrap_err().is_retryable());
    }

    /// The process at the other end accepts connections and never answers, like one that is stopped.
    #[tokio::test]
    async fn calls_to_a_worker_fail_as_soon_as_it_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stopped = listener.local_addr().unwrap().to_string();
        let peers = Peers::new(Token::new(None));
        let part = a_block();
        let addresses = [stopped.clone()];
        let fetch = peers.fetch(&part, addresses.iter());
        let state = peers.state(0, &stopped);
        let give_up = async {
            let _connection = listener.accept().await.unwrap();
            peers.forget(&stopped);
        };
        let (fetched, state, ()) = tokio::join!(fetch, state, give_up);
        let state = state.map(|_| ()).unwrap_err();
        for error in [fetched.unwrap_err(), state] {
            assert!(error.is_retryable(), "{error}");
            assert!(error.to_string().contains("was lost"), "{error}");
        }
        assert!(peers.lock().is_empty());
    }
}
