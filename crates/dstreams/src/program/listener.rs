//! Listeners: user code that watches batches.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dstreams_control::{BatchReport, BatchTime};

use crate::error::Error;
use crate::stream::rows::panic_message;

/// Is notified about batches. Called from the context's own task: return soon, and do not block. A panic is logged,
/// and has no other effect.
pub trait Listener: Send + Sync + 'static {
    /// A batch was cut: it has `records` records.
    fn batch_submitted(&self, _batch: BatchTime, _records: u64) {}
    /// A batch runs; attempts count from 1.
    fn batch_started(&self, _batch: BatchTime, _attempt: u32) {}
    /// A batch took effect.
    fn batch_completed(&self, _report: &BatchReport) {}
    /// The records of a batch were set aside: see [`OnFailure::SetAside`](crate::OnFailure::SetAside).
    fn batch_set_aside(&self, _batch: BatchTime, _error: &Error) {}
    /// A batch failed for good, and the context stops.
    fn batch_failed(&self, _batch: BatchTime, _error: &Error) {}
    /// A source has brought all its records and ended by itself.
    fn source_ended(&self, _stream: &str) {}
    /// A source ended with an error; the others continue.
    fn source_failed(&self, _stream: &str, _error: &Error) {}
}

/// Calls a listener: its panics must not end a program.
pub(crate) fn notify(listener: &dyn Listener, what: impl Fn(&dyn Listener)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| what(listener))) {
        let message = panic_message(&*panic);
        tracing::error!(message, "a listener panicked");
    }
}
