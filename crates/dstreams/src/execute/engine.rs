//! What an engine takes and gives.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use crate::error::Result;
use crate::plan::{Partitions, Template};

/// One batch to run.
pub struct Job {
    pub batch: BatchTime,
    pub template: Arc<Template>,
    /// For each input, the rows of each task.
    pub inputs: Vec<Partitions>,
    pub installs: Arc<dyn Installs>,
}

/// The dataset of each output, in their order; none where the output has no RDD at that time.
pub struct JobOutput(pub Vec<Option<Partitions>>);

/// Where the deltas of a batch go: the holder of states. Installing is idempotent by batch.
pub trait Installs: Send + Sync {
    /// Number of partitions of a state.
    fn partitions(&self, state: usize) -> usize;

    /// Takes in what a batch adds to one partition of a state.
    fn install(
        &self,
        state: usize,
        partition: usize,
        batch: BatchTime,
        delta: &[RecordBatch],
    ) -> Result<()>;

    /// What the partition gives now.
    fn read(&self, state: usize, partition: usize) -> Result<Vec<RecordBatch>>;
}
