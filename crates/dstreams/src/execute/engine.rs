//! The interface of an engine.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::previous_batch::PreviousBatch;
use crate::error::Result;
use crate::plan::{Partitions, Probe, Template};

/// One batch to run.
pub struct Job {
    pub batch: BatchTime,
    /// The batch before it, if that is known: see [`StateInstaller::install`].
    pub before: Option<PreviousBatch>,
    pub template: Arc<Template>,
    /// For each input, the rows of each task.
    pub inputs: Vec<Partitions>,
    pub installs: Arc<dyn StateInstaller>,
}

/// The dataset of each output, in order; none if the output has no RDD at that time.
pub struct JobOutput(pub Vec<Option<Partitions>>);

/// The receiver of a batch's deltas, which has the states. Installing is idempotent by batch.
pub trait StateInstaller: Send + Sync {
    /// The number of partitions of a state.
    fn partitions(&self, state: usize) -> usize;

    /// Installs the rows of a batch in one partition of a state, which must have those of the batch `before`. If that is
    /// not given, it is the interval before.
    fn install(
        &self,
        state: usize,
        partition: usize,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        delta: &[RecordBatch],
    ) -> Result<()>;

    /// The rows with the values that the partition has for their keys, as of the batch or the one before.
    fn probe(
        &self,
        state: usize,
        partition: usize,
        batch: BatchTime,
        probe: &Probe,
        rows: &[RecordBatch],
    ) -> Result<Vec<RecordBatch>>;

    /// The current output of the partition.
    fn read(&self, state: usize, partition: usize) -> Result<Vec<RecordBatch>>;
}
