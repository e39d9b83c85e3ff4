//! [`Fences`]: the workers that have not yet confirmed that they refuse a lost worker.
//!
//! A worker that joins later is not asked: the lost one was never told to copy to it.

use std::collections::{BTreeMap, BTreeSet};

use super::WorkerId;

#[derive(Default, Debug)]
pub(super) struct Fences {
    /// The workers that have not answered, by lost worker.
    open: BTreeMap<WorkerId, BTreeSet<WorkerId>>,
}

impl Fences {
    pub(super) fn begin(&mut self, lost: WorkerId, asked: BTreeSet<WorkerId>) {
        self.open.insert(lost, asked);
    }

    /// `worker` refuses `lost`.
    pub(super) fn answered(&mut self, worker: WorkerId, lost: WorkerId) {
        if let Some(silent) = self.open.get_mut(&lost) {
            silent.remove(&worker);
        }
    }

    /// `worker` refuses every other worker.
    pub(super) fn answered_all(&mut self, worker: WorkerId) {
        for silent in self.open.values_mut() {
            silent.remove(&worker);
        }
    }

    /// `worker` will not answer. Returns the lost workers for which an answer was pending.
    pub(super) fn lose(&mut self, worker: WorkerId) -> Vec<WorkerId> {
        let open = self.open.iter_mut();
        open.filter_map(|(&lost, silent)| silent.remove(&worker).then_some(lost))
            .collect()
    }

    /// A lost worker that every other worker refuses, and for which nothing else is `awaited`; each is returned once.
    pub(super) fn pop_finished(&mut self, awaited: impl Fn(WorkerId) -> bool) -> Option<WorkerId> {
        let finished = |(&lost, silent): (&WorkerId, &BTreeSet<_>)| {
            (silent.is_empty() && !awaited(lost)).then_some(lost)
        };
        let lost = self.open.iter().find_map(finished)?;
        self.open.remove(&lost);
        Some(lost)
    }
}
