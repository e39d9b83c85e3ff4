//! A running program: addresses, status, stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dstreams_control::{BatchReport, BatchTime, Event};
use tokio::sync::{mpsc, watch};

use super::master::Message;
use crate::batch::Clock;
use crate::error::Result;
use crate::receive::{Budget, DeadLetters};
use crate::replicate::BlockStore;

/// A program that runs. Dropping it does not stop the program.
pub struct Running {
    pub(super) addresses: BTreeMap<String, SocketAddr>,
    pub(super) messages: mpsc::UnboundedSender<Message>,
    pub(super) end: watch::Receiver<Option<Result<Summary>>>,
    pub(super) clock: Clock,
    pub(super) watched: Arc<Watched>,
}

/// What a finished program did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Batches that took effect.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Batches that were begun and did not take effect: of an abrupt stop, or past a deadline.
    pub unfinished: u64,
}

/// How a program is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Batches that took effect.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// The newest batch that took effect.
    pub last: Option<BatchReport>,
    /// Bytes that received records hold, of [`Config::block_memory`](crate::Config::block_memory).
    pub block_memory: usize,
    /// Sealed blocks held.
    pub blocks: usize,
    /// Dead letters of each stream.
    pub dead_letters: BTreeMap<String, u64>,
}

/// What a status is made from.
pub(super) struct Watched {
    pub totals: Mutex<(Summary, Option<BatchReport>)>,
    pub budget: Budget,
    pub store: Arc<BlockStore>,
    pub dead_letters: DeadLetters,
}

impl Running {
    /// The address that the stream `name` listens on.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses.get(name).copied()
    }

    /// How the program is doing now.
    pub fn status(&self) -> Status {
        let totals = self.watched.totals.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            batches: totals.0.batches,
            records: totals.0.records,
            last: totals.1.clone(),
            block_memory: self.watched.budget.used(),
            blocks: self.watched.store.len(),
            dead_letters: self.watched.dead_letters.counts(),
        }
    }

    /// The newest batch that took effect.
    pub fn last_batch(&self) -> Option<BatchTime> {
        self.status().last.map(|report| report.batch)
    }

    /// Stops the program; returns when it has stopped.
    ///
    /// `graceful` takes in nothing more, and runs and commits what was received, until `deadline`
    /// at most; otherwise the batch that runs is dropped. A second call may shorten the first,
    /// never lengthen it.
    pub async fn stop(&self, graceful: bool, deadline: Option<Duration>) -> Result<Summary> {
        self.request_stop(graceful, deadline);
        match self.await_termination(None).await? {
            Some(summary) => Ok(summary),
            None => Err(crate::Error::NotRunning),
        }
    }

    fn request_stop(&self, graceful: bool, deadline: Option<Duration>) {
        let now = self.clock.now();
        let deadline = deadline.map(|wait| {
            let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
            dstreams_control::Timestamp(now.0.saturating_add(wait))
        });
        let stop = Event::Stop { graceful, deadline };
        // If nobody listens it has stopped already.
        let _ = self.messages.send(Message::Event(stop));
    }

    /// Waits until the program has stopped, by itself or by [`Running::stop`]; `None` if it has not
    /// within `timeout`. The error of a batch that failed comes back here.
    pub async fn await_termination(&self, timeout: Option<Duration>) -> Result<Option<Summary>> {
        let mut end = self.end.clone();
        let ended = async move {
            match end.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            }
        };
        let ended = match timeout {
            Some(timeout) => match tokio::time::timeout(timeout, ended).await {
                Ok(ended) => ended,
                Err(_) => return Ok(None),
            },
            None => ended.await,
        };
        match ended {
            Some(result) => result.map(Some),
            None => Err(crate::Error::NotRunning),
        }
    }

    /// Waits for the program to end, and stops it gracefully when this process is told to end
    /// (SIGTERM, Ctrl-C): what was received is run and committed, for `deadline` at most. A second
    /// signal stops it abruptly.
    pub async fn run_until_signal(&self, deadline: Duration) -> Result<Summary> {
        let mut asked = false;
        loop {
            tokio::select! {
                ended = self.await_termination(None) => match ended? {
                    Some(summary) => return Ok(summary),
                    None => return Err(crate::Error::NotRunning),
                },
                () = signal() => {
                    tracing::info!(graceful = !asked, "asked to stop");
                    self.request_stop(!asked, Some(deadline));
                    asked = true;
                }
            }
        }
    }
}

/// Waits for SIGTERM or Ctrl-C.
async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                done = tokio::signal::ctrl_c() => if done.is_ok() { return },
            }
        }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_ok() {
        return;
    }
    // Without signals the program ends by itself only.
    std::future::pending::<()>().await
}
