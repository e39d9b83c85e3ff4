//! Sets a batch aside: fetches its blocks from the workers that store them, and rebuilds the state as of the last
//! committed batch, since tasks of the batch may have changed it.
//!
//! The primaries stay the same. They restore the newest checkpoint; the committed batches after it are replayed for
//! their state alone, on blocks of the journals. If a primary is lost meanwhile, the whole procedure restarts. Until
//! it is complete no partition has a standby; copies are made afterwards.

use std::sync::Arc;
use std::time::Instant;

use dstreams::internal::{Block, Earlier, Workers, point};
use dstreams::{Error, Result};
use dstreams_control::cluster::ClusterEvent;
use dstreams_control::{BlockId, BlockMeta};

use super::batch::{PAUSE, RETRY_TIMEOUT, Remote};
use crate::link::ToWorker;
use crate::plan::Source;

/// The most tries to rebuild the state, each ended by the loss of a primary.
const MAX_ROUNDS: u32 = 10;

impl Remote {
    /// Fetches a block. Retries, since its worker may be lost meanwhile and the other replica not be known yet.
    pub(super) async fn fetch_block(&self, meta: BlockMeta) -> Result<(u32, Arc<Block>)> {
        let began = Instant::now();
        loop {
            let (input, holders) = self.hub.lock().block(meta.id);
            if let Some(block) = self.store.get(meta.id) {
                return Ok((input, block));
            }
            let part = Source::Block(meta.id).into();
            let error = match self.peers.fetch(&[part], holders.iter()).await {
                Ok(rows) => {
                    let block = Block::new(meta.id, rows, meta.bytes as usize, Vec::new());
                    if block.meta.rows == meta.rows {
                        return Ok((input, Arc::new(block)));
                    }
                    let (has, rows) = (block.meta.rows, meta.rows);
                    return Err(Error::Bytes {
                        what: format!("block {}", meta.id),
                        message: format!("they have {has} records, and it had {rows}"),
                    });
                }
                Err(error) => error,
            };
            if let Some(broken) = self.hub.lock().broken() {
                return Err(broken);
            }
            if began.elapsed() >= RETRY_TIMEOUT {
                return Err(match holders.is_empty() {
                    true => Error::LostBlock { block: meta.id },
                    false => error,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Rebuilds the state from the newest checkpoint and the batches since. Runs of later batches wait for the batch
    /// that is set aside.
    pub(super) async fn remake(&self, from: Earlier) -> Result<()> {
        let (began, before) = (Instant::now(), self.committed());
        for (input, block) in from.batches.iter().flat_map(|(_, blocks)| blocks) {
            let receiver = block.meta.id.receiver;
            self.hub
                .lock()
                .receivers
                .add_of_masters([(receiver, *input)]);
            self.store.insert(Arc::clone(block));
        }
        let made = self.remake_rounds(&from).await;
        self.hub.change(|state| state.versions.remade());
        let blocks = from.batches.iter().flat_map(|(_, blocks)| blocks);
        let blocks: Vec<BlockId> = blocks.map(|(_, block)| block.meta.id).collect();
        self.store.forget(&blocks);
        made?;
        let now = std::mem::replace(&mut *self.committed_mut(), before);
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

    async fn remake_rounds(&self, from: &Earlier) -> Result<()> {
        for round in 1..=MAX_ROUNDS {
            // Before anything can see an older version.
            *self.committed_mut() = Some(from.batch());
            self.hub.change(|state| {
                let void = state.versions.void(from, self.plans.tasks);
                state.roster.broadcast(&void);
                state.step(ClusterEvent::StateVoid);
            });
            tokio::select! {
                done = self.run_since(from) => return done,
                () = self.hub.until(|state| state.versions.was_lost_while_remaking().then_some(())) => {
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

    async fn run_since(&self, from: &Earlier) -> Result<()> {
        for (batch, blocks) in &from.batches {
            let blocks: Vec<_> = blocks.iter().map(|(_, block)| block.meta).collect();
            self.replay_batch(*batch, 1, &blocks).await?;
            point("aside:again");
            *self.committed_mut() = Some(*batch);
            self.hub.changed();
            let (batch, but, slots) = (*batch, Vec::new(), Vec::new());
            let forget = ToWorker::Forget { batch, but, slots };
            self.hub.broadcast(&forget);
        }
        // Even if no batch ran: waits until the primaries have the checkpoint.
        self.snapshot(None).await;
        Ok(())
    }
}
