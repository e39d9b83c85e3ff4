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

pub use sink::{ATOMIC, DECLARES_GUARANTEE, HIDDEN, ONCE, REMEMBERS, WHOLE, WORKS, sink};
pub use source::{CLOSES, COMPLETE, FAILS, GROWS, RESUMES, RUNS, WAITS, source};

/// A violation of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{promise} ({}{step}): {found}", at(.batch))]
#[non_exhaustive]
pub struct Broken {
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
