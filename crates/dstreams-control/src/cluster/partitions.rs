//! [`Partitions`]: who holds which partition of state, who is its standby, and as of which batch.
//!
//! A standby is complete when it has the newest version that is committed; only then does it take over. Who should
//! hold what is decided in [`spread`](super::spread).

use std::collections::{BTreeMap, BTreeSet};

use super::roster::Roster;
use super::{ClusterCommand, WorkerId};
use crate::BatchTime;

/// The version of a state that no batch has changed.
const EMPTY: BatchTime = BatchTime(0);

/// The number of what an earlier master left.
const RESTORED: u64 = 1;

/// A worker's part in a partition.
#[derive(Copy, Clone, Debug)]
pub(super) struct Part {
    pub worker: WorkerId,
    /// The number of what its state began with: a state copy, or a state made anew; 0: empty.
    pub copy: u64,
    pub version: Option<BatchTime>,
}

#[derive(Default, Debug)]
pub(super) struct Partition {
    pub holder: Option<Part>,
    pub standby: Option<Part>,
    /// The standby is being sent the state.
    pub copying: bool,
    /// The standby has missed something: send it the state again.
    pub stale: bool,
    /// The state was lost, and is made anew under this number: until the holder has the newest version again, there
    /// is nothing to copy or to move.
    pub to_remake: Option<u64>,
    /// Something was installed somewhere.
    installed: bool,
    /// The newest version that is committed.
    pub newest: Option<BatchTime>,
    /// Workers that had a part in it before: they may have let its state go.
    pub before: BTreeSet<WorkerId>,
    /// Where a state copy failed.
    pub failed: BTreeSet<WorkerId>,
    /// What was said last.
    assigned: Option<(WorkerId, Option<WorkerId>)>,
}

#[derive(Debug)]
pub(super) struct Partitions {
    pub(super) all: BTreeMap<u32, Partition>,
    pub(super) max_copying: usize,
    max_lag: u64,
    /// The number of the last state copy.
    pub(super) copies: u64,
    committed: Option<BatchTime>,
    commits: u64,
    /// Versions that are not committed.
    pending: BTreeMap<BatchTime, BTreeSet<u32>>,
    /// Standbys that are behind, since which commit.
    lagging: BTreeMap<u32, u64>,
    /// Something changed that may let partitions move.
    unsettled: bool,
    /// Not all is as it should be: a standby that becomes complete may change that.
    restless: bool,
    /// Who had a part in any after the last time they were spread.
    busy: BTreeSet<WorkerId>,
}

impl Partitions {
    pub(super) fn new(count: u32, max_copying: usize, max_lag: u64) -> Self {
        Self {
            all: (0..count)
                .map(|partition| (partition, Partition::default()))
                .collect(),
            max_copying: max_copying.max(1),
            max_lag: max_lag.max(1),
            copies: 0,
            committed: None,
            commits: 0,
            pending: BTreeMap::new(),
            lagging: BTreeMap::new(),
            unsettled: false,
            restless: false,
            busy: BTreeSet::new(),
        }
    }

    /// An earlier master left the state as of this batch: it is made from that, as a lost one is made anew.
    pub(super) fn restore(&mut self, batch: BatchTime) {
        self.copies = RESTORED;
        self.committed = Some(batch);
        for it in self.all.values_mut() {
            it.newest = Some(batch);
            it.to_remake = Some(RESTORED);
        }
    }

    /// A worker came, or drains.
    pub(super) const fn roster_changed(&mut self) {
        self.unsettled = true;
    }

    /// The worker is lost: its standbys take over, where they are complete.
    pub(super) fn lose(&mut self, worker: WorkerId, out: &mut Vec<ClusterCommand>) {
        self.unsettled = true;
        for (&partition, it) in &mut self.all {
            it.before.remove(&worker);
            it.failed.remove(&worker);
            if it.standby.is_some_and(|standby| standby.worker == worker) {
                it.standby = None;
                (it.copying, it.stale) = (false, false);
                self.lagging.remove(&partition);
            }
            if it.holder.is_none_or(|holder| holder.worker != worker) {
                continue;
            }
            if !it.is_complete() && !it.is_untouched() {
                self.copies = self.copies.saturating_add(1);
                let copy = self.copies;
                it.to_remake = Some(copy);
                it.standby = it.standby.map(|part| Part {
                    copy,
                    version: None,
                    ..part
                });
                out.push(ClusterCommand::StateLost { partition, copy });
            }
            it.holder = it.standby.take();
            (it.copying, it.stale) = (false, false);
            it.assigned = None;
            self.lagging.remove(&partition);
        }
    }

