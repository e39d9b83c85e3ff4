//! [`Losses`]: the workers that the master has lost, and why.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most lost workers that are remembered.
const NEWEST: usize = 16;

/// Why a worker no longer belongs to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossReason {
    /// Its connection ended: its process has died or left.
    Ended,
    /// Nothing came from it: its process was stopped, or its messages did not arrive.
    Silent,
    /// It was heard, but did not answer: the master's messages did not arrive.
    Unanswered,
    /// It did not read the master's messages.
    Unread,
    /// It sent what is no message of this cluster.
    Garbled,
    /// It has left after its data was moved to others.
    Drained,
}

/// A worker that was lost, or has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LostWorker {
    /// Its number.
    pub id: u32,
    /// Its process.
    pub pid: u32,
    /// Its address for clients.
    pub ingest: String,
    /// Why.
    pub why: LossReason,
    /// Milliseconds since its last message, or since the first that it did not answer. Time in which the master stalled
    /// does not count.
    pub after_ms: u64,
}

/// The newest losses, and the number of all.
#[derive(Debug, Clone, Default)]
pub struct Losses {
    pub count: u64,
    newest: VecDeque<LostWorker>,
}

impl Losses {
    pub fn add(&mut self, lost: LostWorker) {
        self.count += u64::from(lost.why != LossReason::Drained);
        if self.newest.len() == NEWEST {
            self.newest.pop_front();
        }
        self.newest.push_back(lost);
    }

    /// The newest ones, the last of them at the end.
    pub fn newest(&self) -> Vec<LostWorker> {
        self.newest.iter().cloned().collect()
    }
}

impl LostWorker {
    pub(crate) fn new(
        id: u32,
        (pid, ingest): (u32, &str),
        (why, after): (LossReason, Duration),
    ) -> Self {
        LostWorker {
            id,
            pid,
            ingest: ingest.to_owned(),
            why,
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LossReason::Ended => "its connection ended",
            LossReason::Silent => "it was silent",
            LossReason::Unanswered => "it did not answer: it does not hear the master",
            LossReason::Unread => "it did not read its messages",
            LossReason::Garbled => "it sent what is no message of this cluster",
            LossReason::Drained => "it was drained",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_losses_are_remembered_and_all_are_counted() {
        let mut losses = Losses::default();
        let lost = |id, why| LostWorker::new(id, (1, "a:1"), (why, Duration::from_micros(1_999)));
        losses.add(lost(1, LossReason::Drained));
        for id in 2..20 {
            losses.add(lost(id, LossReason::Silent));
        }
        assert_eq!(losses.count, 18);
        let newest = losses.newest();
        assert_eq!(newest.first().map(|it| it.id), Some(4));
        assert_eq!(newest.last(), Some(&lost(19, LossReason::Silent)));
        assert_eq!(newest[0].after_ms, 1);
    }
}
