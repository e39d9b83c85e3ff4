//! [`Fences`]: who has not yet said that it refuses a lost worker.
//!
//! A worker that joins later need not be asked: no one was told to copy to it before.

use std::collections::{BTreeMap, BTreeSet};

use super::WorkerId;

#[derive(Default, Debug)]
pub(super) struct Fences {
    /// Lost workers, each with who has not answered.
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

    /// `worker` refuses everybody.
    pub(super) fn answered_all(&mut self, worker: WorkerId) {
        for silent in self.open.values_mut() {
            silent.remove(&worker);
        }
    }

    /// No answer will come from `worker`. Returns those lost of which it has not told.
    pub(super) fn lose(&mut self, worker: WorkerId) -> Vec<WorkerId> {
        let open = self.open.iter_mut();
        open.filter_map(|(&lost, silent)| silent.remove(&worker).then_some(lost))
            .collect()
    }

    /// A lost worker that everyone refuses, each once.
    pub(super) fn pop_finished(&mut self) -> Option<WorkerId> {
        let finished =
            |(&lost, silent): (&WorkerId, &BTreeSet<_>)| silent.is_empty().then_some(lost);
        let lost = self.open.iter().find_map(finished)?;
        self.open.remove(&lost);
        Some(lost)
    }
}