    pub(super) fn installed(
        &mut self,
        partition: u32,
        worker: WorkerId,
        version: BatchTime,
        copy: u64,
    ) {
        let Some(it) = self.all.get_mut(&partition) else {
            return;
        };
        let was_complete = it.is_complete();
        let is_from = |part: &&mut Part| (part.worker, part.copy) == (worker, copy);
        let part = if let Some(holder) = it.holder.as_mut().filter(is_from) {
            let made = it.to_remake.take_if(|_| Some(version) >= it.newest);
            self.unsettled |= made.is_some();
            holder
        } else if let Some(standby) = it.standby.as_mut().filter(is_from) {
            self.unsettled |= std::mem::take(&mut it.copying);
            it.failed.clear();
            standby
        } else {
            return;
        };
        it.installed = true;
        if part.version >= Some(version) {
            return;
        }
        part.version = Some(version);
        if version == EMPTY {
            // Nothing to lose yet.
        } else if self.committed >= Some(version) {
            it.newest = it.newest.max(Some(version));
        } else {
            self.pending.entry(version).or_default().insert(partition);
        }
        let becomes_complete = self.watch(partition) && !was_complete;
        self.unsettled |= self.restless && becomes_complete;
    }

    pub(super) fn copy_failed(&mut self, partition: u32, to: WorkerId, copy: u64) {
        let Some(it) = self.all.get_mut(&partition) else {
            return;
        };
        let fits = |part: &mut Part| (part.worker, part.copy) == (to, copy);
        if it.copying && it.standby.take_if(|part| fits(part)).is_some() {
            it.copying = false;
            it.before.insert(to);
            it.failed.insert(to);
            self.lagging.remove(&partition);
            self.unsettled = true;
        }
    }

    pub(super) fn committed(&mut self, batch: BatchTime) {
        if self.committed >= Some(batch) {
            return;
        }
        self.committed = Some(batch);
        self.commits = self.commits.saturating_add(1);
        while let Some(entry) = self
            .pending
            .first_entry()
            .filter(|entry| *entry.key() <= batch)
        {
            let (version, partitions) = entry.remove_entry();
            for partition in partitions {
                if let Some(it) = self.all.get_mut(&partition) {
                    it.newest = it.newest.max(Some(version));
                }
                self.watch(partition);
            }
        }
        let patience = self.max_lag;
        let overdue: Vec<_> = (self.lagging.iter())
            .filter(|&(_, &since)| self.commits.saturating_sub(since) >= patience)
            .map(|(&partition, _)| partition)
            .collect();
        for partition in overdue {
            self.lagging.remove(&partition);
            if let Some(it) = self.all.get_mut(&partition) {
                it.stale = true;
                self.unsettled = true;
            }
        }
    }

    /// Notes since when the standby is behind, if it is; whether it is complete.
    fn watch(&mut self, partition: u32) -> bool {
        let Some(it) = self.all.get_mut(&partition) else {
            return false;
        };
        it.stale &= it.standby.is_none_or(|part| part.version < it.newest);
        if it.standby.is_some() && !it.copying && !it.stale && !it.is_complete() {
            self.lagging.entry(partition).or_insert(self.commits);
        } else {
            self.lagging.remove(&partition);
        }
        it.is_complete()
    }

    /// Spreads the partitions over the open workers, if something changed, and says what is new.
    pub(super) fn spread(&mut self, roster: &Roster, out: &mut Vec<ClusterCommand>) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let (mut copies, even) = super::spread::spread(self, roster);
        self.restless = !even;
        for (&partition, it) in &mut self.all {
            let standby = it.standby.map(|part| part.worker);
            let now = it.holder.map(|part| (part.worker, standby));
            if let Some((holder, standby)) = now.filter(|_| now != it.assigned) {
                it.assigned = now;
                out.push(ClusterCommand::Assign {
                    partition,
                    holder,
                    standby,
                });
            }
        }
        copies.sort_unstable();
        for partition in copies {
            let Some(it) = self.all.get(&partition).filter(|it| it.copying) else {
                continue;
            };
            if let (Some(from), Some(to)) = (it.holder, it.standby) {
                out.push(ClusterCommand::CopyState {
                    partition,
                    from: from.worker,
                    to: to.worker,
                    copy: to.copy,
                });
            }
            self.lagging.remove(&partition);
        }
        let parts =
            |it: &Partition| [it.holder, it.standby].map(|part| part.map(|part| part.worker));
        self.busy = self.all.values().flat_map(parts).flatten().collect();
    }

    /// Whether the worker has no part in any.
    pub(super) fn gave_all(&self, worker: WorkerId) -> bool {
        !self.busy.contains(&worker)
    }

    pub(super) fn version(&self, partition: u32) -> Option<BatchTime> {
        self.all.get(&partition)?.holder?.version
    }

    pub(super) fn holder(&self, partition: u32) -> Option<WorkerId> {
        Some(self.all.get(&partition)?.holder?.worker)
    }

    pub(super) fn standby(&self, partition: u32) -> Option<WorkerId> {
        Some(self.all.get(&partition)?.standby?.worker)
    }
}

impl Partition {
    /// Whether nobody can have anything of it.
    fn is_untouched(&self) -> bool {
        let given = self.installed || self.copying || self.to_remake.is_some();
        !given && self.before.is_empty()
    }

    /// Whether the standby may take over.
    pub(super) fn is_complete(&self) -> bool {
        let has_newest = |part: Part| part.version >= self.newest;
        !self.copying
            && !self.stale
            && self.to_remake.is_none()
            && self.standby.is_some_and(has_newest)
    }
}
