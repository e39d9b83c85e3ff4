//! [`SourcesEnd`]: stops a program when all its sources have ended.

use std::sync::{Arc, Mutex, PoisonError};

use super::mailbox::{Inbox, Mailbox};
use crate::error::Error;
use crate::program::{Description, Listener};

/// Counts the ends of sources, each of which ends once, and notifies the master's loop of the last.
struct SourcesEnd {
    left: Mutex<Left>,
    mailbox: Mailbox,
}

struct Left {
    sources: usize,
    /// The first error of a source.
    error: Option<Error>,
}

impl Inbox {
    /// Makes the program stop once all its sources have ended, if it is configured to. Call it before sources run.
    pub fn stop_when_sources_end(&self, parts: &mut Description) {
        if let Some(sources) = parts.sources_to_wait_for() {
            let ends = SourcesEnd::new(sources, self.mailbox());
            parts.listeners.push(Arc::new(ends));
        }
    }
}

impl SourcesEnd {
    fn new(sources: usize, mailbox: Mailbox) -> Self {
        let left = Mutex::new(Left {
            sources,
            error: None,
        });
        SourcesEnd { left, mailbox }
    }

    fn one_less(&self, error: Option<&Error>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.sources = left.sources.saturating_sub(1);
        left.error = left.error.take().or_else(|| error.cloned());
        if left.sources == 0 {
            self.mailbox.stop(true, left.error.take());
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
