//! Opens sources and runs them to their end. [`Sources`] are those of a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams_control::ReceiverId;
use futures::FutureExt;
use futures::future::join_all;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::debug::debug_as;
use crate::error::{BoxError, Error, Result};
use crate::program::{Listener, notify};
use crate::receive::{Ingest, Intake, Source, StopSignal};
use crate::stream::rows::panic_message;

/// Opens a source; returns the address it listens on, if any.
pub async fn open_source(
    source: &mut dyn Source,
    intake: &Arc<Intake>,
) -> Result<Option<SocketAddr>> {
    source.connect(&Ingest(Arc::clone(intake)));
    let opened = source.open().await;
    let opened = opened.map_err(|error| source_error(&intake.stream, error))?;
    if let Some(address) = opened {
        log_reachable(&format!("stream `{}`", intake.stream), address, false);
    }
    Ok(opened)
}

/// Logs that other machines can reach this process, if they can: once for each address, when it is opened.
pub fn log_reachable(what: &str, address: SocketAddr, asks: bool) {
    if address.ip().to_canonical().is_loopback() {
        return;
    }
    match asks {
        true => tracing::warn!(%address, "other machines can reach {what}; it asks for the token"),
        false => tracing::warn!(
            %address,
            "other machines can reach {what}, and nothing asks for a token there: anyone who reaches it can use it"
        ),
    }
}

fn source_error(stream: &str, error: BoxError) -> Error {
    Error::Source {
        stream: stream.to_owned(),
        cause: error.into(),
    }
}

/// Runs a source to its end; an error or a panic is reported to the listeners.
pub async fn run_source(
    source: Box<dyn Source>,
    ingest: Ingest,
    closing: StopSignal,
    listeners: Vec<Arc<dyn Listener>>,
) {
    let intake = Arc::clone(&ingest.0);
    let stream = ingest.stream().to_owned();
    let ran = AssertUnwindSafe(source.run(ingest, closing.clone()))
        .catch_unwind()
        .await;
    let ended = ran.unwrap_or_else(|panic| Err(panic_message(&*panic).into()));
    if let Err(error) = ended {
        let error = source_error(&stream, error);
        tracing::error!(%error, "source failed");
        let failed = |l: &dyn Listener| l.source_failed(&stream, &error);
        listeners.iter().for_each(|l| notify(&**l, failed));
        return;
    }
    intake.end_time();
    if !closing.is_requested() {
        let ended = |l: &dyn Listener| l.source_ended(&stream);
        listeners.iter().for_each(|l| notify(&**l, ended));
    }
}

/// How long sources may take to end after the program has ended: for the last answers to clients.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The sources that run in a process, by receiver.
#[derive(Default)]
pub struct Sources {
    running: Mutex<BTreeMap<ReceiverId, Started>>,
    /// Cancelled when no source is waited for any longer.
    stopped_waiting: CancellationToken,
}

debug_as!(Sources);

/// A source that was started.
struct Started {
    stream: String,
    ended: CancellationToken,
    task: AbortHandle,
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ReceiverId, Started>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the source of a receiver; it has ended when `run` has completed or was dropped.
    pub fn spawn(&self, intake: &Intake, run: impl Future<Output = ()> + Send + 'static) {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _guard = guard;
            run.await
        });
        let source = Started {
            stream: intake.stream.clone(),
            ended,
            task: task.abort_handle(),
        };
        self.lock().insert(intake.receiver(), source);
    }

    /// Waits until the source of this receiver has ended, or all if none is given; returns at once after
    /// [`Sources::stop_waiting`].
    pub async fn ended(&self, receiver: Option<ReceiverId>) {
        let waits: Vec<_> = {
            let running = self.lock();
            let asked = |of: &ReceiverId| receiver.is_none_or(|receiver| receiver == *of);
            let asked = running.iter().filter(|(of, _)| asked(of));
            asked
                .map(|(_, source)| source.ended.clone().cancelled_owned())
                .collect()
        };
        tokio::select! {
            _ = join_all(waits) => {}
            () = self.stopped_waiting.cancelled() => {}
        }
    }

    /// Stops waiting for sources to end.
    pub fn stop_waiting(&self) {
        self.stopped_waiting.cancel();
        self.lock().retain(|_, source| !source.ended.is_cancelled());
        for source in self.lock().values() {
            let stream = &source.stream;
            tracing::warn!(
                stream,
                "the source does not stop: its further records are refused"
            );
        }
    }

    /// Called when the program has ended: sources that do not end by themselves are dropped, which frees their
    /// addresses.
    pub async fn end(&self) {
        let running = std::mem::take(&mut *self.lock());
        if !self.stopped_waiting.is_cancelled() {
            let all = join_all(running.values().map(|source| source.ended.cancelled()));
            let _ = tokio::time::timeout(END_TIMEOUT, all).await;
        }
        running.values().for_each(|source| source.task.abort());
    }
}
