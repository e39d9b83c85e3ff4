//! [`ClusterWorkers`]: carries out the controller's decisions on the workers.

use std::sync::Arc;

use async_trait::async_trait;
use dstreams::arrow::array::RecordBatch;
use dstreams::internal::{
    Block, CheckpointPlan, Dataset, Plans, PreviousBatch, Receivers, RecoverySource, Usage,
    Workers, Writing,
};
use dstreams::{Error, Result};
use dstreams_control::cluster::ClusterEvent;
use dstreams_control::durable::CheckpointedBlocks;
use dstreams_control::{BatchTime, BlockId, BlockMeta, Due, ReceiverId};

use super::batch::{BatchRunner, Wanted};
use super::cluster_state::ClusterState;
use super::hub::Hub;
use super::rebuild::{REPLAYED_AT_ONCE, StateRebuild};
use crate::link::ToWorker;
use crate::retry::retryable;

/// The [`Workers`] of a cluster: carries out the controller's decisions on other machines.
pub struct ClusterWorkers {
    pub hub: Arc<Hub>,
    pub batches: BatchRunner,
    pub interval_ms: u64,
    /// The receivers of the master itself.
    pub own: Arc<Receivers>,
    /// Number of this process among those of the state directory, if there is one.
    pub incarnation: Option<u64>,
    /// One rebuild of the state at a time.
    pub rebuilds: tokio::sync::Mutex<()>,
}

impl ClusterWorkers {
    /// Rebuilds the state as of the last commit: `all` of it, or what was lost. Hold the lock of
    /// [`rebuilds`](Self::rebuilds).
    pub async fn rebuild(&self, from: &RecoverySource, all: bool) -> Result<()> {
        let rebuild = StateRebuild {
            hub: &self.hub,
            batches: &self.batches,
            from,
            all,
            interval_ms: self.interval_ms,
        };
        rebuild.run().await
    }
}

#[async_trait]
impl Workers for ClusterWorkers {
    fn plans(&self) -> &Plans {
        &self.batches.plans
    }

    fn receivers(&self) -> Vec<ReceiverId> {
        self.own.ids()
    }

    fn seal(&self, batch: BatchTime) {
        let last = self.own.is_closing();
        self.hub.broadcast(&ToWorker::Seal { batch, last });
        self.own.seal(batch, last);
    }

    fn close(&self) {
        self.own.close();
        self.hub.change(|state| state.stop(ToWorker::Close));
    }

    fn stop_waiting(&self) {
        self.own.stop_waiting();
        self.hub.change(|state| state.stop(ToWorker::Hurry));
    }

    /// The first stages of a batch run while the previous batch finishes.
    fn max_running(&self) -> usize {
        2
    }

    /// Their bytes have no bound: a resume has all blocks in memory already.
    fn max_replayed(&self) -> usize {
        REPLAYED_AT_ONCE
    }

    /// When a worker is lost, the engine runs its tasks elsewhere; but tasks on its state cannot move, so
    /// the batch is retried with the standby.
    async fn run(
        &self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<Vec<Option<Dataset>>> {
        let wanted = (blocks, Wanted::All);
        self.batches.run(batch, before, attempt, wanted).await
    }

    async fn replay_batch(
        &self,
        batch: BatchTime,
        before: Option<PreviousBatch>,
        attempt: u32,
        blocks: &[BlockMeta],
    ) -> Result<()> {
        let wanted = (blocks, Wanted::States);
        let done = self.batches.run(batch, before, attempt, wanted).await;
        done.map(drop)
    }

    async fn due(&self, after: BatchTime) -> Result<Option<Due>> {
        let states = &self.batches.states;
        if !states.any() {
            return Ok(None);
        }
        let over = |state: &ClusterState| over(state).or_else(|| states.lost_for_good(state));
        tokio::select! {
            due = self.batches.due(after) => due,
            error = self.hub.until(over) => Err(error),
        }
    }

    async fn block(&self, block: BlockMeta) -> Result<(u32, Arc<Block>)> {
        self.batches.rows.block(block).await
    }

    async fn recover_state(&self, from: RecoverySource) -> Result<()> {
        let _alone = self.rebuilds.lock().await;
        self.rebuild(&from, true).await
    }

    fn forget(&self, batch: BatchTime, blocks: &[BlockId]) {
        self.batches.states.commit(Some(batch));
        self.hub.change(|state| {
            state.versions.recovery.committed(batch);
            state.step(ClusterEvent::Committed { batch });
        });
        self.hub.step(ClusterEvent::Forgotten {
            blocks: blocks.to_vec(),
        });
        self.batches.states.forget(batch);
        self.batches.rows.store.forget(blocks);
    }

    async fn table(&self, state: usize, batch: BatchTime) -> Result<Vec<Vec<RecordBatch>>> {
        let unreadable = |state: &ClusterState| {
            let lost = || {
                state
                    .versions
                    .recovery
                    .waits_for_commit()
                    .then(lost_until_commit)
            };
            over(state).or_else(lost)
        };
        tokio::select! {
            rows = self.batches.read_state(state, batch) => rows,
            error = self.hub.until(unreadable) => Err(error),
        }
    }

    fn capture(&self, plan: &CheckpointPlan) -> Result<Writing> {
        let partitions = self.batches.states.partitions();
        self.hub
            .change(|state| state.checkpoint(plan, partitions))?;
        let hub = Arc::clone(&self.hub);
        Ok(Box::pin(async move {
            hub.until(|state| state.round.done()).await
        }))
    }

    fn checkpointed(&self, batch: BatchTime, blocks: &CheckpointedBlocks) {
        let blocks = blocks.clone();
        self.hub.broadcast(&ToWorker::Covered { batch, blocks });
    }

    async fn end(&self, failed: bool) {
        self.own.end().await;
        self.batches.rows.store.clear();
        // With a state directory, workers wait for the next process, which resumes the program.
        self.hub.end(failed && self.incarnation.is_some());
    }

    fn usage(&self) -> Usage {
        let mut usage = self.own.usage(self.batches.rows.store.len());
        let state = self.hub.lock();
        usage.forgotten_producers += state.machine().forgotten_producers();
        for (_, worker) in state.roster.all() {
            usage.blocks += worker.usage.blocks;
            usage.block_memory += worker.usage.block_memory;
            for (stream, count) in &worker.usage.dead_letters {
                *usage.dead_letters.entry(stream.clone()).or_default() += count;
            }
            for (operator, count) in &worker.usage.rejected {
                *usage.rejected.entry(operator.clone()).or_default() += count;
            }
        }
        usage
    }
}

/// The state is lost, and recovered once a batch is committed: an output of that batch may be who reads it.
fn lost_until_commit() -> Error {
    retryable("the state is lost; it is rebuilt once the batch before is committed")
}

/// Why nothing more is to be expected of the workers.
pub fn over(state: &ClusterState) -> Option<Error> {
    let ended = || state.has_ended().then_some(Error::NotRunning);
    state.broken().or_else(ended)
}
