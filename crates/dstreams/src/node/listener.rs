//! Listeners: programs that watch batches.

use dstreams_control::{BatchReport, BatchTime};

use crate::error::Error;

/// Is told about batches. Called from the context's own task: return soon.
pub trait Listener: Send + Sync + 'static {
    /// A batch was cut: it has `records` records.
    fn batch_submitted(&self, _batch: BatchTime, _records: u64) {}
    /// A batch runs; attempts count from 1.
    fn batch_started(&self, _batch: BatchTime, _attempt: u32) {}
    /// A batch took effect.
    fn batch_completed(&self, _report: &BatchReport) {}
    /// A batch was given up, and the context stops.
    fn batch_failed(&self, _batch: BatchTime, _error: &Error) {}
    /// A source has brought all its records and ended by itself.
    fn source_ended(&self, _stream: &str) {}
    /// A source ended with an error; the others go on.
    fn source_failed(&self, _stream: &str, _error: &Error) {}
}
