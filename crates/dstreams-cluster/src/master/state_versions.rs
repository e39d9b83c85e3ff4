//! [`StateVersions`]: which worker has which version of a partition of state, and what is restored from a checkpoint.

use std::collections::{BTreeMap, HashMap};

use dstreams::Error;
use dstreams::internal::{PartAt, RecoverySource};
use dstreams_control::BatchTime;
use dstreams_control::cluster::{Recovery, WorkerId};

use crate::link::ToWorker;

/// The versions of state on workers.
///
/// A worker that is behind a batch lacks it until it reports that batch or a later one, or a new copy. A partition
/// is restored until its primary has reported the checkpoint's version of the copy that was asked for.
#[derive(Default)]
pub struct StateVersions {
    /// The newest version of a partition that a worker has reported, and the copy it started from.
    installed: HashMap<(WorkerId, u32), (BatchTime, u64)>,
    /// Standbys that missed an install, and the batch.
    behind: HashMap<(WorkerId, u32), BatchTime>,
    /// Partitions that are not restored from the checkpoint yet.
    restoring: BTreeMap<u32, Restoring>,
    /// Partitions that are lost, and not being restored: with the copy that the next primary starts with.
    lost: BTreeMap<u32, u64>,
    /// Number of partitions that were restored to be rebuilt.
    pub rebuilt: u64,
    /// When the state is rebuilt, and which batches may be committed meanwhile.
    pub recovery: Recovery,
    /// Whether lost state can be rebuilt in this process: from a checkpoint and journals.
    pub recoverable: bool,
}

/// The parts of a checkpoint from which a partition is restored.
struct Restoring {
    batch: BatchTime,
    sources: Vec<Vec<PartAt>>,
    copy: u64,
}

impl StateVersions {
    /// Has the primaries of these partitions restore them from the checkpoint of `batch`, in the copies with these
    /// numbers. What was reported about them before does not count.
    pub fn restore(
        &mut self,
        partitions: impl IntoIterator<Item = (u32, u64)>,
        batch: BatchTime,
        sources: impl Fn(usize) -> Vec<Vec<PartAt>>,
    ) {
        for (partition, copy) in partitions {
            let sources = sources(partition as usize);
            let restoring = Restoring {
                batch,
                sources,
                copy,
            };
            self.restoring.insert(partition, restoring);
            self.lost.remove(&partition);
            self.installed.retain(|(_, of), _| *of != partition);
            self.behind.retain(|(_, of), _| *of != partition);
        }
    }

    /// Begins to rebuild all partitions: primaries restore them from a checkpoint, or start empty. Returns the message that
    /// makes workers discard all changes by tasks that began before.
    pub fn invalidate(&mut self, from: &RecoverySource, partitions: usize) -> ToWorker {
        self.recovery.begin();
        self.rebuilt += partitions as u64;
        // The state machine gives the numbers of the copies.
        let all = (0..partitions as u32).map(|partition| (partition, 0));
        self.restore(all, from.batch(), |at| from.sources(at));
        self.void()
    }

    /// The same for the partitions that were lost. Returns them too.
    pub fn restore_lost(&mut self, from: &RecoverySource) -> (ToWorker, Vec<u32>) {
        self.recovery.begin();
        let lost = std::mem::take(&mut self.lost);
        self.rebuilt += lost.len() as u64;
        let partitions = lost.keys().copied().collect();
        self.restore(lost, from.batch(), |at| from.sources(at));
        (self.void(), partitions)
    }

    fn void(&self) -> ToWorker {
        let era = self.recovery.era();
        ToWorker::Void { era }
    }

    /// Number of times that the state was rebuilt.
    pub fn era(&self) -> u32 {
        self.recovery.era()
    }

    /// Whether a partition is not restored yet.
    pub fn is_restoring(&self, partition: u32) -> bool {
        self.restoring.contains_key(&partition)
    }

    /// The message that makes a primary restore a partition; `None` if it is restored.
    pub fn restore_message(&self, partition: u32) -> Option<ToWorker> {
        let restoring = self.restoring.get(&partition)?;
        Some(ToWorker::Restore {
            partition,
            batch: restoring.batch,
            sources: restoring.sources.clone(),
            copy: restoring.copy,
        })
    }

    /// No worker has a partition any more; the next primary starts with this copy. Fails if nothing can make up for the
    /// loss.
    pub fn lose_partition(&mut self, partition: u32, copy: u64) -> Result<(), Error> {
        match self.restoring.get_mut(&partition) {
            Some(restoring) => restoring.copy = copy,
            None if self.recoverable || self.recovery.is_running() => {
                self.lost.insert(partition, copy);
                self.recovery.lost();
            }
            None => return Err(lost_state(partition)),
        }
        Ok(())
    }

