//! [`Tally`]: how often what happened.
//!
//! With it the test asserts that each trouble really struck.

use std::collections::BTreeMap;

/// Everything that must have happened somewhere in ten thousand seeds.
pub const MUST_HAPPEN: &[&str] = &[
    "Abort given",
    "CommitFailed for good",
    "CommitFailed retryable",
    "Fail given",
    "Failed for good",
    "Failed retryable",
    "clock stepped back",
    "cut of no blocks",
    "cut without all reports",
    "deadline passed",
    "duplicate delivered",
    "every received block cut after a graceful stop",
    "node stood still",
    "noise delivered",
    "receiver joined",
    "receiver left",
    "receiver left and blocks were lost",
    "receiver left with a Seal outstanding",
    "receiver left with unreported blocks",
    "report after its cut",
    "report of one that has left",
    "several stops",
    "stop abrupt",
    "stop abrupt during a commit",
    "stop graceful",
    "stop graceful with a Seal outstanding",
    "world survived and caught up",
    "world without receivers",
];

#[derive(Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn merge(&mut self, other: Tally) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// What of [`MUST_HAPPEN`] did not.
    pub fn missing(&self) -> Vec<&'static str> {
        MUST_HAPPEN
            .iter()
            .copied()
            .filter(|what| !self.0.contains_key(what))
            .collect()
    }

    pub fn lines(&self) -> String {
        self.0
            .iter()
            .map(|(what, count)| format!("{count:>9}  {what}\n"))
            .collect()
    }
}
