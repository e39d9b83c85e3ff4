//! [`Era`]: which runs of batches may change the states of a worker.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// The number of times that the states were rebuilt. Runs that began before the last time change nothing.
#[derive(Default)]
pub struct Era {
    now: AtomicU32,
    /// No change by a run before this era is in progress.
    settled: AtomicU32,
    /// Read-locked by each change.
    changes: RwLock<()>,
}

impl Era {
    /// Refuses changes by earlier runs from now on; those in progress go on. Never waits: the master takes a worker whose
    /// link is held up for lost.
    pub fn begin(&self, era: u32) {
        self.now.fetch_max(era, Ordering::SeqCst);
    }

    /// Begins a change by a run of this era, which lasts until the guard is dropped; `None` if the run is too old.
    pub fn change(&self, era: u32) -> Option<RwLockReadGuard<'_, ()>> {
        let change = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        // After the lock: `wait_for_older` waits for whoever has seen an older era.
        (era >= self.now.load(Ordering::SeqCst)).then_some(change)
    }

    /// Waits until no change by an earlier run is in progress.
    pub fn wait_for_older(&self) {
        let now = self.now.load(Ordering::SeqCst);
        if self.settled.load(Ordering::SeqCst) < now {
            drop(self.changes.write().unwrap_or_else(PoisonError::into_inner));
            self.settled.fetch_max(now, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn an_era_begins_while_an_older_run_changes_the_state_and_its_changes_end_before_others_begin()
    {
        let era = Era::default();
        era.begin(1);
        let change = era.change(1);
        assert!(change.is_some());
        // Does not wait.
        era.begin(2);
        era.begin(1);
        let (over, waited) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                era.wait_for_older();
                over.send(()).unwrap();
            });
            thread::yield_now();
            assert!(waited.try_recv().is_err(), "it waits for the older run");
            drop(change);
            waited.recv().unwrap();
        });
        assert!(era.change(1).is_none());
        assert!(era.change(2).is_some());
    }
}
