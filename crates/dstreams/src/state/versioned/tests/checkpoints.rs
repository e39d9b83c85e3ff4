//! A partition restored from a checkpoint equals the original.

use dstreams_control::BatchTime;

use super::model::Model;
use crate::state::versioned::{Delta, KeyedPartition, merged};

impl Model {
    /// Restores it from the checkpoint of an older version and the incremental one after it.
    pub(super) fn checkpoint(&mut self, back: usize) {
        let later = self.deltas.values().rev().take(back).rev();
        let later: Vec<Delta> = later.cloned().collect();
        let (newest, _) = self.newest();
        let base = later.first().map(|first| first.batch().0);
        let before = self.deltas.range(..base.unwrap_or(newest + 1));
        let mut frozen = KeyedPartition::with_sizes(self.kind.shape(), self.sizes);
        for delta in before.map(|(_, delta)| delta) {
            let mut delta = delta.clone();
            delta.on = None;
            frozen.install(&delta).unwrap();
            // A frozen copy does not depend on the segments.
            frozen.compact(delta.batch(), 9).unwrap();
        }
        let Some(whole) = frozen.freeze() else { return };
        let on = frozen.version();
        frozen.compact(BatchTime(u64::MAX), 1_000).unwrap();
        let mut restored = KeyedPartition::with_sizes(self.kind.shape(), self.sizes);
        let shape = self.kind.shape();
        let whole = Delta::from_bytes(&shape, &whole.to_bytes().unwrap()).unwrap();
        assert!(restored.install(&whole).unwrap());
        if !later.is_empty() {
            let changed =
                Delta::from_bytes(&shape, &merged(on, &later).unwrap().to_bytes().unwrap())
                    .unwrap();
            let keys = |(changed, deleted): (usize, usize)| changed + deleted;
            assert!(keys(changed.len()) <= later.iter().map(|one| keys(one.len())).sum());
            assert!(restored.install(&changed).unwrap());
        }
        assert_eq!(
            restored.version().map(|version| version.0),
            Some(newest),
            "the newest version"
        );
        self.low = Some(newest);
        restored.compact(BatchTime(newest), 0).unwrap();
        self.state = restored;
    }
}
