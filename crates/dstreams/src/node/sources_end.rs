//! [`SourcesEnd`]: stops a program when all its sources have ended, or when one fails that gives the time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::mailbox::{Inbox, Mailbox};
use crate::error::{Error, Result};
use crate::program::{Description, Listener};
use crate::receive::SourceTime;

/// Counts the ends of sources, each of which ends once, and notifies the master's loop of the last.
struct SourcesEnd {
    left: Mutex<Left>,
    /// The time that runs on before the program stops, and how far.
    run_on: Option<(SourceTime, Duration)>,
    mailbox: Mailbox,
}

/// Stops the program when a source fails that gives the time.
struct TimeFails {
    streams: BTreeSet<String>,
    time: SourceTime,
    mailbox: Mailbox,
}

struct Left {
    sources: usize,
    /// The first error of a source.
    error: Option<Error>,
}

impl Inbox {
    /// Makes the program stop once all its sources have ended, if it is configured to, and prepares a clock of the
    /// sources. Call it before sources run.
    pub fn stop_when_sources_end(&self, parts: &mut Description) -> Result<()> {
        parts.begin_source_time()?;
        let time = parts.clock.source_time().cloned();
        if let Some(time) = &time {
            let of = |(at, (name, _)): (u32, (String, _))| time.has(at).then_some(name);
            // First: what such a source left is not one more batch.
            parts.listeners.push(Arc::new(TimeFails {
                streams: (0..).zip(parts.inputs()).filter_map(of).collect(),
                time: time.clone(),
                mailbox: self.mailbox(),
            }));
        }
        if let Some((sources, run_on)) = parts.sources_to_wait_for() {
            let left = Mutex::new(Left {
                sources,
                error: None,
            });
            parts.listeners.push(Arc::new(SourcesEnd {
                left,
                run_on: time.zip(Some(run_on)),
                mailbox: self.mailbox(),
            }));
        }
        Ok(())
    }
}

impl SourcesEnd {
    fn one_less(&self, error: Option<&Error>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.sources = left.sources.saturating_sub(1);
        left.error = left.error.take().or_else(|| error.cloned());
        if left.sources == 0 {
            self.stop(left.error.take());
        }
    }

    fn stop(&self, error: Option<Error>) {
        let mailbox = self.mailbox.clone();
        match self.run_on.clone() {
            Some((time, by)) if error.is_none() && !by.is_zero() => {
                drop(tokio::spawn(async move {
                    time.run_on(by).await;
                    mailbox.stop(true, None);
                }))
            }
            _ => mailbox.stop(true, error),
        }
    }
}

impl Listener for TimeFails {
    fn source_failed(&self, stream: &str, error: &Error) {
        // A program that stops needs no more times.
        if self.streams.contains(stream) && !self.time.is_stopping() {
            self.mailbox.stop(false, Some(error.clone()));
        }
    }
}

impl Listener for SourcesEnd {
    fn source_ended(&self, _stream: &str) {
        self.one_less(None);
    }

    fn source_failed(&self, _stream: &str, error: &Error) {
        self.one_less(Some(error));
    }
}
