//! [`Groups`]: partitions by worker and by what they have in common there, so that a move need not walk them all.

use std::collections::{BTreeMap, BTreeSet};

use super::WorkerId;

#[derive(Debug)]
pub(super) struct Groups<K>(BTreeMap<WorkerId, BTreeMap<K, BTreeSet<u32>>>);

impl<K: Ord> Groups<K> {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn insert(&mut self, worker: WorkerId, key: K, partition: u32) {
        let groups = self.0.entry(worker).or_default();
        groups.entry(key).or_default().insert(partition);
    }

    pub(super) fn remove(&mut self, worker: WorkerId, key: &K, partition: u32) {
        let Some(groups) = self.0.get_mut(&worker) else {
            return;
        };
        if let Some(group) = groups.get_mut(key) {
            group.remove(&partition);
            if group.is_empty() {
                groups.remove(key);
            }
        }
    }

    /// The groups of a worker; none is empty.
    pub(super) fn of(&self, worker: WorkerId) -> impl Iterator<Item = (&K, &BTreeSet<u32>)> {
        self.0.get(&worker).into_iter().flatten()
    }
}
