//! [`StateRebuild`]: the state as of the last committed batch is rebuilt: after a batch was set aside, since tasks of the
//! batch may have changed it, and after all workers that had a partition were lost.
//!
//! Primaries that live stay the same. They restore the newest checkpoint; the committed batches after it are replayed
//! for their state alone, on blocks of the journals. If a primary is lost meanwhile, the whole procedure restarts.
//! Until it is complete no partition has a standby; copies are made afterwards.

use std::time::Instant;

use dstreams::internal::{RecoveryBatch, RecoverySource, point};
use dstreams::{Error, Result};
use dstreams_control::BlockId;
use dstreams_control::cluster::ClusterEvent;

use super::batch::{BatchRunner, Wanted};
use super::hub::Hub;
use crate::link::ToWorker;

/// The most tries to rebuild the state, each ended by the loss of a primary.
const MAX_ROUNDS: u32 = 10;

/// A rebuild of the state from the newest checkpoint and the batches since.
pub struct StateRebuild<'a> {
    pub hub: &'a Hub,
    pub batches: &'a BatchRunner,
    pub from: &'a RecoverySource,
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
            self.hub.change(|state| {
                let void = state.versions.invalidate(self.from, states.plans.tasks);
                state.roster.broadcast(&void);
                state.step(ClusterEvent::StateInvalidated);
            });
            tokio::select! {
                done = self.run_since() => return done,
                () = self.hub.until(|state| state.versions.recovery.is_lost().then_some(())) => {
                    tracing::warn!(round, "a worker was lost while state was rebuilt: starting over");
                }
            }
        }
        let message = format!(
            "a worker was lost each of the {MAX_ROUNDS} times that the state was made again; see to the workers, then start \
             the master again"
        );
        Err(Error::LostState { message })
    }

    async fn run_since(&self) -> Result<()> {
        let states = &self.batches.states;
        let mut sequence = self.from.sequence(self.interval_ms);
        for of_batch in &self.from.batches {
            let batch = of_batch.batch;
            // One batch at a time: all of them may be more than fits into memory.
            for (input, block) in self.from.blocks(of_batch).await? {
                let receiver = (block.meta.id.receiver, input);
                self.hub.lock().receivers.add_of_masters([receiver]);
                self.batches.rows.store.insert(block);
            }
            let blocks: Vec<_> = of_batch.blocks().copied().collect();
            let wanted = (&blocks[..], Wanted::States);
            let before = sequence.next(batch);
            self.batches.run(batch, before, 1, wanted).await?;
            point("aside:again");
            states.commit(Some(batch));
            self.forget(of_batch);
            self.hub.changed();
            let (but, slots) = (Vec::new(), Vec::new());
            let forget = ToWorker::Forget { batch, but, slots };
            self.hub.broadcast(&forget);
        }
        // Even if no batch ran: waits until the primaries have the checkpoint.
        states.snapshot(None).await;
        Ok(())
    }

    fn forget(&self, batch: &RecoveryBatch) {
        let blocks: Vec<BlockId> = batch.blocks().map(|block| block.id).collect();
        self.batches.rows.store.forget(&blocks);
    }
}
