//! [`SourcesEnd`]: stops a program when all its sources have ended.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::listener::Listener;
use super::workers::Mailbox;
use crate::error::Error;

/// Listens for the ends of sources, and tells the master's loop of the last.
pub(super) struct SourcesEnd {
    left: Mutex<Left>,
    mailbox: Mailbox,
}

struct Left {
    /// Those that have not ended, by stream: one whose worker was lost after it had ended ends again.
    streams: BTreeMap<String, usize>,
    /// The first error that ended one.
    error: Option<Error>,
}

impl SourcesEnd {
    pub fn new(streams: impl Iterator<Item = String>, mailbox: Mailbox) -> Self {
        let mut left = Left {
            streams: BTreeMap::new(),
            error: None,
        };
        for stream in streams {
            *left.streams.entry(stream).or_default() += 1;
        }
        SourcesEnd {
            left: Mutex::new(left),
            mailbox,
        }
    }

    fn ended(&self, stream: &str, error: Option<&Error>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.error = left.error.take().or_else(|| error.cloned());
        let Some(running) = left.streams.get_mut(stream) else {
            return;
        };
        *running -= 1;
        if *running == 0 {
            left.streams.remove(stream);
        }
        if left.streams.is_empty() {
            self.mailbox.stop(true, left.error.take());
        }
    }
}

impl Listener for SourcesEnd {
    fn source_ended(&self, stream: &str) {
        self.ended(stream, None);
    }

    fn source_failed(&self, stream: &str, error: &Error) {
        self.ended(stream, Some(error));
    }
}
