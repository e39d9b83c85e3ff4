//! [`Partitions`]: the primary and the standby of each partition of state, and their versions.
//!
//! A standby is complete when it has the newest committed version; only then may it take over. A worker that is to
//! become the standby is `next` until it is complete; only then does the previous standby leave, so a copy in
//! progress costs no safety. The target placement is decided in [`spread`](super::spread).

use std::collections::{BTreeMap, BTreeSet};

use super::roster::Roster;
use super::{ClusterCommand, WorkerId};
use crate::BatchTime;

/// The version of a state that no batch has changed.
const EMPTY: BatchTime = BatchTime(0);

/// The copy number of the state that an earlier master left.
const RESTORED: u64 = 1;

/// A worker's role in a partition.
#[derive(Copy, Clone, Debug)]
pub(super) struct Part {
    pub worker: WorkerId,
    /// The number of the state copy or recovery that its state began with; 0: empty.
    pub copy: u64,
    pub version: Option<BatchTime>,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub primary: Option<Part>,
    /// Takes over when the primary is lost.
    pub standby: Option<Part>,
    /// Receives a copy of the state; becomes the standby when it has all of it.
    pub next: Option<Part>,
    /// The newest committed version when the copy to `next` began: the copy will have it.
    pub since: BatchTime,
    /// The standby has missed a change: copy the state to it again.
    pub stale: bool,
    /// The state was lost, and is recovered under this number: until the primary has the newest version again,
    /// nothing can be copied or moved.
    pub recovering: Option<u64>,
    /// Some worker has installed a version.
    installed: bool,
    /// The newest committed version.
    pub newest: Option<BatchTime>,
    /// Workers that had a role in it before; they may have released its state.
    pub before: BTreeSet<WorkerId>,
    /// Workers to which a state copy failed.
    pub failed: BTreeSet<WorkerId>,
    /// The last `Assign`.
    assigned: Option<Assigned>,
}

/// Primary, standby and next.
type Assigned = (WorkerId, Option<WorkerId>, Option<WorkerId>);

#[derive(Debug)]
pub(super) struct Partitions {
    pub(super) all: BTreeMap<u32, Partition>,
    pub(super) max_concurrent_copies: usize,
    max_lag: u64,
    /// Whether each partition has a standby, and not only while it moves.
    pub(super) standbys: bool,
    /// The number of the last state copy or recovery.
    pub(super) copies: u64,
    pub(super) committed: Option<BatchTime>,
    commits: u64,
    /// Uncommitted versions, with the partitions that have installed them.
    pending: BTreeMap<BatchTime, BTreeSet<u32>>,
    /// Partitions whose standby, or `next` after its copy, lags: the count of commits since when it has made no
    /// progress.
    lagging: BTreeMap<u32, u64>,
    /// Something changed that may allow partitions to move.
    unsettled: bool,
    /// Not every partition is in its place yet: a standby that becomes complete may change that.
    uneven: bool,
    /// Workers that had a role in any partition after the last spread.
    busy: BTreeSet<WorkerId>,
}

impl Partitions {
    pub(super) fn new(
        (count, standbys): (u32, bool),
        max_concurrent_copies: usize,
        max_lag: u64,
    ) -> Self {
        Self {
            all: (0..count)
                .map(|partition| (partition, Partition::new()))
                .collect(),
            max_concurrent_copies: max_concurrent_copies.max(1),
            max_lag: max_lag.max(1),
            standbys,
            copies: 0,
            committed: None,
            commits: 0,
            pending: BTreeMap::new(),
            lagging: BTreeMap::new(),
            unsettled: false,
            uneven: false,
            busy: BTreeSet::new(),
        }
    }

    /// An earlier master left the state as of this batch: primaries recover it from there, like a lost one.
    pub(super) fn restore(&mut self, batch: BatchTime) {
        self.copies = RESTORED;
        self.committed = Some(batch);
        for it in self.all.values_mut() {
            it.newest = Some(batch);
            it.recovering = Some(RESTORED);
        }
    }

    /// A worker joined, began to drain, became slow, or is no longer slow.
    pub(super) const fn roster_changed(&mut self) {
        self.unsettled = true;
    }

    /// The worker is lost: complete standbys take over from it.
    pub(super) fn lose(&mut self, worker: WorkerId, out: &mut Vec<ClusterCommand>) {
        self.unsettled = true;
        for (&partition, it) in &mut self.all {
            it.before.remove(&worker);
            it.failed.remove(&worker);
            if it.standby.take_if(|part| part.worker == worker).is_some() {
                it.stale = false;
                self.lagging.remove(&partition);
                // `next` waited only for what that standby had.
                it.promote_next();
            }
            if it.next.take_if(|part| part.worker == worker).is_some() {
                self.lagging.remove(&partition);
            }
            if it.primary.is_none_or(|primary| primary.worker != worker) {
                continue;
            }
            if it.is_complete() || it.is_untouched() {
                it.primary = it.standby.take();
                it.promote_next();
            } else {
                self.copies = self.copies.saturating_add(1);
                let copy = self.copies;
                it.recovering = Some(copy);
                let heir = it.standby.take().or_else(|| it.next.take());
                it.primary = heir.map(|part| Part {
                    copy,
                    version: None,
                    ..part
                });
                out.push(ClusterCommand::StateLost { partition, copy });
            }
            // The copy to `next` came from the lost worker.
            it.before.extend(it.next.take().map(|part| part.worker));
            it.stale = false;
            it.assigned = None;
            self.lagging.remove(&partition);
        }
    }

