//! The calls that a worker answers: copies of blocks, requests for its rows, clients.

use std::sync::{Arc, OnceLock};

use arrow_flight::{FlightData, FlightDescriptor, FlightInfo, PutResult, Ticket};
use async_trait::async_trait;
use bytes::Bytes;
use dstreams::internal::{ByteOutput, on_disk};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::session::Epoch;
use crate::data::{Calls, DataRequest, Replies, decode_copy, serve_parts};
use crate::execute::TaskRunner;
use crate::plan::Source;

/// Bytes of one message of an answer: far below a peer's limit.
const PIECE: usize = 1 << 20;
/// Pieces of a state, of 1 MiB, that are buffered before they are sent.
const PIECES_AHEAD: usize = 4;

/// Answers the calls that reach a worker: copies of blocks, requests for its rows, clients.
#[derive(Default)]
pub struct WorkerCalls {
    /// Set once the program has started.
    pub epoch: OnceLock<Arc<Epoch>>,
}

impl WorkerCalls {
    fn epoch(&self) -> Result<&Arc<Epoch>, Status> {
        let not_yet = || Status::unavailable("the program has not started on this worker");
        self.epoch.get().ok_or_else(not_yet)
    }
}

#[async_trait]
impl Calls for WorkerCalls {
    async fn records(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Replies<PutResult>, Status> {
        let clients = self.epoch()?.clients();
        let none = || Status::unavailable("this worker does not accept records of clients yet");
        clients.ok_or_else(none)?.do_put(request).await
    }

    async fn copy(&self, messages: Streaming<FlightData>) -> Result<(), Status> {
        let epoch = self.epoch()?;
        let (header, block) = decode_copy(messages, &epoch.memory.copies).await?;
        let replicas = &epoch.replicas;
        replicas
            .store_copy(header.sender, header.received, block)
            .await
    }

    async fn rows(&self, ticket: Ticket) -> Result<Replies<FlightData>, Status> {
        let epoch = self.epoch()?;
        match DataRequest::parse(&ticket)? {
            DataRequest::Rows(parts) => {
                let site = Arc::clone(&epoch.site);
                Ok(serve_parts(parts, move |source| {
                    let site = Arc::clone(&site);
                    async move {
                        match source {
                            // Reads all rows of the state, some of which may be in files.
                            Source::State { .. } => {
                                on_disk(async move { site.local_rows(&source).await }).await
                            }
                            _ => site.local_rows(&source).await,
                        }
                    }
                }))
            }
            DataRequest::Prepare { output, kept } => {
                let Some(rows) = epoch.site.cache.get(&kept) else {
                    return Err(Status::not_found(format!("{kept:?} is not stored here")));
                };
                let (batch, partition) = (kept.batch, kept.partition);
                let prepared = epoch.outputs.prepare_one(output, batch, partition, &rows);
                Ok(in_pieces(prepared.await.map_err(cause)?.0.into()))
            }
            DataRequest::Tasks(tasks) => {
                let states = tasks.iter().map(|task| epoch.site.tasks.state(task));
                let states = serde_json::to_vec(&states.collect::<Vec<_>>());
                let states = states.map_err(|error| Status::internal(error.to_string()))?;
                Ok(in_pieces(states.into()))
            }
            DataRequest::State { partition } => export(&epoch.site, partition as usize).await,
        }
    }

    async fn link(&self, _: Request<Streaming<FlightData>>) -> Result<Replies<FlightData>, Status> {
        Err(Status::unimplemented("this is a worker, not a master"))
    }

    async fn info(&self, _: FlightDescriptor) -> Result<FlightInfo, Status> {
        Err(Status::unimplemented("this worker accepts records itself"))
    }

    async fn drain(&self, _: u32) -> Result<(), Status> {
        Err(Status::unimplemented("this is a worker, not a master"))
    }

    async fn status(&self) -> Result<Vec<u8>, Status> {
        let usage = self.epoch()?.usage();
        serde_json::to_vec(&usage).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Bytes in messages of bounded size, made lazily and without copying.
fn in_pieces(mut bytes: Bytes) -> Replies<FlightData> {
    let pieces = std::iter::from_fn(move || {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        let data_body = (!piece.is_empty()).then_some(piece)?;
        Some(Ok(FlightData {
            data_body,
            ..FlightData::default()
        }))
    });
    Box::pin(futures::stream::iter(pieces))
}

/// A sink's error without its name, which the master adds.
fn cause(error: dstreams::Error) -> Status {
    match error {
        dstreams::Error::Sink { cause, .. } => Status::internal(cause.to_string()),
        error => internal(error),
    }
}

/// Streams a partition's whole state; a blocking thread writes it a few pieces ahead.
async fn export(site: &Arc<TaskRunner>, partition: usize) -> Result<Replies<FlightData>, Status> {
    // Each occupies a thread while it is sent.
    static AT_ONCE: Semaphore = Semaphore::const_new(8);
    let turn = AT_ONCE.acquire().await;
    let of = Arc::clone(site);
    let snapshot = on_disk(async move { of.states.snapshot(partition) }).await;
    let (snapshot, site) = (snapshot.map_err(internal)?, Arc::clone(site));
    let (pieces, sent) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut bytes = 0;
        let mut each = |piece: Vec<u8>| {
            bytes += piece.len();
            site.cache.sending(partition, bytes);
            let message = FlightData {
                data_body: piece.into(),
                ..FlightData::default()
            };
            // The requesting worker is gone.
            let gone = |_| dstreams::Error::NotRunning;
            pieces.blocking_send(Ok(message)).map_err(gone)
        };
        let mut to = ByteOutput::new(&mut each);
        match snapshot.write(&mut to).and_then(|()| to.end()) {
            Ok(()) => site.cache.sent(partition, bytes),
            Err(error) => drop(pieces.blocking_send(Err(internal(error)))),
        }
    });
    Ok(Box::pin(ReceiverStream::new(sent)))
}

fn internal(error: dstreams::Error) -> Status {
    Status::internal(error.to_string())
}
