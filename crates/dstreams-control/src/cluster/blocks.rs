//! [`Blocks`]: which workers store which block.
//!
//! A block lacks a copy when fewer open workers store it than should. Missing copies are made, up to the bound on
//! concurrent copies ([`Copies`]). A block is removed when it is forgotten, or lost: no worker stores it.

use std::collections::{BTreeMap, BTreeSet};

use super::copies::Copies;
use super::roster::Roster;
use super::{ClusterCommand, Mark, WorkerId};
use crate::{BlockId, BlockMeta, ReceiverId};

#[derive(Debug)]
struct Block {
    meta: BlockMeta,
    marks: Vec<Mark>,
    /// Sorted.
    holders: Vec<WorkerId>,
}

#[derive(Debug)]
pub(super) struct Blocks {
    all: BTreeMap<BlockId, Block>,
    held: BTreeMap<WorkerId, BTreeSet<BlockId>>,
    /// Blocks that too few open workers store.
    lacking: BTreeSet<BlockId>,
    /// The part of `lacking` that each draining worker stores.
    to_give: BTreeMap<WorkerId, BTreeSet<BlockId>>,
    copies: Copies,
    /// [`Roster::needed`] when `lacking` was last complete.
    needed: usize,
}

/// A block that is no longer stored.
#[derive(Debug)]
pub(super) struct Removed {
    pub marks: Vec<Mark>,
    pub holders: Vec<WorkerId>,
    /// The receiver has no other block.
    pub last: bool,
}

impl Blocks {
    pub(super) fn new(max_copying: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            held: BTreeMap::new(),
            lacking: BTreeSet::new(),
            to_give: BTreeMap::new(),
            copies: Copies::new(max_copying),
            needed: 1,
        }
    }

    pub(super) fn holders(&self, block: BlockId) -> &[WorkerId] {
        self.all.get(&block).map_or(&[], |it| &it.holders)
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
        marks: Vec<Mark>,
        holders: BTreeSet<WorkerId>,
        roster: &Roster,
    ) {
        for &holder in &holders {
            self.held.entry(holder).or_default().insert(meta.id);
        }
        let block = Block {
            meta,
            marks,
            holders: holders.into_iter().collect(),
        };
        self.all.insert(meta.id, block);
        self.review(meta.id, roster);
    }

    /// A live worker stores a block.
    pub(super) fn hold(&mut self, block: BlockId, worker: WorkerId, roster: &Roster) {
        let Some(it) = self.all.get_mut(&block) else {
            return;
        };
        if let Err(at) = it.holders.binary_search(&worker) {
            it.holders.insert(at, worker);
            self.held.entry(worker).or_default().insert(block);
            self.review(block, roster);
        }
    }

    /// A copy to `worker` has ended.
    pub(super) fn copy_ended(&mut self, block: BlockId, worker: WorkerId, failed: bool) {
        if self.copies.ended(block, worker, failed) && self.lacking.contains(&block) {
            self.copies.want(block);
        }
    }

    /// The worker is lost; returns the blocks that it stored, and those with a copy to or from it.
    pub(super) fn lose(&mut self, worker: WorkerId, roster: &Roster) -> BTreeSet<BlockId> {
        self.to_give.remove(&worker);
        let mut touched = self.held.remove(&worker).unwrap_or_default();
        for block in &touched {
            if let Some(it) = self.all.get_mut(block) {
                it.holders.retain(|&holder| holder != worker);
            }
        }
        touched.extend(self.copies.lose(worker));
        touched.iter().for_each(|&block| self.review(block, roster));
        touched
    }

    /// The worker drains: others must store its blocks.
    pub(super) fn drain(&mut self, worker: WorkerId, roster: &Roster) {
        self.to_give.insert(worker, BTreeSet::new());
        for block in self.held.get(&worker).cloned().unwrap_or_default() {
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
    pub(super) fn has_given_all(&self, worker: WorkerId) -> bool {
        self.to_give.get(&worker).is_none_or(BTreeSet::is_empty)
    }

    /// Whether no worker stores the block, so that it cannot be copied.
    pub(super) fn is_lost(&self, block: BlockId) -> bool {
        self.all.get(&block).is_some_and(|it| it.holders.is_empty())
    }

    /// The blocks of a receiver: those that some worker stores, and those that none does.
    pub(super) fn survivors(&self, receiver: ReceiverId) -> (Vec<BlockMeta>, Vec<BlockId>) {
        let (mut survive, mut lost) = (Vec::new(), Vec::new());
        for (&id, block) in self.all.range(all_of(receiver)) {
            match block.holders.is_empty() {
                true => lost.push(id),
                false => survive.push(block.meta),
            }
        }
        (survive, lost)
    }

    pub(super) fn remove(&mut self, block: BlockId) -> Option<Removed> {
        let it = self.all.remove(&block)?;
        for holder in &it.holders {
            if let Some(held) = self.held.get_mut(holder) {
                held.remove(&block);
            }
        }
        self.lacking.remove(&block);
        for to_give in self.to_give.values_mut() {
            to_give.remove(&block);
        }
        self.copies.forget(block);
        Some(Removed {
            marks: it.marks,
            holders: it.holders,
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
            let open = it.holders.iter().filter(|&&holder| roster.is_open(holder));
            let missing = roster.needed().saturating_sub(open.count());
            if let Some((from, to)) = self.copies.start(block, &it.holders, missing, roster) {
                out.push(ClusterCommand::Copy { block, from, to });
            }
        }
    }

    /// Recomputes whether the block lacks a copy.
    fn review(&mut self, block: BlockId, roster: &Roster) {
        let Some(it) = self.all.get(&block) else {
            return;
        };
        let open = it.holders.iter().filter(|&&holder| roster.is_open(holder));
        let lacking = open.count() < roster.needed();
        if lacking {
            self.lacking.insert(block);
            self.copies.want(block);
        } else {
            self.lacking.remove(&block);
        }
        for (worker, to_give) in &mut self.to_give {
            if lacking && it.holders.binary_search(worker).is_ok() {
                to_give.insert(block);
            } else {
                to_give.remove(&block);
            }
        }
    }
}

fn all_of(receiver: ReceiverId) -> std::ops::RangeInclusive<BlockId> {
    let id = |seq| BlockId { receiver, seq };
    id(0)..=id(u64::MAX)
}
