//! [`JournalRetention`]: which entries of a journal must stay.
//!
//! Each journal has its own: one machine's covers everything; a master's covers cuts, `ReceiverLost`s and the blocks it
//! received itself; a worker's covers blocks only. A place `T` names an entry; it grows from entry to entry.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckpointedBlocks, Restart};
use crate::{BatchTime, BlockId, ReceiverId};

/// The entries of a journal that must stay, by their places, in the order of writing.
#[derive(Clone, Debug)]
pub struct JournalRetention<T> {
    /// The blocks in this journal that are in no checkpoint.
    blocks: BTreeMap<BlockId, T>,
    cuts: BTreeMap<BatchTime, Cut<T>>,
    ended: BTreeMap<ReceiverId, Ended<T>>,
    /// The blocks of earlier cuts.
    checkpointed_blocks: CheckpointedBlocks,
}

#[derive(Clone, Debug)]
struct Cut<T> {
    blocks: Vec<BlockId>,
    at: T,
}

/// A receiver that has ended.
#[derive(Clone, Debug)]
struct Ended<T> {
    /// Its relevant blocks that were in no checkpoint then.
    blocks: BTreeSet<BlockId>,
    /// The place of its `ReceiverLost`.
    at: Option<T>,
}

impl<T> Default for JournalRetention<T> {
    fn default() -> Self {
        Self {
            blocks: BTreeMap::new(),
            cuts: BTreeMap::new(),
            ended: BTreeMap::new(),
            checkpointed_blocks: CheckpointedBlocks::default(),
        }
    }
}

impl<T: Copy + Ord> JournalRetention<T> {
    /// For a journal that continues after a restart: what the restart needs is at `earlier`.
    #[must_use]
    pub fn after(restart: &Restart, earlier: T) -> Self {
        let ended = |at: Option<T>| {
            move |(&receiver, blocks): (&ReceiverId, &Vec<BlockId>)| {
                let blocks = blocks.iter().copied().collect();
                (receiver, Ended { blocks, at })
            }
        };
        let mut retention = Self {
            blocks: restart.blocks.keys().map(|id| (*id, earlier)).collect(),
            cuts: BTreeMap::new(),
            ended: restart.ended.iter().map(ended(None)).collect(),
            checkpointed_blocks: restart.checkpointed_blocks.clone(),
        };
        retention
            .ended
            .extend(restart.lost_receivers.iter().map(ended(Some(earlier))));
        let cuts = restart.committed.iter().chain(&restart.controller.pending);
        for (batch, blocks) in cuts {
            retention.cut(
                *batch,
                blocks.iter().map(|block| block.id).collect(),
                earlier,
            );
        }
        retention
    }

    /// A block was appended.
    pub fn block(&mut self, block: BlockId, at: T) {
        self.blocks.insert(block, at);
    }

    /// A cut was appended.
    pub fn cut(&mut self, batch: BatchTime, blocks: Vec<BlockId>, at: T) {
        self.cuts.insert(batch, Cut { blocks, at });
    }

    /// A `ReceiverLost` was appended.
    pub fn receiver_lost(&mut self, receiver: ReceiverId, blocks: &[BlockId], at: T) {
        let needed = |id: &BlockId| !self.checkpointed_blocks.contains(*id);
        let blocks = blocks.iter().copied().filter(needed).collect();
        let at = Some(at);
        self.ended.insert(receiver, Ended { blocks, at });
    }

    /// The blocks of a checkpoint of `batch`: all in batches up to it, and all blocks of a gone receiver once no
    /// other one counts. Ask the journal that has the cuts.
    #[must_use]
    pub fn checkpointed(&self, batch: BatchTime) -> CheckpointedBlocks {
        let mut checkpointed_blocks = self.checkpointed_blocks.clone();
        for id in self.cuts.range(..=batch).flat_map(|(_, cut)| &cut.blocks) {
            checkpointed_blocks.insert(*id);
        }
        let later = self.cuts.iter().filter(|(of, _)| **of > batch);
        let later: BTreeSet<ReceiverId> = later
            .flat_map(|(_, cut)| &cut.blocks)
            .map(|id| id.receiver)
            .collect();
        for (receiver, ended) in &self.ended {
            let done = ended
                .blocks
                .iter()
                .all(|id| checkpointed_blocks.contains(*id));
            if done && !later.contains(receiver) {
                checkpointed_blocks.close(*receiver);
            }
        }
        checkpointed_blocks
    }

    /// A checkpoint of `batch`, containing these blocks, is on disk. Returns the first entry that must stay; `None`
    /// if there is none. Tell a worker's journal the same; repeating it is harmless.
    ///
    /// A cut stays while it names a block that is in another journal and not in `checkpointed_blocks`, and a
    /// `ReceiverLost` until its receiver is closed in `checkpointed_blocks`: so a checkpoint that omits its covered
    /// blocks loses nothing that it needs.
    pub fn release(
        &mut self,
        batch: BatchTime,
        checkpointed_blocks: &CheckpointedBlocks,
    ) -> Option<T> {
        let blocks = &mut self.blocks;
        self.cuts.retain(|of, cut| {
            let known = |id: &BlockId| blocks.contains_key(id) || checkpointed_blocks.contains(*id);
            if *of > batch || !cut.blocks.iter().all(known) {
                return true;
            }
            for id in &cut.blocks {
                blocks.remove(id);
                self.checkpointed_blocks.insert(*id);
            }
            false
        });
        blocks.retain(|id, _| !checkpointed_blocks.contains(*id));
        self.ended.retain(|receiver, _| {
            let closed = checkpointed_blocks.is_closed(*receiver);
            if closed {
                self.checkpointed_blocks.close(*receiver);
            }
            !closed
        });
        self.first()
    }

    /// The first entry that must stay.
    #[must_use]
    pub fn first(&self) -> Option<T> {
        let blocks = self.blocks.values().copied();
        let cuts = self.cuts.values().map(|cut| cut.at);
        let lost = self.ended.values().filter_map(|ended| ended.at);
        blocks.chain(cuts).chain(lost).min()
    }
}
