//! [`Copies`]: the block copies that are wanted, and those in progress.
//!
//! First in, first out. A failed copy is retried on another worker; when all have failed, from the first again,
//! after the other blocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::WorkerId;
use super::roster::Roster;
use crate::BlockId;

/// The copies of one block.
#[derive(Default, Debug)]
struct Attempts {
    queued: bool,
    /// Targets of copies in progress.
    to: BTreeSet<WorkerId>,
    /// Targets where a copy failed.
    failed: BTreeSet<WorkerId>,
}

#[derive(Debug)]
pub(super) struct Copies {
    max: usize,
    queue: VecDeque<BlockId>,
    /// By stored block; most have none.
    attempts: BTreeMap<BlockId, Attempts>,
    /// All copies in progress, with their sources; those of forgotten blocks included.
    under_way: BTreeMap<(WorkerId, BlockId), WorkerId>,
}

impl Copies {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            queue: VecDeque::new(),
            attempts: BTreeMap::new(),
            under_way: BTreeMap::new(),
        }
    }

    /// The block lacks a copy.
    pub(super) fn want(&mut self, block: BlockId) {
        let attempts = self.attempts.entry(block).or_default();
        if !attempts.queued {
            attempts.queued = true;
            self.queue.push_back(block);
        }
    }

    /// The next block that may lack a copy, if one more copy may start.
    pub(super) fn next(&mut self) -> Option<BlockId> {
        while self.under_way.len() < self.max {
            let block = self.queue.pop_front()?;
            if let Some(attempts) = self.attempts.get_mut(&block) {
                attempts.queued = false;
                return Some(block);
            }
        }
        None
    }

    /// Chooses a copy for a block that lacks `missing`; none if that many are in progress.
    pub(super) fn start(
        &mut self,
        block: BlockId,
        stored_on: &[WorkerId],
        missing: usize,
        roster: &Roster,
    ) -> Option<(WorkerId, WorkerId)> {
        let attempts = self.attempts.entry(block).or_default();
        let open = |to: &&WorkerId| roster.is_open(**to);
        let under_way = attempts.to.iter().filter(open).count();
        let turn = usize::try_from(block.seq).unwrap_or_default();
        if under_way >= missing || stored_on.is_empty() {
            return None;
        }
        // Each failure also moves on to another source.
        let from = *stored_on.get(turn.wrapping_add(attempts.failed.len()) % stored_on.len())?;
        let free: Vec<_> = roster
            .after(from)
            .filter(|to| !stored_on.contains(to) && !attempts.to.contains(to))
            .collect();
        let mut fresh: Vec<_> = free
            .iter()
            .filter(|&to| !attempts.failed.contains(to))
            .collect();
        if fresh.is_empty() {
            attempts.failed.clear();
            fresh = free.iter().collect();
        }
        // A single worker that stores it has perhaps just sent it to its peer, so start there; else spread over all
        // workers.
        let at = if stored_on.len() == 1 { 0 } else { turn };
        let to = **fresh.get(at.checked_rem(fresh.len())?)?;
        attempts.to.insert(to);
        self.under_way.insert((to, block), from);
        if under_way + 1 < missing {
            self.want(block);
        }
        Some((from, to))
    }

    /// A copy has ended. Returns whether it was in progress.
    pub(super) fn ended(&mut self, block: BlockId, to: WorkerId, failed: bool) -> bool {
        let ended = self.under_way.remove(&(to, block)).is_some();
        if let Some(attempts) = self.attempts.get_mut(&block).filter(|_| ended) {
            attempts.to.remove(&to);
            if failed {
                attempts.failed.insert(to);
            }
        }
        ended
    }

    /// Ends all copies from or to this worker; returns their blocks.
    pub(super) fn lose(&mut self, worker: WorkerId) -> Vec<BlockId> {
        let mut over = Vec::new();
        for (&(to, block), &from) in &self.under_way {
            if to == worker || from == worker {
                over.push((to, block));
            }
        }
        for &(to, block) in &over {
            self.ended(block, to, false);
        }
        over.into_iter().map(|(_, block)| block).collect()
    }

    /// The block is no longer stored. Copies in progress still count.
    pub(super) fn forget(&mut self, block: BlockId) {
        self.attempts.remove(&block);
        // Its place in the queue is freed in time, even if no copy ever ends.
        if self.queue.len() > 2 * self.attempts.len() + 64 {
            self.queue
                .retain(|queued| self.attempts.contains_key(queued));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReceiverId;

    /// The second does not wait for the first.
    #[test]
    fn two_missing_copies_are_made_concurrently() {
        let mut roster = Roster::new(3);
        (1..=4).for_each(|worker| assert!(roster.join(WorkerId(worker))));
        let mut copies = Copies::new(9);
        let receiver = ReceiverId(0);
        let block = BlockId { receiver, seq: 0 };
        let mut started = Vec::new();
        copies.want(block);
        while let Some(block) = copies.next() {
            started.extend(copies.start(block, &[WorkerId(1)], 2, &roster));
        }
        let worker = |from, to| (WorkerId(from), WorkerId(to));
        assert_eq!(started, [worker(1, 2), worker(1, 3)]);
        // One failed: the other continues, and another worker takes its place.
        assert!(copies.ended(block, WorkerId(2), true));
        copies.want(block);
        assert_eq!(copies.next(), Some(block));
        let again = copies.start(block, &[WorkerId(1)], 2, &roster);
        assert_eq!(again, Some(worker(1, 4)));
    }

    /// Even if many blocks are queued and forgotten before a copy ends.
    #[test]
    fn forgotten_blocks_leave_nothing() {
        let mut copies = Copies::new(1);
        let receiver = ReceiverId(0);
        let block = |seq| BlockId { receiver, seq };
        (0..10).for_each(|seq| copies.want(block(seq)));
        for seq in 10..10_000 {
            copies.want(block(seq));
            copies.forget(block(seq));
            assert_eq!(copies.attempts.len(), 10);
            assert!(copies.queue.len() <= 2 * 10 + 64, "{}", copies.queue.len());
        }
        let left = std::iter::from_fn(|| copies.next());
        assert!(left.eq((0..10).map(block)));
    }
}
