//! [`Mailbox`]: how workers, sources and outputs report to the master's loop.
//!
//! The channel has no bound of its own: a sender sends at most a few messages for each batch that runs, each receiver
//! and each producer, and these are bounded.

use dstreams_control::{BatchTime, Event};
use tokio::sync::mpsc;

use crate::commit::PreparedBatch;
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// What comes back to the loop.
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
    /// The records of a batch are set aside, or could not be.
    SetAside {
        batch: BatchTime,
        result: Result<()>,
    },
    /// The program is to stop; with the `failure`, if there is one.
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
    /// An empty one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Inbox(sender, receiver)
    }

    /// Where events are sent to.
    pub fn mailbox(&self) -> Mailbox {
        Mailbox(self.0.clone())
    }
}

/// Where workers send events to: the inbox of the master's loop.
#[derive(Clone)]
pub struct Mailbox(pub(super) mpsc::UnboundedSender<Message>);

debug_as!(Mailbox);

impl Mailbox {
    /// Sends an event; without effect once the loop has ended.
    pub fn send(&self, event: Event) {
        let _ = self.0.send(Message::Event(event));
    }

    /// Has the program stop, and if there is a `failure`, end with it.
    pub fn stop(&self, graceful: bool, failure: Option<Error>) {
        let _ = self.0.send(Message::Stop { graceful, failure });
    }
}
