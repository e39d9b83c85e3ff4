//! [`Blocks`]: which workers store which block.
//!
//! A block lacks a copy when fewer open workers store it than should. Missing copies are made, up to the bound on
//! concurrent copies ([`Copies`]). A block that the master has adopted lacks none. A block is removed when it is
//! forgotten, or lost: nobody stores it.

use std::collections::{BTreeMap, BTreeSet};

use super::copies::Copies;
use super::roster::Roster;
use super::{ClusterCommand, ProducerOffset, WorkerId};
use crate::{BlockId, BlockMeta, ReceiverId};

#[derive(Debug)]
struct Block {
    meta: BlockMeta,
    offsets: Vec<ProducerOffset>,
    /// Sorted.
    stored_on: Vec<WorkerId>,
    /// The master stores it, and it is on disk: it needs no copies.
    adopted: bool,
}

impl Block {
    /// Whether it cannot be read anywhere.
    fn is_lost(&self) -> bool {
        self.stored_on.is_empty() && !self.adopted
    }
}

#[derive(Debug)]
pub(super) struct Blocks {
    all: BTreeMap<BlockId, Block>,
    by_worker: BTreeMap<WorkerId, BTreeSet<BlockId>>,
    /// Blocks that too few open workers store.
    lacking: BTreeSet<BlockId>,
    /// The part of `lacking` that each draining worker stores.
    to_hand_over: BTreeMap<WorkerId, BTreeSet<BlockId>>,
    copies: Copies,
    /// [`Roster::needed`] when `lacking` was last complete.
    needed: usize,
}

/// A block that is no longer stored.
#[derive(Debug)]
pub(super) struct Removed {
    pub offsets: Vec<ProducerOffset>,
    pub stored_on: Vec<WorkerId>,
    /// The receiver has no other block.
    pub last: bool,
}