    /// All states are void: primaries recover theirs, and copies follow.
    pub(super) fn invalidate(&mut self, out: &mut Vec<ClusterCommand>) {
        self.unsettled = true;
        self.pending.clear();
        self.lagging.clear();
        for (&partition, it) in &mut self.all {
            self.copies = self.copies.saturating_add(1);
            let copy = self.copies;
            it.recovering = Some(copy);
            it.primary = it.primary.map(|part| Part {
                copy,
                version: None,
                ..part
            });
            let others = [it.standby.take(), it.next.take()];
            it.before
                .extend(others.into_iter().flatten().map(|part| part.worker));
            it.stale = false;
            it.assigned = None;
            out.push(ClusterCommand::StateLost { partition, copy });
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
        let could_move = it.can_move();
        let is_from = |part: &&mut Part| (part.worker, part.copy) == (worker, copy);
        let watched = it.watched() == Some(worker);
        let part = if let Some(primary) = it.primary.as_mut().filter(is_from) {
            let made = it.recovering.take_if(|_| Some(version) >= it.newest);
            self.unsettled |= made.is_some();
            primary
        } else if let Some(standby) = it.standby.as_mut().filter(is_from) {
            standby
        } else if let Some(next) = it.next.as_mut().filter(is_from) {
            it.failed.clear();
            next
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
        self.unsettled |= it.promote_next();
        if watched {
            // It has made progress.
            self.lagging.remove(&partition);
        }
        self.unsettled |= self.watch(partition) && self.uneven && !could_move;
    }

    pub(super) fn copy_failed(&mut self, partition: u32, to: WorkerId, copy: u64) {
        let Some(it) = self.all.get_mut(&partition) else {
            return;
        };
        let fits = |part: &mut Part| (part.worker, part.copy) == (to, copy);
        // A `next` that has a version has received the whole copy.
        let sent = it.next.take_if(|part| part.version.is_none() && fits(part));
        if sent.is_some() {
            it.give_up_next(to);
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
        let max_lag = self.max_lag;
        let overdue: Vec<_> = (self.lagging.iter())
            .filter(|&(_, &since)| self.commits.saturating_sub(since) >= max_lag)
            .map(|(&partition, _)| partition)
            .collect();
        for partition in overdue {
            self.lagging.remove(&partition);
            if let Some(it) = self.all.get_mut(&partition) {
                match it.next.take() {
                    Some(next) => it.give_up_next(next.worker),
                    None => it.stale = !it.is_complete(),
                }
                self.unsettled = true;
            }
        }
    }

    /// Records since when the standby, or `next`, lags, if it does. Returns whether standby and primary can swap.
    fn watch(&mut self, partition: u32) -> bool {
        let Some(it) = self.all.get_mut(&partition) else {
            return false;
        };
        it.stale &= it.standby.is_none_or(|part| part.version < it.newest);
        let behind = match it.next {
            // A copy in progress does not lag: it ends, however long it takes.
            Some(next) => next.version.is_some(),
            None => it.standby.is_some() && !it.stale && !it.is_complete(),
        };
        if behind {
            self.lagging.entry(partition).or_insert(self.commits);
        } else {
            self.lagging.remove(&partition);
        }
        it.can_move()
    }

    /// Spreads the partitions over the steady workers if something changed; gives the new assignments and copies.
    pub(super) fn spread(&mut self, roster: &Roster, out: &mut Vec<ClusterCommand>) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let (mut copies, even) = super::spread::spread(self, roster);
        self.uneven = !even;
        let worker = |part: Option<Part>| part.map(|part| part.worker);
        for (&partition, it) in &mut self.all {
            let (standby, next) = (worker(it.standby), worker(it.next));
            let now = it.primary.map(|part| (part.worker, standby, next));
            if let Some((primary, standby, next)) = now.filter(|_| now != it.assigned) {
                it.assigned = now;
                out.push(ClusterCommand::Assign {
                    partition,
                    primary,
                    standby,
                    next,
                });
            }
        }
        copies.sort_unstable();
        for partition in copies {
            let Some(it) = self.all.get(&partition) else {
                continue;
            };
            if let (Some(from), Some(to)) = (it.primary, it.next) {
                out.push(ClusterCommand::CopyState {
                    partition,
                    from: from.worker,
                    to: to.worker,
                    copy: to.copy,
                });
            }
            self.lagging.remove(&partition);
        }
        let parts = |it: &Partition| [it.primary, it.standby, it.next].map(worker);
        self.busy = self.all.values().flat_map(parts).flatten().collect();
    }

    /// Partitions whose standby or `next` lacks committed changes, and the version after which these begin.
    pub(super) fn missing_changes(&self) -> Vec<(u32, BatchTime)> {
        let all = self.all.iter();
        all.filter_map(|(&partition, it)| Some((partition, it.lacks_since()?)))
            .collect()
    }

    /// Whether the worker has no role in any partition.
    pub(super) fn has_handed_over(&self, worker: WorkerId) -> bool {
        !self.busy.contains(&worker)
    }

    pub(super) fn has_all(&self, partition: u32, worker: WorkerId) -> bool {
        let it = self.all.get(&partition);
        it.is_some_and(|it| it.has_all(worker))
    }

    pub(super) fn version(&self, partition: u32) -> Option<BatchTime> {
        self.all.get(&partition)?.primary?.version
    }

    pub(super) fn primary(&self, partition: u32) -> Option<WorkerId> {
        Some(self.all.get(&partition)?.primary?.worker)
    }

    pub(super) fn standby(&self, partition: u32) -> Option<WorkerId> {
        Some(self.all.get(&partition)?.standby?.worker)
    }

    pub(super) fn next(&self, partition: u32) -> Option<WorkerId> {
        Some(self.all.get(&partition)?.next?.worker)
    }
}

impl Partition {
    const fn new() -> Self {
        Self {
            primary: None,
            standby: None,
            next: None,
            since: EMPTY,
            stale: false,
            recovering: None,
            installed: false,
            newest: None,
            before: BTreeSet::new(),
            failed: BTreeSet::new(),
            assigned: None,
        }
    }

    /// The version after which the standby or `next` lacks committed changes.
    fn lacks_since(&self) -> Option<BatchTime> {
        let behind = |part: &Part| part.version < self.newest;
        let standby = self.standby.filter(behind).filter(|_| !self.stale);
        let standby = standby.map(|part| part.version.unwrap_or(EMPTY));
        let next = self.next.filter(behind);
        let next = next.map(|part| part.version.unwrap_or(self.since));
        standby.into_iter().chain(next).min()
    }

    /// Whether the worker has a role in the partition and all that is committed.
    fn has_all(&self, worker: WorkerId) -> bool {
        let is = |part: Option<Part>| part.filter(|part| part.worker == worker);
        let has_newest = |part: Part| part.version >= self.newest;
        // `next` has nothing before its copy is complete, even where nothing is committed.
        let next = is(self.next).filter(|part| part.version.is_some());
        let part = is(self.primary).or(is(self.standby)).or(next);
        self.recovering.is_none() && part.is_some_and(has_newest)
    }

    /// The worker whose lag counts: the standby, or the one that is to become it, once it has received its copy.
    fn watched(&self) -> Option<WorkerId> {
        match self.next {
            Some(next) => next.version.map(|_| next.worker),
            None => Some(self.standby?.worker),
        }
    }

    /// Whether no worker can have any state of it.
    fn is_untouched(&self) -> bool {
        let given = self.installed || self.next.is_some() || self.recovering.is_some();
        !given && self.before.is_empty()
    }

    /// Whether the standby may take over.
    pub(super) fn is_complete(&self) -> bool {
        let has_newest = |part: Part| part.version >= self.newest;
        !self.stale && self.recovering.is_none() && self.standby.is_some_and(has_newest)
    }

    /// Whether the standby may swap with the primary: it must also have what the primary has of a batch that is about
    /// to be committed.
    pub(super) fn can_move(&self) -> bool {
        let held = self.primary.and_then(|primary| primary.version);
        self.is_complete() && self.standby.is_some_and(|part| part.version >= held)
    }

    /// Makes `next` the standby if it has all that this needs; the previous standby may then leave. Returns whether
    /// it did.
    fn promote_next(&mut self) -> bool {
        // Including what the previous standby has of a batch that is about to be committed because of that.
        let before = self.standby.filter(|_| self.is_complete());
        let before = before.and_then(|part| part.version);
        let wanted = self.newest.max(before).max(Some(EMPTY));
        let Some(next) = self.next.take_if(|part| part.version >= wanted) else {
            return false;
        };
        // I11 (ARCHITECTURE.md): now the previous standby may leave.
        let leaver = self.standby.replace(next);
        self.before.extend(leaver.map(|part| part.worker));
        self.stale = false;
        true
    }

    /// The copy to this worker failed or lags too far.
    fn give_up_next(&mut self, worker: WorkerId) {
        self.before.insert(worker);
        self.failed.insert(worker);
    }
}
