//! [`Needs`]: which entries of a journal must stay.
//!
//! Each journal has its own: one machine's covers everything; a master's covers cuts, `Gone`s and the blocks it
//! received itself; a worker's covers blocks only. A place `T` names an entry; it grows from entry to entry.

use std::collections::{BTreeMap, BTreeSet};

use super::{Covered, Restart};
use crate::{BatchTime, BlockId, ReceiverId};

/// The entries of a journal that must stay, by their places, in the order of writing.
#[derive(Clone, Debug)]
pub struct Needs<T> {
    /// The blocks in this journal that are in no checkpoint.
    blocks: BTreeMap<BlockId, T>,
    cuts: BTreeMap<BatchTime, Cut<T>>,
    ended: BTreeMap<ReceiverId, Ended<T>>,
    /// The blocks of earlier cuts.
    covered: Covered,
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
    /// The place of its `Gone`.
    at: Option<T>,
}

impl<T> Default for Needs<T> {
    fn default() -> Self {
        Self {
            blocks: BTreeMap::new(),
            cuts: BTreeMap::new(),
            ended: BTreeMap::new(),
            covered: Covered::default(),
        }
    }
}

impl<T: Copy + Ord> Needs<T> {
    /// For a journal that continues after a restart: what the restart needs is at `earlier`.
    #[must_use]
    pub fn after(restart: &Restart, earlier: T) -> Self {
        let ended = |at: Option<T>| {
            move |(&receiver, blocks): (&ReceiverId, &Vec<BlockId>)| {
                let blocks = blocks.iter().copied().collect();
                (receiver, Ended { blocks, at })
            }
        };
        let mut needs = Self {
            blocks: restart.blocks.keys().map(|id| (*id, earlier)).collect(),
            cuts: BTreeMap::new(),
            ended: restart.ended.iter().map(ended(None)).collect(),
            covered: restart.covered.clone(),
        };
        needs
            .ended
            .extend(restart.gone.iter().map(ended(Some(earlier))));
        let cuts = restart.committed.iter().chain(&restart.controller.pending);
        for (batch, blocks) in cuts {
            needs.cut(
                *batch,
                blocks.iter().map(|block| block.id).collect(),
                earlier,
            );
        }
        needs
    }

    /// A block was appended.
    pub fn block(&mut self, block: BlockId, at: T) {
        self.blocks.insert(block, at);
    }

    /// A cut was appended.
    pub fn cut(&mut self, batch: BatchTime, blocks: Vec<BlockId>, at: T) {
        self.cuts.insert(batch, Cut { blocks, at });
    }

    /// A `Gone` was appended.
    pub fn gone(&mut self, receiver: ReceiverId, blocks: &[BlockId], at: T) {
        let needed = |id: &BlockId| !self.covered.contains(*id);
        let blocks = blocks.iter().copied().filter(needed).collect();
        let at = Some(at);
        self.ended.insert(receiver, Ended { blocks, at });
    }

    /// The blocks of a checkpoint of `batch`: all in batches up to it, and all blocks of a gone receiver once no
    /// other one counts. Ask the journal that has the cuts.
    #[must_use]
    pub fn covered(&self, batch: BatchTime) -> Covered {
        let mut covered = self.covered.clone();
        for id in self.cuts.range(..=batch).flat_map(|(_, cut)| &cut.blocks) {
            covered.insert(*id);
        }
        let later = self.cuts.iter().filter(|(of, _)| **of > batch);
        let later: BTreeSet<ReceiverId> = later
            .flat_map(|(_, cut)| &cut.blocks)
            .map(|id| id.receiver)
            .collect();
        for (receiver, ended) in &self.ended {
            let done = ended.blocks.iter().all(|id| covered.contains(*id));
            if done && !later.contains(receiver) {
                covered.close(*receiver);
            }
        }
        covered
    }

    /// A checkpoint of `batch`, containing these blocks, is on disk. Returns the first entry that must stay; `None`
    /// if there is none. Tell a worker's journal the same; repeating it is harmless.
    ///
    /// A cut stays while it names a block that is in another journal and not in `covered`, and a `Gone` until its
    /// receiver is closed in `covered`: so a checkpoint that omits its covered blocks loses nothing that it needs.
    pub fn release(&mut self, batch: BatchTime, covered: &Covered) -> Option<T> {
        let blocks = &mut self.blocks;
        self.cuts.retain(|of, cut| {
            let known = |id: &BlockId| blocks.contains_key(id) || covered.contains(*id);
            if *of > batch || !cut.blocks.iter().all(known) {
                return true;
            }
            for id in &cut.blocks {
                blocks.remove(id);
                self.covered.insert(*id);
            }
            false
        });
        blocks.retain(|id, _| !covered.contains(*id));
        self.ended.retain(|receiver, _| {
            let closed = covered.is_closed(*receiver);
            if closed {
                self.covered.close(*receiver);
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
        let gone = self.ended.values().filter_map(|ended| ended.at);
        blocks.chain(cuts).chain(gone).min()
    }
}
