//! Printing: lines on standard output, one for each batch.

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

/// How long a line waits for whoever reads standard output before that is said.
const UNREAD: Duration = Duration::from_secs(2);
/// Warnings that wait for the terminal at most: the newest.
const MOST_HELD: usize = 100;

/// Prints one line, behind those that wait to be read: waits while there are many. Can be cancelled.
pub async fn say(line: impl Display) -> Result<(), Error> {
    let mut said = pin!(Console::stdout().line(line));
    let said = match timeout(UNREAD, &mut said).await {
        Ok(said) => said,
        Err(_) => {
            warn("nobody reads standard output: what comes next waits, and so do its producers");
            said.await
        }
    };
    said.map_err(Error::Output)
}

/// Waits until all that was printed is written.
pub async fn written() -> Result<(), Error> {
    Console::stdout().written().await.map_err(Error::Output)
}

/// Prints one line that nobody has to read.
pub fn tell(line: impl Display) {
    Console::stdout().offer(format!("{line}\n"));
}

/// Prints one line, at once. For commands that a signal ends, whatever they wait for.
pub fn print(line: impl Display) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// One JSON object as a line.
pub fn json(object: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(object).map_err(|error| Error::Output(error.into()))
}

/// Says something beside the output; nobody reading it is no problem.
pub fn warn(line: impl Display) {
    warn_from("dstreams", line);
}

/// Says something that `who` has to say.
pub fn warn_from(who: impl Display, line: impl Display) {
    let line = format!("{who}: {line}");
    if let Some(lines) = &mut *held() {
        lines.push_back(line);
        if lines.len() > MOST_HELD {
            lines.pop_front();
        }
        return;
    }
    Console::stderr().offer(line + "\n");
}

/// Warnings that wait until the terminal can show them.
static HELD: Mutex<Option<VecDeque<String>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<VecDeque<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Warnings wait as long as this lives: the terminal shows something else.
pub struct Quiet(());

impl Quiet {
    /// From now on.
    pub fn begin() -> Self {
        held().get_or_insert_default();
        Quiet(())
    }

    /// The last warning.
    pub fn last(&self) -> Option<String> {
        held().as_ref()?.back().cloned()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        for line in held().take().unwrap_or_default() {
            Console::stderr().offer(line + "\n");
        }
    }
}
