//! The common part of senders of lines and of batches: the near end of a link.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arrow::datatypes::Schema;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::address::Addresses;
use crate::backoff::Backoff;
use crate::encode::{Encoded, Encoder, schema_message};
use crate::error::{Error, Tally};
use crate::link::{Failures, Flow, Link, Progress};
use crate::options::Options;
use crate::pack::Slot;
use crate::protocol::Opening;
use crate::route::Route;
use crate::window::Window;

/// The totals of a finished sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Records taken by `send`.
    pub records_sent: u64,
    /// Records the server acknowledged; all of them, if returned by `finish`.
    pub records_acknowledged: u64,
    /// Messages sent, each counted once.
    pub messages: u64,
    /// Their bytes (Arrow IPC, without the framing of gRPC), each message counted once.
    pub bytes: u64,
    /// Messages sent again after a connection broke.
    pub resends: u64,
    /// Connections opened after the first.
    pub reconnects: u64,
}

#[derive(Debug)]
pub(crate) struct Sender {
    stream: String,
    producer: String,
    /// `None` once finished.
    input: Option<mpsc::Sender<Vec<Encoded>>>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
    /// Records taken from the user.
    sent: u64,
    /// An error on this side that ends the sender.
    ended: Option<Error>,
}

/// The right to hand over one group of messages.
pub(crate) type Permit<'a> = mpsc::Permit<'a, Vec<Encoded>>;

/// Groups of messages between sender and link: one is prepared while another is sent.
const READY_GROUPS: usize = 1;

impl Sender {
    /// Starts the link and waits until the server has accepted the stream and its schema.
    pub(crate) async fn open(
        stream: &str,
        schema: &Schema,
        slot: Option<Arc<Slot>>,
        addresses: Addresses,
        options: Options,
    ) -> Result<Self, Error> {
        let (producer, seed) = new_producer();
        let opening = Opening {
            stream: stream.to_string(),
            producer: Some(producer.clone()),
        };
        let mut first = schema_message(schema);
        first.flight_descriptor = Some(opening.descriptor());
        let (input, received) = mpsc::channel(READY_GROUPS);
        let (told, mut progress) = watch::channel(Progress::default());
        let link = Link {
            stream: stream.to_string(),
            first,
            flow: Flow {
                input: received,
                closed: false,
                slot,
                encoder: Encoder::new(),
                waiting: Default::default(),
                window: Window::new(&options),
            },
            backoff: Backoff::new(options.retry.clone(), seed),
            route: Route::new(addresses, &producer),
            peer: String::new(),
            failures: Failures::default(),
            options,
            progress: told,
        };
        let task = tokio::spawn(link.run());
        let opened = progress
            .wait_for(|now| now.opened || now.failed.is_some())
            .await;
        drop(opened);
        let stream = stream.to_string();
        let sender = Self {
            stream,
            producer,
            input: Some(input),
            progress,
            task,
            sent: 0,
            ended: None,
        };
        sender.check()?;
        Ok(sender)
    }

    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    pub(crate) fn producer(&self) -> &str {
        &self.producer
    }

    /// An error, if this sender has ended. Cheap: two loads.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &self.input {
            Some(input) if self.ended.is_none() && !input.is_closed() => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// Counts records that were taken.
    pub(crate) fn count_sent(&mut self, records: u64) {
        self.sent += records;
    }

    /// Waits until one group of messages can be handed over.
    pub(crate) async fn permit(&self) -> Result<Permit<'_>, Error> {
        self.check()?;
        match &self.input {
            Some(input) => input.reserve().await.map_err(|_| self.failure()),
            None => Err(self.failure()),
        }
    }

    /// As [`Sender::permit`], if that is possible without waiting.
    pub(crate) fn try_permit(&self) -> Option<Permit<'_>> {
        self.input
            .as_ref()
            .and_then(|input| input.try_reserve().ok())
    }

    /// Ends this sender: records it took cannot be sent.
    pub(crate) fn end(&mut self, error: Error) -> Error {
        self.task.abort();
        self.ended = Some(error.clone());
        error
    }

    /// Waits until everything that was handed over is acknowledged.
    pub(crate) async fn all_acknowledged(&mut self) -> Result<(), Error> {
        let sent = self.sent;
        let waited = self
            .progress
            .wait_for(|now| now.acknowledged >= sent || now.failed.is_some());
        drop(waited.await);
        if self.acknowledged() >= sent {
            Ok(())
        } else {
            Err(self.failure())
        }
    }

    /// Closes the call. Everything is acknowledged.
    pub(crate) async fn close(mut self) -> Report {
        self.input = None;
        let _ = (&mut self.task).await;
        self.report()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.progress.borrow().acknowledged
    }

    pub(crate) fn report(&self) -> Report {
        let progress = self.progress.borrow();
        Report {
            records_sent: self.sent,
            records_acknowledged: progress.acknowledged,
            messages: progress.messages,
            bytes: progress.bytes,
            resends: progress.resends,
            reconnects: progress.reconnects,
        }
    }

    fn failure(&self) -> Error {
        let progress = self.progress.borrow();
        let tally = Tally {
            acknowledged: progress.acknowledged,
            unacknowledged: self.sent.saturating_sub(progress.acknowledged),
        };
        let known = self.ended.clone().or_else(|| progress.failed.clone());
        known.unwrap_or(Error::Stopped { tally }).with_tally(tally)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
        let Report {
            records_sent,
            records_acknowledged,
            ..
        } = self.report();
        if records_sent > records_acknowledged && !std::thread::panicking() {
            let (stream, lost) = (&self.stream, records_sent - records_acknowledged);
            tracing::warn!(
                stream,
                lost,
                "a sender was dropped with records not acknowledged"
            );
        }
    }
}

/// A unique name, and a seed.
fn new_producer() -> (String, u64) {
    // The keys of a RandomState come from the operating system's randomness.
    let random = RandomState::new();
    let (high, low) = (random.hash_one(0), random.hash_one(1));
    (format!("{high:016x}{low:016x}"), low)
}
