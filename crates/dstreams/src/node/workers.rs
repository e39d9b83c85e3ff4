//! [`Workers`]: where receivers and tasks are.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use dstreams_control::durable::Covered;
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

use crate::blocks::Block;
use crate::checkpoint::set_aside::Earlier;
use crate::checkpoint::writer::{CheckpointPlan, Writing};
use crate::commit::Dataset;
use crate::error::Result;
use crate::plan::Plans;

/// Receivers and tasks: of this process, or of the workers of a cluster. Carries out what the
/// master's controller decides; what takes time is started, and its end comes back as an event.
#[async_trait]
pub trait Workers: Send + Sync + 'static {
    /// The plans that it runs.
    fn plans(&self) -> &Plans;

    /// The receivers that are there at the start.
    fn receivers(&self) -> Vec<ReceiverId>;

    /// Has every receiver seal what it has, and answer with [`Event::Reported`](dstreams_control::Event::Reported).
    fn seal(&self, batch: BatchTime);

    /// Takes in nothing more.
    fn close(&self);

    /// Has every receiver answer the last seal now, though its source has not ended.
    fn hurry(&self);

    /// Batches that run at once. With more than one, a batch is run while those before it may still
    /// run, and waits by itself for the state that it begins with.
    fn max_running(&self) -> usize {
        1
    }

    /// Runs a batch, which begins with the state as of the batch `after`, the one before it: the
    /// dataset of each output, in their order; none where an output has no RDD at that time.
    /// Dropping the future aborts the run.
    async fn run(
        &self,
        batch: BatchTime,
        after: Option<BatchTime>,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Dataset>>>;

    /// Runs a batch that took effect, for its state alone.
    async fn run_again(&self, batch: BatchTime, attempt: u32, blocks: &[BlockMeta]) -> Result<()> {
        self.run(batch, None, attempt, blocks).await.map(drop)
    }

    /// A block of a batch that has not taken effect, with its input. Only where batches may be set aside.
    async fn block(&self, block: BlockMeta) -> Result<(u32, Arc<Block>)>;

    /// Makes the state as of the last batch that took effect again, whatever was installed since. No batch runs
    /// meanwhile, but what waits for the one that is set aside. Only where batches may be set aside.
    async fn make_state_again(&self, from: Earlier) -> Result<()>;

    /// The batch has taken effect: its blocks may go.
    fn forget(&self, batch: BatchTime, blocks: &[BlockId]);

    /// The program has stopped, or has `failed`: everything may go. Returns when nothing is written any more.
    async fn end(&self, failed: bool);

    /// What is held now.
    fn held(&self) -> Usage;

    /// The rows of a state as of a batch that took effect, by partition; fails where one of these has that version no
    /// more: see [`States::table`](crate::state::States::table).
    async fn table(&self, state: usize, batch: BatchTime) -> Result<Vec<Vec<RecordBatch>>>;

    /// Takes the state as of a batch that has taken effect, and has it written. Called before that one is
    /// forgotten: a later one must not be installed before the state is taken, writing it may take longer.
    fn capture(&self, plan: &CheckpointPlan) -> Result<Writing>;

    /// A checkpoint of this batch is there, with these blocks.
    fn covered(&self, batch: BatchTime, blocks: &Covered);
}

/// What receivers hold.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Bytes that received records hold.
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
