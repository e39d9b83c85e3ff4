//! Checks for your own tests: does a [`Sink`](crate::Sink) or a [`Source`](crate::Source) fulfil its contract,
//! whatever fails?
//!
//! They play the engine: [`sink()`] prepares and commits batches, [`source()`] receives records; both end the
//! process at any moment, start it again, and check the outcome.

mod process;
mod sink;
mod source;

use std::fmt::Debug;

use dstreams_control::BatchTime;

pub use sink::{
    ATOMIC_COMMIT, DECLARES_GUARANTEE, HIDDEN_UNTIL_COMMIT, IDEMPOTENT_COMMIT,
    REPORTS_NEWEST_BATCH, SUCCEEDS_ON_RETRY, WHOLE_BATCH, sink,
};
pub use source::{
    EACH_RECORD_ONCE, FAILS_ON_REFUSAL, MONOTONIC_OFFSETS, RESUMES_AT_OFFSETS, RUNS_WITHOUT_ERROR,
    STOPS_ON_REQUEST, WAITS_FOR_PUSHES, source,
};

/// A violation of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{promise} ({}{step}): {found}", at(.batch))]
#[non_exhaustive]
pub struct Violation {
    /// The broken promise.
    pub promise: &'static str,
    /// For a sink: the batch that was written.
    pub batch: Option<BatchTime>,
    /// The last step before it was noticed.
    pub step: String,
    /// What is wrong.
    pub found: String,
}

fn at(batch: &Option<BatchTime>) -> String {
    batch.map_or_else(String::new, |batch| format!("batch {batch}, "))
}

/// Records as sorted text.
fn sorted<T: Debug>(records: impl IntoIterator<Item = T>) -> Vec<String> {
    let records = records.into_iter().map(|record| format!("{record:?}"));
    let mut records: Vec<_> = records.collect();
    records.sort();
    records
}