    /// Records that a worker has a partition as of a batch. Without `copy`, it is the primary that ran the tasks, and
    /// started from the copy that it reported last. Returns the copy, or `None` if the report is about a state that the
    /// worker had before.
    pub fn install(
        &mut self,
        worker: WorkerId,
        partition: u32,
        version: BatchTime,
        copy: Option<u64>,
    ) -> Option<u64> {
        let restoring = self.restoring.get(&partition).map(|it| it.copy);
        if copy.is_some_and(|copy| restoring.is_some_and(|wanted| wanted != copy)) {
            return None;
        }
        let at = (worker, partition);
        let known = self.installed.get(&at).map(|(_, copy)| *copy);
        // A new copy lacks nothing, nor does a state on which the batch's tasks ran, or that has the missed batch:
        // a later batch is never installed on top of a gap.
        let missed = self.behind.get(&at);
        if copy.is_none() || copy != known || missed.is_some_and(|missed| *missed <= version) {
            self.behind.remove(&at);
        }
        let copy = copy.or(known).unwrap_or_default();
        // A former standby may report an older batch after it has run later ones as the primary.
        let newest = self.installed.get(&at).filter(|(_, of)| *of == copy);
        let version = newest.map_or(version, |(newest, _)| version.max(*newest));
        let made = |it: &Restoring| it.copy == copy && it.batch <= version;
        if self.restoring.get(&partition).is_some_and(made) {
            self.restoring.remove(&partition);
        }
        self.installed.insert(at, (version, copy));
        Some(copy)
    }

    /// A worker could not install a batch. It is behind until it gets a new copy of the state; unless it has become
    /// the primary and has run the batch itself.
    pub fn miss(&mut self, worker: WorkerId, partition: u32, batch: BatchTime) {
        if self.version(worker, partition) < Some(batch) {
            self.behind.insert((worker, partition), batch);
        }
    }

    /// Forgets a lost worker.
    pub fn lose(&mut self, worker: WorkerId) {
        self.installed.retain(|(of, _), _| *of != worker);
        self.behind.retain(|(of, _), _| *of != worker);
    }

    /// The newest version of a partition that a worker has reported.
    pub fn version(&self, worker: WorkerId, partition: u32) -> Option<BatchTime> {
        let installed = self.installed.get(&(worker, partition));
        installed.map(|(version, _)| *version)
    }

    /// The copy of a partition with which a worker began, as it has reported; 0 if it began with none.
    pub fn copy(&self, worker: WorkerId, partition: u32) -> u64 {
        let installed = self.installed.get(&(worker, partition));
        installed.map_or(0, |(_, copy)| *copy)
    }

    /// Whether a standby missed an install.
    pub fn is_behind(&self, worker: WorkerId, partition: u32) -> bool {
        self.behind.contains_key(&(worker, partition))
    }
}

pub fn lost_state(partition: u32) -> Error {
    Error::LostState {
        message: format!(
            "the state of partition {partition} is gone with the workers that held it: \
             the primary and its standby were lost before another worker had a copy"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A standby that got the batch at its next attempt lacks nothing: batches wait for it again.
    #[test]
    fn a_standby_is_behind_until_it_has_what_it_missed() {
        let standby = WorkerId(1);
        let mut versions = StateVersions::default();
        let install = |versions: &mut StateVersions, batch, copy| {
            versions.install(standby, 0, BatchTime(batch), Some(copy));
            versions.is_behind(standby, 0)
        };
        let miss = |versions: &mut StateVersions, batch| {
            versions.miss(standby, 0, BatchTime(batch));
            versions.is_behind(standby, 0)
        };
        assert!(!install(&mut versions, 100, 1));
        assert!(miss(&mut versions, 200));
        // Only the missed batch or a later one repairs that.
        assert!(install(&mut versions, 100, 1));
        assert!(!install(&mut versions, 200, 1));
        // So does the whole state, even as of an older batch.
        assert!(miss(&mut versions, 300));
        assert!(!install(&mut versions, 200, 2));
        // A late failure of a batch that it has is ignored.
        assert!(!miss(&mut versions, 200));
    }

    /// A standby that takes over runs a batch while it still tries to install it, or the one before, from the lost primary.
    #[test]
    fn a_late_report_of_an_older_batch_changes_nothing() {
        let worker = WorkerId(1);
        let mut versions = StateVersions::default();
        versions.install(worker, 0, BatchTime(100), Some(1));
        versions.install(worker, 0, BatchTime(200), None);
        versions.install(worker, 0, BatchTime(300), None);
        assert_eq!(
            versions.install(worker, 0, BatchTime(200), Some(1)),
            Some(1)
        );
        assert_eq!(versions.version(worker, 0), Some(BatchTime(300)));
        // Another copy may be older.
        versions.install(worker, 0, BatchTime(200), Some(2));
        assert_eq!(versions.version(worker, 0), Some(BatchTime(200)));
    }

    /// Reports of a copy that was not asked for do not end a restoration.
    #[test]
    fn a_partition_is_restored_until_its_primary_has_the_copy_that_was_asked_for() {
        let [first, second] = [WorkerId(1), WorkerId(2)];
        let mut versions = StateVersions::default();
        versions.restore([(0, 1)], BatchTime(300), |_| Vec::new());
        let copy_to_restore = |versions: &StateVersions| match versions.restore_message(0) {
            Some(ToWorker::Restore { copy, .. }) => Some(copy),
            _ => None,
        };
        assert_eq!(copy_to_restore(&versions), Some(1));
        // The primary was lost before it had restored the partition.
        versions.lose_partition(0, 2).unwrap();
        assert_eq!(copy_to_restore(&versions), Some(2));
        assert_eq!(versions.install(first, 0, BatchTime(300), Some(1)), None);
        assert_eq!(versions.version(first, 0), None);
        assert_eq!(
            versions.install(second, 0, BatchTime(300), Some(2)),
            Some(2)
        );
        assert_eq!(copy_to_restore(&versions), None);
        // Now only the workers have it.
        let lost = versions.lose_partition(0, 3).unwrap_err().to_string();
        assert!(lost.contains("the state of partition 0 is gone"), "{lost}");
    }
}
