//! Printing to standard output and standard error.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::Write;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams_cluster::app::Console;
use serde::Serialize;
use tokio::time::timeout;

use crate::error::Error;

/// How long a line waits for a reader of standard output before a warning.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(2);
/// The most warnings held back for the terminal; older ones are dropped.
const MAX_DEFERRED: usize = 100;

/// Prints one line after all unread ones; waits while there are many of those. Cancel-safe.
pub async fn print_line(line: impl Display) -> Result<(), Error> {
    let mut printed = pin!(Console::stdout().line(line));
    let printed = match timeout(UNREAD_TIMEOUT, &mut printed).await {
        Ok(printed) => printed,
        Err(_) => {
            warn("nobody reads standard output: later output waits, and so do the producers");
            printed.await
        }
    };
    printed.map_err(Error::Output)
}

/// Waits until all output is written.
pub async fn written() -> Result<(), Error> {
    Console::stdout().written().await.map_err(Error::Output)
}

/// Prints one line; never blocks if nobody reads it.
pub fn offer_line(line: impl Display) {
    Console::stdout().offer(format!("{line}\n"));
}

/// Prints one line and flushes it; may block. For commands that a signal can end at any time.
pub fn print(line: impl Display) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// `object` as one line of JSON.
pub fn json(object: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(object).map_err(|error| Error::Output(error.into()))
}

/// Prints a warning on standard error; never blocks if nobody reads it.
pub fn warn(line: impl Display) {
    warn_from("dstreams", line);
}

/// Prints a warning of `who`.
pub fn warn_from(who: impl Display, line: impl Display) {
    let line = format!("{who}: {line}");
    if let Some(lines) = &mut *deferred() {
        lines.push_back(line);
        if lines.len() > MAX_DEFERRED {
            lines.pop_front();
        }
        return;
    }
    Console::stderr().offer(line + "\n");
}

/// Warnings held back until the terminal can show them.
static DEFERRED: Mutex<Option<VecDeque<String>>> = Mutex::new(None);

fn deferred() -> MutexGuard<'static, Option<VecDeque<String>>> {
    DEFERRED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds back warnings while it lives, since the terminal shows something else.
pub struct Quiet(());

impl Quiet {
    /// Holds back warnings from now on.
    pub fn begin() -> Self {
        deferred().get_or_insert_default();
        Quiet(())
    }

    /// The last warning.
    pub fn last(&self) -> Option<String> {
        deferred().as_ref()?.back().cloned()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        for line in deferred().take().unwrap_or_default() {
            Console::stderr().offer(line + "\n");
        }
    }
}
