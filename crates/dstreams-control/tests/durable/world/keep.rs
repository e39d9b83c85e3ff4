//! Persistence of batches that took effect: their commit, the state in a checkpoint; and the release of entries.

use dstreams_control::durable::{CheckpointMeta, CheckpointedBlocks, Entry};
use dstreams_control::{BatchTime, BlockId};

use super::members::Told;
use super::{Item, MASTERS, World};
use crate::disk::Checkpoint;
use crate::ledger::Fact;
use crate::sabotage::Fault;

impl World {
    /// A batch has taken effect.
    pub(super) fn forget(&mut self, batch: BatchTime, blocks: &[BlockId]) {
        self.mark(blocks);
        self.append_entry(MASTERS, Entry::Committed { batch });
        let Some(master) = &mut self.master else {
            return;
        };
        master.cuts.remove(&batch);
        for block in blocks {
            master.heard.remove(block);
        }
        master.since += 1;
        if master.since >= self.plan.every && master.writing.is_none() {
            master.since = 0;
            self.begin_checkpoint(batch);
        }
    }

    /// These blocks are in the state now.
    pub(super) fn mark(&mut self, blocks: &[BlockId]) {
        let Some(master) = &mut self.master else {
            return;
        };
        for block in blocks
            .iter()
            .filter_map(|id| self.judge.ledger.blocks.get(id))
        {
            for (client, number) in &block.records {
                let key = (block.input, client.to_string());
                let known = master.checkpoint_offsets.entry(key).or_default();
                *known = (*number).max(*known);
            }
        }
    }

    fn begin_checkpoint(&mut self, batch: BatchTime) {
        let states = self.states();
        let ahead = self.faults.on(Fault::MarksAhead);
        let Some(master) = &mut self.master else {
            return;
        };
        let mut offsets = master.checkpoint_offsets.clone();
        for block in self.judge.ledger.blocks.values().filter(|_| ahead) {
            for (client, number) in &block.records {
                let known = offsets
                    .entry((block.input, client.to_string()))
                    .or_default();
                *known = (*number).max(*known);
            }
        }
        // With one journal it is not needed.
        let checkpointed_blocks = if self.plan.cluster {
            master.retention.checkpointed(batch)
        } else {
            CheckpointedBlocks::default()
        };
        let incarnation = master.incarnation;
        let point = CheckpointMeta {
            batch,
            incarnation,
            offsets,
            checkpointed_blocks,
        };
        master.writing = Some(Checkpoint {
            point,
            states,
            durable: false,
        });
        let life = master.life;
        let after = self.takes();
        self.push(after, Item::CheckpointVisible(life));
    }

    /// The checkpoint in progress becomes visible, as a whole, unless it failed.
    pub(super) fn checkpoint_visible(&mut self) {
        let states = self.states();
        let Some(master) = &mut self.master else {
            return;
        };
        let life = master.life;
        if self.rng.chance(self.rates.checkpoint_fails) {
            self.tally.add("checkpoint failed");
            master.writing = None;
            master.since = self.plan.every;
            return;
        }
        let Some(mut checkpoint) = master.writing.clone() else {
            return;
        };
        if self.faults.on(Fault::StateExportedLate) {
            checkpoint.states = states;
        }
        if self.faults.on(Fault::CoveredNotKept) {
            checkpoint.point.checkpointed_blocks = CheckpointedBlocks::default();
        }
        self.fact(Fact::Checkpoint(&checkpoint));
        self.checkpoints.push(checkpoint);
        if self.faults.on(Fault::LetGoTooEarly) {
            self.release_covered();
        }
        let after = self.takes();
        self.push(after, Item::CheckpointDurable(life));
    }

    pub(super) fn checkpoint_durable(&mut self) {
        self.tally.add("checkpoint written");
        if let Some(newest) = self.checkpoints.last_mut() {
            newest.durable = true;
        }
        let before = self.checkpoints.len() - 1;
        self.checkpoints.drain(..before);
        if !self.faults.on(Fault::NothingLetGo) {
            self.release_covered();
        }
        if let Some(master) = &mut self.master {
            master.writing = None;
        }
    }

    /// Releases the checkpoint's blocks from all journals.
    fn release_covered(&mut self) {
        let Some(master) = &mut self.master else {
            return;
        };
        let Some(checkpoint) = &master.writing else {
            return;
        };
        let batch = checkpoint.point.batch;
        let checkpointed_blocks = if self.faults.on(Fault::CoveredNotUsed) {
            CheckpointedBlocks::default()
        } else if self.plan.cluster {
            checkpoint.point.checkpointed_blocks.clone()
        } else {
            master.retention.checkpointed(batch)
        };
        let first = master.retention.release(batch, &checkpointed_blocks);
        for (journal, retention) in &mut master.old {
            let first = retention
                .release(batch, &checkpointed_blocks)
                .unwrap_or(u64::MAX);
            self.journals[*journal].release_before(first, &mut self.rng);
        }
        let first = if self.faults.on(Fault::AllLetGo) {
            None
        } else {
            first
        };
        let members: Vec<_> = master.members.iter().copied().collect();
        // Earlier entries are synced first.
        self.sync(MASTERS);
        self.journals[MASTERS].release_before(first.unwrap_or(u64::MAX), &mut self.rng);
        self.fact(Fact::LetGo);
        for receiver in members {
            let worker = self.receivers.get(&receiver).and_then(|it| it.worker);
            if let Some(worker) = worker {
                if self.rng.chance(self.rates.lost) {
                    self.tally.add("worker not told what is covered");
                    continue;
                }
                let checkpointed_blocks = checkpointed_blocks.clone();
                let told = Told::LetGo {
                    batch,
                    checkpointed_blocks,
                };
                self.link(worker, false, Item::ToWorker(worker, told));
            }
        }
    }

    /// A worker learns what a checkpoint covers.
    pub(super) fn worker_lets_go(
        &mut self,
        at: usize,
        batch: BatchTime,
        checkpointed_blocks: &CheckpointedBlocks,
    ) {
        let worker = &mut self.workers[at];
        let first = worker
            .retention
            .release(batch, checkpointed_blocks)
            .unwrap_or(u64::MAX);
        let journal = worker.journal;
        if self.journals[journal].release_before(first, &mut self.rng) {
            self.fact(Fact::LetGo);
        }
    }
}
