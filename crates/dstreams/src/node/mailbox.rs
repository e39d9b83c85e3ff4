//! [`Mailbox`]: how workers, sources and outputs report to the master's loop.
//!
//! The channel is unbounded: the number of messages is bounded by a few for each running batch, each receiver and
//! each producer, and these are bounded.

use dstreams_control::{BatchTime, Event};
use tokio::sync::mpsc;

use crate::commit::PreparedBatch;
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// A message to the loop.
pub(super) enum Message {
    Event(Event),
    Ran {
        batch: BatchTime,
        attempt: u32,
        result: Result<Vec<PreparedBatch>>,
    },
    Committed {
        batch: BatchTime,
        outputs: Vec<PreparedBatch>,
        result: Result<()>,
    },
    /// The records of a batch were set aside, or that failed.
    SetAside {
        batch: BatchTime,
        result: Result<()>,
    },
    /// Stop the program; it ends with the `failure`, if there is one.
    Stop {
        graceful: bool,
        failure: Option<Error>,
    },
}

/// The inbox of a master's loop that has not started.
pub struct Inbox(
    pub(super) mpsc::UnboundedSender<Message>,
    pub(super) mpsc::UnboundedReceiver<Message>,
);

debug_as!(Inbox);

impl Inbox {
    /// An empty inbox.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Inbox(sender, receiver)
    }

    /// A mailbox that sends to this inbox.
    pub fn mailbox(&self) -> Mailbox {
        Mailbox(self.0.clone())
    }
}

/// Sends events of workers to the inbox of the master's loop.
#[derive(Clone)]
pub struct Mailbox(pub(super) mpsc::UnboundedSender<Message>);

debug_as!(Mailbox);

impl Mailbox {
    /// Sends an event; without effect once the loop has ended.
    pub fn send(&self, event: Event) {
        let _ = self.0.send(Message::Event(event));
    }

    /// Asks the program to stop, and to end with the `failure` if there is one.
    pub fn stop(&self, graceful: bool, failure: Option<Error>) {
        let _ = self.0.send(Message::Stop { graceful, failure });
    }
}
