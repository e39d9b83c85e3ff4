//! [`Workers`]: the processes or threads that receive and compute.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use dstreams_control::durable::CheckpointedBlocks;
use dstreams_control::{BatchTime, BlockId, BlockMeta, Due, ReceiverId};

use crate::blocks::Block;
use crate::checkpoint::set_aside::RecoverySource;
use crate::checkpoint::writer::{CheckpointPlan, Writing};
use crate::commit::Dataset;
use crate::error::Result;
use crate::execute::PreviousBatch;
use crate::plan::Plans;

/// Receivers and tasks: of this process, or of the workers of a cluster. Carries out the commands of the master's
/// controller; slow ones run in the background and report their end as an event.
#[async_trait]
pub trait Workers: Send + Sync + 'static {
    /// The plans that it runs.
    fn plans(&self) -> &Plans;

    /// The receivers at the start.
    fn receivers(&self) -> Vec<ReceiverId>;

    /// Makes every receiver seal its open block, and answer with
    /// [`Event::Reported`](dstreams_control::Event::Reported).
    fn seal(&self, batch: BatchTime);

    /// Stops receiving.
    fn close(&self);

    /// Makes every receiver answer the last seal now, even if its source has not ended.
    fn stop_waiting(&self);

    /// Number of batches that may run at once. If it is more than one, a batch may start while earlier ones still
    /// run, and waits by itself for the state that it begins with.
    fn max_running(&self) -> usize {
        1
    }

    /// Number of batches that may be replayed at once. If it is more than one, each waits by itself for the state that it
    /// begins with.
    fn max_replayed(&self) -> usize {
        1
    }

    /// Runs a batch, which begins with the state as of the batch `before`. Returns the dataset of each output, in
    /// their order; `None` if an output has no RDD at that time. Dropping the future aborts the run.
    async fn run(
        &self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Dataset>>>;

    /// Replays a batch that took effect, for its state alone.
    async fn replay_batch(
        &self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<()> {
        self.run(batch, before, attempt, blocks).await.map(drop)
    }

    /// The first batches after `after` in which a state changes or has rows, if no records come; none if none ever
    /// does. All batches up to `after` took effect, and no later one was cut.
    async fn due(&self, after: BatchTime) -> Result<Option<Due>>;

    /// A block of a batch that has not taken effect, with its input. Only called if batches may be set aside.
    async fn block(&self, block: BlockMeta) -> Result<(u32, Arc<Block>)>;

    /// Recovers the state as of the last batch that took effect, whatever was installed since. No batch runs
    /// meanwhile, except those that wait for the one that is set aside. Only called if batches may be set aside.
    async fn recover_state(&self, from: RecoverySource) -> Result<()>;

    /// Called when the batch has taken effect: its blocks may be released.
    fn forget(&self, batch: BatchTime, blocks: &[BlockId]);

    /// Called when the program has stopped, or has `failed`: everything may be released. Returns when nothing is
    /// written any more.
    async fn end(&self, failed: bool);

    /// The current use of memory.
    fn usage(&self) -> Usage;

    /// The rows of a state as of a batch that took effect, by partition; fails if a partition has already dropped
    /// that version: see [`States::table`](crate::state::States::table).
    async fn table(&self, state: usize, batch: BatchTime) -> Result<Vec<Vec<RecordBatch>>>;

    /// Captures the state as of a batch that has taken effect, and starts to write it. Called before that batch is
    /// forgotten: no later batch may be installed before the state is captured, but writing may take longer.
    fn capture(&self, plan: &CheckpointPlan) -> Result<Writing>;

    /// The checkpoint of this batch is complete, and covers these blocks.
    fn checkpointed(&self, batch: BatchTime, blocks: &CheckpointedBlocks);
}

/// Memory and counters of receivers.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Bytes occupied by received records.
    pub block_memory: usize,
    /// Sealed blocks.
    pub blocks: usize,
    /// Dead letters of each stream.
    pub dead_letters: BTreeMap<String, u64>,
    /// Rejected records that nothing has read, by operator.
    pub rejected: BTreeMap<String, u64>,
    /// Producers that were forgotten because there were too many.
    pub forgotten_producers: u64,
}
