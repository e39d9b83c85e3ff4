//! Sources: opened, and run to their end.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::listener::{Listener, tell};
use crate::error::{BoxError, Error, Result};
use crate::receive::{Closing, Ingest, Intake, Source};
use crate::stream::rows::panic_message;

/// Opens a source; returns where it listens, if it does.
pub async fn open_source(
    source: &mut dyn Source,
    intake: &Arc<Intake>,
) -> Result<Option<SocketAddr>> {
    source.connect(&Ingest(Arc::clone(intake)));
    let opened = source.open().await;
    opened.map_err(|error| source_error(&intake.stream, error))
}

fn source_error(stream: &str, error: BoxError) -> Error {
    Error::Source {
        stream: stream.to_owned(),
        cause: error.into(),
    }
}

/// Runs a source to its end; an error or a panic is told to the listeners.
pub async fn run_source(
    source: Box<dyn Source>,
    ingest: Ingest,
    closing: Closing,
    listeners: Vec<Arc<dyn Listener>>,
) {
    let stream = ingest.stream().to_owned();
    let ran = AssertUnwindSafe(source.run(ingest, closing.clone()))
        .catch_unwind()
        .await;
    let ended = ran.unwrap_or_else(|panic| Err(panic_message(&*panic).into()));
    if let Err(error) = ended {
        let error = source_error(&stream, error);
        tracing::error!(%error, "source ended");
        let failed = |l: &dyn Listener| l.source_failed(&stream, &error);
        listeners.iter().for_each(|l| tell(&**l, failed));
    } else if !closing.is_requested() {
        let ended = |l: &dyn Listener| l.source_ended(&stream);
        listeners.iter().for_each(|l| tell(&**l, ended));
    }
}
