//! [`Recovery`]: when lost state is recovered, while batches run.
//!
//! The state is recovered as of the last commit, and the batch after it runs on that. So no recovery may begin while a
//! batch has run and is not committed: its changes were in the lost state, and would be missing afterwards. And no
//! batch may be committed that ran on a state which was lost meanwhile: it runs again.

use std::collections::BTreeSet;

use crate::BatchTime;

/// Whether a batch that has run may be committed.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Finish {
    /// It may. Until it is, or runs again, no recovery begins.
    Commit,
    /// Its changes are lost, or not recovered: it must run again, on the recovered state.
    RunAgain,
    /// A recovery is in progress: ask again when it is over.
    Wait,
}

/// Decides when lost state is recovered, and which batches may be committed meanwhile.
///
/// ```
/// use dstreams_control::BatchTime;
/// use dstreams_control::cluster::{Finish, Recovery};
///
/// let mut recovery = Recovery::default();
/// let (first, second) = (BatchTime(100), BatchTime(200));
/// assert_eq!(recovery.finish(first, recovery.era()), Finish::Commit);
/// recovery.lost();
/// // The first batch may already have taken effect.
/// assert!(!recovery.may_begin());
/// assert_eq!(recovery.finish(second, recovery.era()), Finish::RunAgain);
/// recovery.committed(first);
/// assert!(recovery.may_begin());
/// recovery.begin();
/// recovery.end();
/// assert_eq!(recovery.finish(second, recovery.era()), Finish::Commit);
/// ```
#[derive(Clone, Default, Debug)]
pub struct Recovery {
    /// State was lost, and no recovery has begun since.
    lost: bool,
    running: bool,
    /// Number of recoveries that have begun.
    era: u32,
    /// Batches that have run and are not committed.
    finished: BTreeSet<BatchTime>,
}

impl Recovery {
    /// State is lost. A recovery that is in progress must start over.
    pub const fn lost(&mut self) {
        self.lost = true;
    }

    /// Whether state is lost and no recovery has begun since.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a recovery is due and may begin, as of the last commit.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        self.lost && !self.running && self.finished.is_empty()
    }

    /// Whether a recovery is due that waits for a batch to be committed. Nobody who reads the state may wait for that
    /// recovery: the commit may wait for them.
    #[must_use]
    pub fn waits_for_commit(&self) -> bool {
        self.lost && !self.running && !self.finished.is_empty()
    }

    /// A recovery begins or starts over. Runs of earlier eras no longer change the state.
    pub const fn begin(&mut self) {
        self.lost = false;
        self.running = true;
        self.era = self.era.saturating_add(1);
    }

    /// The recovery is complete, or was given up.
    pub const fn end(&mut self) {
        self.running = false;
    }

    /// Whether a recovery is in progress.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running
    }

    /// Number of recoveries that have begun.
    #[must_use]
    pub const fn era(&self) -> u32 {
        self.era
    }

    /// A batch has run on a state of this era, and all primaries have its changes.
    pub fn finish(&mut self, batch: BatchTime, era: u32) -> Finish {
        if era != self.era {
            Finish::RunAgain
        } else if self.running {
            Finish::Wait
        } else if self.lost {
            Finish::RunAgain
        } else {
            self.finished.insert(batch);
            Finish::Commit
        }
    }

    /// A batch is committed, or runs again.
    pub fn committed(&mut self, batch: BatchTime) {
        self.finished.remove(&batch);
    }
}
