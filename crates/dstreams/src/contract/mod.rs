//! Checks for your own tests: does a [`Sink`](crate::Sink) or a [`Source`](crate::Source) keep its promise,
//! whatever fails?
//!
//! They play the engine: [`sink()`] prepares and commits batches, [`source()`] takes records in; both end the
//! process at any moment, come again, and look at what is there.

mod process;
mod sink;
mod source;

use std::fmt::Debug;

use dstreams_control::BatchTime;

pub use sink::{ATOMIC, HIDDEN, ONCE, REMEMBERS, SAYS_SO, WHOLE, WORKS, sink};
pub use source::{CLOSES, FAILS, GIVES, GOES_ON, GROWS, RUNS, WAITS, source};

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{promise} ({}{step}): {found}", at(.batch))]
#[non_exhaustive]
pub struct Broken {
    /// The promise.
    pub promise: &'static str,
    /// The batch that was written, by a sink.
    pub batch: Option<BatchTime>,
    /// What had just been done.
    pub step: String,
    /// What is wrong.
    pub found: String,
}

fn at(batch: &Option<BatchTime>) -> String {
    batch.map_or_else(String::new, |batch| format!("batch {batch}, "))
}

/// Records as text, in an order of their own.
fn sorted<T: Debug>(records: impl IntoIterator<Item = T>) -> Vec<String> {
    let records = records.into_iter().map(|record| format!("{record:?}"));
    let mut records: Vec<_> = records.collect();
    records.sort();
    records
}