impl Blocks {
    pub(super) fn new(max_concurrent_copies: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            by_worker: BTreeMap::new(),
            lacking: BTreeSet::new(),
            to_hand_over: BTreeMap::new(),
            copies: Copies::new(max_concurrent_copies),
            needed: 1,
        }
    }

    pub(super) fn stored_on(&self, block: BlockId) -> &[WorkerId] {
        self.all.get(&block).map_or(&[], |it| &it.stored_on)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.all.contains_key(&block)
    }

    /// Adds a new block and the live workers that store it.
    pub(super) fn insert(
        &mut self,
        meta: BlockMeta,
        offsets: Vec<ProducerOffset>,
        stored_on: BTreeSet<WorkerId>,
        roster: &Roster,
    ) {
        for &at in &stored_on {
            self.by_worker.entry(at).or_default().insert(meta.id);
        }
        let block = Block {
            meta,
            offsets,
            stored_on: stored_on.into_iter().collect(),
            adopted: false,
        };
        self.all.insert(meta.id, block);
        self.review(meta.id, roster);
    }

    /// A live worker stores a block.
    pub(super) fn add_copy(&mut self, block: BlockId, worker: WorkerId, roster: &Roster) {
        let Some(it) = self.all.get_mut(&block) else {
            return;
        };
        if let Err(at) = it.stored_on.binary_search(&worker) {
            it.stored_on.insert(at, worker);
            self.by_worker.entry(worker).or_default().insert(block);
            self.review(block, roster);
        }
    }

    /// The master stores a block.
    pub(super) fn adopt(&mut self, block: BlockId, roster: &Roster) {
        if let Some(it) = self.all.get_mut(&block) {
            it.adopted = true;
            self.review(block, roster);
        }
    }

    pub(super) fn is_adopted(&self, block: BlockId) -> bool {
        self.all.get(&block).is_some_and(|it| it.adopted)
    }

    /// A copy to `worker` has ended.
    pub(super) fn copy_ended(&mut self, block: BlockId, worker: WorkerId, failed: bool) {
        if self.copies.ended(block, worker, failed) && self.lacking.contains(&block) {
            self.copies.want(block);
        }
    }

    /// The worker is lost; returns the blocks that it stored, and those with a copy to or from it.
    pub(super) fn lose(&mut self, worker: WorkerId, roster: &Roster) -> BTreeSet<BlockId> {
        self.to_hand_over.remove(&worker);
        let mut touched = self.by_worker.remove(&worker).unwrap_or_default();
        for block in &touched {
            if let Some(it) = self.all.get_mut(block) {
                it.stored_on.retain(|&at| at != worker);
            }
        }
        touched.extend(self.copies.lose(worker));
        touched.iter().for_each(|&block| self.review(block, roster));
        touched
    }

    /// The worker drains: others must store its blocks.
    pub(super) fn drain(&mut self, worker: WorkerId, roster: &Roster) {
        self.to_hand_over.insert(worker, BTreeSet::new());
        for block in self.by_worker.get(&worker).cloned().unwrap_or_default() {
            self.review(block, roster);
        }
    }

    /// The roster changed: other blocks may lack copies now, and other workers may take them.
    pub(super) fn roster_changed(&mut self, roster: &Roster) {
        if roster.needed() != self.needed {
            self.needed = roster.needed();
            let all: Vec<_> = self.all.keys().copied().collect();
            all.into_iter().for_each(|block| self.review(block, roster));
        }
        for &block in &self.lacking {
            self.copies.want(block);
        }
    }

    /// Whether every block of the worker has enough copies elsewhere.
    pub(super) fn has_handed_over(&self, worker: WorkerId) -> bool {
        self.to_hand_over
            .get(&worker)
            .is_none_or(BTreeSet::is_empty)
    }

    /// Whether nobody stores the block, so that it cannot be copied.
    pub(super) fn is_lost(&self, block: BlockId) -> bool {
        self.all.get(&block).is_some_and(Block::is_lost)
    }

    /// The blocks of a receiver: those that somebody stores, and those that nobody does.
    pub(super) fn survivors(&self, receiver: ReceiverId) -> (Vec<BlockMeta>, Vec<BlockId>) {
        let (mut survive, mut lost) = (Vec::new(), Vec::new());
        for (&id, block) in self.all.range(all_of(receiver)) {
            match block.is_lost() {
                true => lost.push(id),
                false => survive.push(block.meta),
            }
        }
        (survive, lost)
    }

    pub(super) fn remove(&mut self, block: BlockId) -> Option<Removed> {
        let it = self.all.remove(&block)?;
        for at in &it.stored_on {
            if let Some(blocks) = self.by_worker.get_mut(at) {
                blocks.remove(&block);
            }
        }
        self.lacking.remove(&block);
        for to_hand_over in self.to_hand_over.values_mut() {
            to_hand_over.remove(&block);
        }
        self.copies.forget(block);
        Some(Removed {
            offsets: it.offsets,
            stored_on: it.stored_on,
            last: self.all.range(all_of(block.receiver)).next().is_none(),
        })
    }

    /// Starts missing copies, up to the bound.
    pub(super) fn copy(&mut self, roster: &Roster, out: &mut Vec<ClusterCommand>) {
        while let Some(block) = self.copies.next() {
            let Some(it) = self
                .all
                .get(&block)
                .filter(|_| self.lacking.contains(&block))
            else {
                continue;
            };
            let open = it.stored_on.iter().filter(|&&at| roster.is_open(at));
            let missing = roster.needed().saturating_sub(open.count());
            if let Some((from, to)) = self.copies.start(block, &it.stored_on, missing, roster) {
                out.push(ClusterCommand::Copy { block, from, to });
            }
        }
    }

    /// Recomputes whether the block lacks a copy.
    fn review(&mut self, block: BlockId, roster: &Roster) {
        let Some(it) = self.all.get(&block) else {
            return;
        };
        let open = it.stored_on.iter().filter(|&&at| roster.is_open(at));
        let lacking = !it.adopted && open.count() < roster.needed();
        if lacking {
            self.lacking.insert(block);
            self.copies.want(block);
        } else {
            self.lacking.remove(&block);
        }
        for (worker, to_hand_over) in &mut self.to_hand_over {
            if lacking && it.stored_on.binary_search(worker).is_ok() {
                to_hand_over.insert(block);
            } else {
                to_hand_over.remove(&block);
            }
        }
    }
}

fn all_of(receiver: ReceiverId) -> std::ops::RangeInclusive<BlockId> {
    let id = |seq| BlockId { receiver, seq };
    id(0)..=id(u64::MAX)
}
