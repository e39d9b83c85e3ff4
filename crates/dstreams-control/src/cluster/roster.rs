//! [`Roster`]: the live workers, and the ring along which new blocks are copied.
//!
//! A draining worker is still live, but gets nothing more. A slow one is open, but others are preferred.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::{ClusterCommand, WorkerId};
use crate::seq_set::SeqSet;

#[derive(Debug)]
pub(super) struct Roster {
    copies: usize,
    /// Live workers, each with the peer it was last given.
    live: BTreeMap<WorkerId, Option<WorkerId>>,
    /// Live workers that may be given something.
    open: BTreeSet<WorkerId>,
    /// Those that are slow.
    slow: BTreeSet<WorkerId>,
    /// The open workers that are not slow; all, if all are.
    steady: BTreeSet<WorkerId>,
    /// The other live workers, until they are told that they may leave.
    draining: BTreeSet<WorkerId>,
    /// Workers that were told to accept no blocks from others, and whether they have answered.
    retiring: BTreeMap<WorkerId, bool>,
    /// The ids of all lost workers.
    lost_workers: SeqSet,
}

impl Roster {
    pub(super) fn new(copies: usize) -> Self {
        Self {
            copies: copies.max(1),
            live: BTreeMap::new(),
            open: BTreeSet::new(),
            slow: BTreeSet::new(),
            steady: BTreeSet::new(),
            draining: BTreeSet::new(),
            retiring: BTreeMap::new(),
            lost_workers: SeqSet::default(),
        }
    }

    /// Returns whether that is news.
    pub(super) fn join(&mut self, worker: WorkerId) -> bool {
        let new = !self.live.contains_key(&worker) && !self.lost_workers.contains(worker.0.into());
        if new {
            self.live.insert(worker, None);
            self.open.insert(worker);
            self.update_steady();
        }
        new
    }

    /// From now on these workers are slow, and no others. Returns whether that is news.
    pub(super) fn slow_are(&mut self, workers: BTreeSet<WorkerId>) -> bool {
        let before = std::mem::replace(&mut self.slow, workers);
        let news = before != self.slow;
        if news {
            self.update_steady();
        }
        news
    }

    /// Updates the steady workers.
    fn update_steady(&mut self) {
        self.steady = self.open.difference(&self.slow).copied().collect();
        if self.steady.is_empty() {
            self.steady = self.open.clone();
        }
    }

    /// Returns whether it was live.
    pub(super) fn lose(&mut self, worker: WorkerId) -> bool {
        self.lost_workers.insert(worker.0.into());
        self.open.remove(&worker);
        self.update_steady();
        self.draining.remove(&worker);
        self.retiring.remove(&worker);
        self.live.remove(&worker).is_some()
    }

    /// Returns whether that is news.
    pub(super) fn drain(&mut self, worker: WorkerId) -> bool {
        let news = self.open.remove(&worker);
        if news {
            self.draining.insert(worker);
            self.update_steady();
        }
        news
    }

    /// It is to accept no blocks from others. Returns whether that is news.
    pub(super) fn retire(&mut self, worker: WorkerId) -> bool {
        let news = !self.retiring.contains_key(&worker);
        if news {
            self.retiring.insert(worker, false);
        }
        news
    }

    /// It accepts no more blocks from others. Returns whether it was told to.
    pub(super) fn retired(&mut self, worker: WorkerId) -> bool {
        match self.retiring.get_mut(&worker) {
            Some(answered) => {
                *answered = true;
                true
            }
            None => false,
        }
    }

    /// Whether it has confirmed that it accepts no more blocks from others.
    pub(super) fn is_retired(&self, worker: WorkerId) -> bool {
        self.retiring.get(&worker) == Some(&true)
    }

    /// It was told that it may leave.
    pub(super) fn drained(&mut self, worker: WorkerId) {
        self.draining.remove(&worker);
    }

    pub(super) fn is_live(&self, worker: WorkerId) -> bool {
        self.live.contains_key(&worker)
    }

    pub(super) fn is_open(&self, worker: WorkerId) -> bool {
        self.open.contains(&worker)
    }

    /// Whether state may be given to it: it is open, and not slow if others are not.
    pub(super) fn is_steady(&self, worker: WorkerId) -> bool {
        self.steady.contains(&worker)
    }

    /// Whether all live workers may be given state.
    pub(super) fn all_are_steady(&self) -> bool {
        self.steady.len() == self.live.len()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = WorkerId> {
        self.live.keys().copied()
    }

    pub(super) const fn open(&self) -> &BTreeSet<WorkerId> {
        &self.open
    }

    pub(super) const fn steady(&self) -> &BTreeSet<WorkerId> {
        &self.steady
    }

    pub(super) const fn draining(&self) -> &BTreeSet<WorkerId> {
        &self.draining
    }

    /// The number of open workers that should store a block now.
    pub(super) fn needed(&self) -> usize {
        self.copies.min(self.open.len()).max(1)
    }

    /// The open workers in ring order, starting after `worker` and without it.
    pub(super) fn after(&self, worker: WorkerId) -> impl Iterator<Item = WorkerId> {
        let behind = (Bound::Excluded(worker), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Excluded(worker));
        self.open
            .range(behind)
            .chain(self.open.range(before))
            .copied()
    }

    /// Gives each worker its peer where that has changed: if possible a steady one, since clients wait for the peer.
    pub(super) fn assign_peers(&mut self, out: &mut Vec<ClusterCommand>) {
        let assigned: Vec<_> = self.live.iter().map(|(&who, &peer)| (who, peer)).collect();
        for (worker, before) in assigned {
            let steady = self.after(worker).find(|to| self.is_steady(*to));
            let to = steady.or_else(|| self.after(worker).next());
            let to = to.filter(|_| self.copies > 1);
            if to != before {
                self.live.insert(worker, to);
                out.push(ClusterCommand::Peer { worker, to });
            }
        }
    }
}
