//! SIGTERM and Ctrl-C, caught from the start of a role on, so that no early signal is lost.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::Error;

/// The signals that ask a process to end.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on. Must be called inside a tokio runtime.
    pub fn catch() -> Result<Self, Error> {
        let catch = |kind| signal(kind).map_err(Error::Start);
        Ok(Signals {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
