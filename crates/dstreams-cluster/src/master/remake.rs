//! A batch that is set aside: its blocks are fetched from their holders, and the state as of the last batch that took
//! effect is made again, since tasks of the batch may have changed it.
//!
//! The holders of partitions stay who they are. They begin with the newest checkpoint, and the batches after it that took
//! effect run once more for their state alone, on blocks of the journals. A holder that is lost meanwhile has the whole
//! begin once more. Until all is done no partition has a standby; copies are made afterwards.

use std::sync::Arc;
use std::time::Instant;

use dstreams::internal::{Block, Earlier, Workers, point};
use dstreams::{Error, Result};
use dstreams_control::cluster::ClusterEvent;
use dstreams_control::{BlockId, BlockMeta};

use super::batch::{MEND, PAUSE, Remote};
use super::hub::{Hub, Restoring};
use crate::link::ToWorker;
use crate::plan::Source;

/// How often the state is made again at most, after losses of holders that had made it.
const ROUNDS: u32 = 10;

impl Remote {
    /// Fetches a block. A worker that has it may be lost meanwhile, and another one not be known yet.
    pub(super) async fn fetch_block(&self, meta: BlockMeta) -> Result<(u32, Arc<Block>)> {
        let began = Instant::now();
        loop {
            let (input, holders) = self.hub.block(meta.id);
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
            if let Some(broken) = self.hub.broken() {
                return Err(broken);
            }
            if began.elapsed() >= MEND {
                return Err(match holders.is_empty() {
                    true => Error::LostBlock { block: meta.id },
                    false => error,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Makes the state again from the newest checkpoint and the batches since. What runs meanwhile waits for the batch
    /// that is set aside.
    pub(super) async fn remake(&self, from: Earlier) -> Result<()> {
        let (began, before) = (Instant::now(), self.committed());
        for (input, block) in from.batches.iter().flat_map(|(_, blocks)| blocks) {
            self.hub.receives(block.meta.id.receiver, *input);
            self.store.insert(Arc::clone(block));
        }
        let made = self.remake_rounds(&from).await;
        self.hub.remade();
        let blocks = from.batches.iter().flat_map(|(_, blocks)| blocks);
        let blocks: Vec<BlockId> = blocks.map(|(_, block)| block.meta.id).collect();
        self.store.forget(&blocks);
        made?;
        let now = std::mem::replace(&mut *self.committed_mut(), before);
        if now.filter(|batch| batch.millis() > 0) != before {
            return Err(Error::Bytes {
                what: "the journal".into(),
                message: format!("they end with {now:?}, and {before:?} took effect"),
            });
        }
        let (batches, took) = (from.batches.len(), began.elapsed());
        tracing::info!(batches, ?took, "the state was made again");
        Ok(())
    }

    async fn remake_rounds(&self, from: &Earlier) -> Result<()> {
        for round in 1..=ROUNDS {
            // Before anybody can find a version that is less.
            *self.committed_mut() = Some(from.batch());
            self.hub.void(from, self.plans.tasks);
            tokio::select! {
                done = self.run_since(from) => return done,
                () = self.hub.until(Hub::lost_while_remaking) => {
                    tracing::warn!(round, "a worker was lost while state was made again: it begins once more");
                }
            }
        }
        let message = format!(
            "a worker was lost each of the {ROUNDS} times that the state was made again; see to the workers, then start \
             the master again"
        );
        Err(Error::LostState { message })
    }

    async fn run_since(&self, from: &Earlier) -> Result<()> {
        for (batch, blocks) in &from.batches {
            let blocks: Vec<_> = blocks.iter().map(|(_, block)| block.meta).collect();
            self.run_again(*batch, 1, &blocks).await?;
            point("aside:again");
            *self.committed_mut() = Some(*batch);
            self.hub.changed();
            let (batch, but, slots) = (*batch, Vec::new(), Vec::new());
            self.hub.say_all(&ToWorker::Forget { batch, but, slots });
        }
        // Also where no batch runs: the holders have the checkpoint.
        self.snapshot(None).await;
        Ok(())
    }
}

impl Hub {
    /// What workers have of so many partitions of state is void: the holders make them from a checkpoint, or begin with
    /// nothing. What tasks change that began before is void too.
    fn void(&self, from: &Earlier, partitions: usize) {
        let mut state = self.lock();
        state.era += 1;
        state.remaking = Some(false);
        state.installed.clear();
        state.behind.clear();
        let restoring = |partition| Restoring {
            batch: from.batch(),
            sources: from.sources(partition as usize),
            copy: 0,
        };
        let partitions = 0..partitions as u32;
        state.restoring = partitions.map(|at| (at, restoring(at))).collect();
        let void = ToWorker::Void { era: state.era };
        for worker in state.workers.values().filter(|worker| worker.joined) {
            worker.link.say(&void);
        }
        self.step_in(&mut state, ClusterEvent::StateVoid);
        drop(state);
        self.changed();
    }

    /// How often the state was made again.
    pub(super) fn era(&self) -> u32 {
        self.lock().era
    }

    fn lost_while_remaking(&self) -> Option<()> {
        (self.lock().remaking == Some(true)).then_some(())
    }

    fn remade(&self) {
        self.lock().remaking = None;
    }
}
