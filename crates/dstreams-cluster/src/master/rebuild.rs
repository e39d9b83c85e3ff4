//! [`StateRebuild`]: the state as of the last committed batch is rebuilt: all of it after a batch was set aside, since tasks
//! of the batch may have changed it; and what was lost, after all workers that had a partition were lost.
//!
//! Primaries that live stay the same. They restore the newest checkpoint; the committed batches after it are replayed
//! for their state alone, on blocks of the journals, several at once: the first stages of a batch run while those before it
//! are installed. Partitions that were not lost stay as they are, unless a state needs rows of another state as of earlier
//! batches. If all workers with a partition are lost meanwhile, the batches are replayed again for that partition.
//! A partition that is rebuilt has no standby; it is copied afterwards.

use std::time::Instant;

use dstreams::internal::{PreviousBatch, RecoveryBatch, RecoverySource, point};
use dstreams::{Error, Result};
use dstreams_control::BlockId;
use dstreams_control::cluster::ClusterEvent;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};

use super::batch::{BatchRunner, Wanted};
use super::cluster_state::ClusterState;
use super::hub::Hub;

/// The most tries to rebuild the state, each ended by the loss of a primary.
const MAX_ROUNDS: u32 = 10;
/// Batches that are replayed at once.
pub const REPLAYED_AT_ONCE: usize = 3;
/// The bytes of their blocks, which are in memory: at least one batch.
const MAX_BYTES: u64 = 256 << 20;

/// A rebuild of the state from the newest checkpoint and the batches since.
pub struct StateRebuild<'a> {
    pub hub: &'a Hub,
    pub batches: &'a BatchRunner,
    pub from: &'a RecoverySource,
    /// All partitions, not only those that were lost.
    pub all: bool,
    pub interval_ms: u64,
}

impl StateRebuild<'_> {
    /// Rebuilds the state. Runs of later batches wait for that. No batch may be about to be committed.
    pub async fn run(&self) -> Result<()> {
        let (from, states) = (self.from, &self.batches.states);
        let (began, before) = (Instant::now(), states.committed());
        let made = self.rounds().await;
        // Of the batch that ran last, if the rebuild failed.
        from.batches.iter().for_each(|batch| self.forget(batch));
        let now = states.commit(before);
        self.hub.change(|state| state.versions.recovery.end());
        made?;
        if now.filter(|batch| batch.millis() > 0) != before {
            return Err(Error::Bytes {
                what: "the journal".into(),
                message: format!("they end with {now:?}, but {before:?} is committed"),
            });
        }
        let (batches, took) = (from.batches.len(), began.elapsed());
        tracing::info!(batches, ?took, "state rebuilt");
        Ok(())
    }

    async fn rounds(&self) -> Result<()> {
        let states = &self.batches.states;
        for round in 1..=MAX_ROUNDS {
            // Before anything can see an older version.
            states.commit(Some(self.from.batch()));
            self.hub.change(|state| self.begin(state));
            tokio::select! {
                biased;
                () = self.hub.until(|state| state.versions.recovery.is_lost().then_some(())) => {
                    tracing::warn!(round, "a worker was lost while state was rebuilt: starting over");
                }
                done = self.run_since() => return done,
            }
        }
        let message = format!(
            "a worker was lost each of the {MAX_ROUNDS} times that the state was made again; see to the workers, then start \
             the master again"
        );
        Err(Error::LostState { message })
    }

    /// Has primaries restore the checkpoint.
    fn begin(&self, state: &mut ClusterState) {
        if self.all {
            let partitions = self.batches.states.partitions();
            let void = state.versions.invalidate(self.from, partitions);
            state.roster.broadcast(&void);
            return state.step(ClusterEvent::StateInvalidated);
        }
        let (void, lost) = state.versions.restore_lost(self.from);
        tracing::info!(partitions = ?lost, "rebuilding lost partitions");
        state.roster.broadcast(&void);
        for partition in lost {
            let primary = state.machine().primary(partition);
            // One that comes later gets it with its assignment.
            if let Some((primary, restore)) = primary.zip(state.versions.restore_message(partition))
            {
                state.roster.send(primary, &restore);
            }
        }
    }

    async fn run_since(&self) -> Result<()> {
        let states = &self.batches.states;
        let mut sequence = self.from.sequence(self.interval_ms);
        let mut waiting = self.from.batches.iter().peekable();
        let (mut replays, mut bytes) = (FuturesOrdered::new(), 0);
        loop {
            let fits = |batch: &&RecoveryBatch| {
                replays.is_empty()
                    || replays.len() < REPLAYED_AT_ONCE && bytes + bytes_of(batch) <= MAX_BYTES
            };
            if let Some(batch) = waiting.next_if(fits) {
                bytes += bytes_of(batch);
                let before = sequence.next(batch.batch);
                replays.push_back(self.replay(batch, before).boxed());
                continue;
            }
            let Some(replayed) = replays.next().await else {
                break;
            };
            let of_batch = replayed?;
            let batch = of_batch.batch;
            bytes -= bytes_of(of_batch);
            point("aside:again");
            states.commit(Some(batch));
            self.forget(of_batch);
            self.hub.changed();
            states.forget(batch);
        }
        // Even if no batch ran: waits until the primaries have the checkpoint.
        states.snapshot(None).await;
        Ok(())
    }

    /// Runs a batch again, which changes state once the batch before is installed.
    async fn replay<'a>(
        &self,
        of_batch: &'a RecoveryBatch,
        before: Option<PreviousBatch>,
    ) -> Result<&'a RecoveryBatch> {
        for (input, block) in self.from.blocks(of_batch).await? {
            let receiver = (block.meta.id.receiver, input);
            self.hub.lock().receivers.add_of_masters([receiver]);
            self.batches.rows.store.insert(block);
        }
        let blocks: Vec<_> = of_batch.blocks().copied().collect();
        let wanted = (&blocks[..], Wanted::Lost);
        self.batches.run(of_batch.batch, before, 1, wanted).await?;
        Ok(of_batch)
    }

    fn forget(&self, batch: &RecoveryBatch) {
        let blocks: Vec<BlockId> = batch.blocks().map(|block| block.id).collect();
        self.batches.rows.store.forget(&blocks);
    }
}

fn bytes_of(batch: &RecoveryBatch) -> u64 {
    batch.blocks().map(|block| block.bytes).sum()
}
