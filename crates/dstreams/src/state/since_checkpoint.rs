//! [`Changes`]: the changes to a partition since the last checkpoint, for the next one.

use std::collections::VecDeque;

use dstreams_control::BatchTime;

/// Rows that are retained even if the state has fewer.
const MIN_RETAINED_ROWS: usize = 4096;

/// The changes to a partition since the last checkpoint. Retains nothing before the first checkpoint. Gives up
/// once more rows have changed than the state has; the next checkpoint is then full. So it never exceeds the size
/// of the state, even if checkpoints fail.
#[derive(Debug)]
pub(super) struct Changes<T> {
    /// All changes after this version are retained; none if nothing is.
    from: Option<BatchTime>,
    /// Batches, the number of rows that each changed, and the change.
    batches: VecDeque<(BatchTime, usize, T)>,
    rows: usize,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Changes {
            from: None,
            batches: VecDeque::new(),
            rows: 0,
        }
    }
}

impl<T: Clone> Changes<T> {
    /// Whether changes are retained.
    pub fn retains(&self) -> bool {
        self.from.is_some()
    }

    /// Records that a batch changed `rows` rows of a state with `held` rows.
    pub fn add(&mut self, batch: BatchTime, rows: usize, held: usize, change: T) {
        if !self.retains() {
            return;
        }
        self.rows += rows;
        // I13 (ARCHITECTURE.md).
        if self.rows > held.max(MIN_RETAINED_ROWS) {
            *self = Changes::default();
            return;
        }
        self.batches.push_back((batch, rows, change));
    }

    /// The changes after version `since`, in order; none if not all are known.
    pub fn since(&self, since: BatchTime) -> Option<Vec<T>> {
        if self.from? > since {
            return None;
        }
        let later = self.batches.iter().filter(|(batch, ..)| *batch > since);
        Some(later.map(|(.., change)| change.clone()).collect())
    }

    /// The full state as of `version`, the newest, is being written: retains later changes.
    pub fn begin(&mut self, version: BatchTime) {
        *self = Changes {
            from: Some(version),
            ..Changes::default()
        };
    }

    /// A checkpoint of `batch` is complete: drops the changes it covers. The next one builds on the last change
    /// that it covers, which is older than `batch` if the state changes less often than there are batches.
    /// `newest` is the current version.
    pub fn checkpointed(&mut self, batch: BatchTime, newest: BatchTime) {
        if self.from.is_none() {
            // Changes in between were not retained.
            self.from = (newest <= batch).then_some(newest);
            return;
        }
        while let Some((first, rows, _)) = self.batches.front()
            && *first <= batch
        {
            self.rows -= rows;
            self.from = Some(*first);
            self.batches.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(changes: &Changes<u64>, batch: u64) -> Option<Vec<u64>> {
        changes.since(BatchTime(batch))
    }

    #[test]
    fn changes_are_retained_until_the_next_checkpoint() {
        let mut changes = Changes::default();
        changes.add(BatchTime(1), 1, 100, 1);
        assert_eq!(since(&changes, 0), None);
        changes.begin(BatchTime(1));
        changes.add(BatchTime(2), 10, 100, 2);
        changes.add(BatchTime(3), 10, 100, 3);
        assert_eq!(since(&changes, 0), None);
        assert_eq!(since(&changes, 1), Some(vec![2, 3]));
        assert_eq!(since(&changes, 2), Some(vec![3]));
        // It completes later, and another may be tried before.
        changes.checkpointed(BatchTime(2), BatchTime(3));
        assert_eq!(since(&changes, 1), None);
        assert_eq!(since(&changes, 2), Some(vec![3]));
        assert_eq!(changes.rows, 10);
        changes.checkpointed(BatchTime(9), BatchTime(3));
        assert_eq!(since(&changes, 9), Some(vec![]));
        assert_eq!(changes.rows, 0);
    }

    #[test]
    fn a_rarely_changed_state_builds_on_its_own_version() {
        let mut changes = Changes::default();
        changes.begin(BatchTime(3));
        for batch in [4, 7, 9] {
            changes.checkpointed(BatchTime(batch), BatchTime(3));
            assert_eq!(since(&changes, 3), Some(vec![]));
        }
        changes.add(BatchTime(10), 1, 100, 10);
        // The state changed during the write: the checkpoint has the version before.
        changes.checkpointed(BatchTime(9), BatchTime(10));
        assert_eq!(since(&changes, 3), Some(vec![10]));
        changes.checkpointed(BatchTime(14), BatchTime(10));
        assert_eq!(
            (since(&changes, 10), since(&changes, 9)),
            (Some(vec![]), None)
        );
    }

    #[test]
    fn changes_never_exceed_the_state() {
        let mut changes = Changes::default();
        changes.begin(BatchTime(0));
        changes.add(BatchTime(1), MIN_RETAINED_ROWS, 10, 1);
        assert_eq!(since(&changes, 0), Some(vec![1]));
        changes.add(BatchTime(2), 1, 10, 2);
        assert_eq!(since(&changes, 0), None);
        assert!(changes.batches.is_empty());
    }

    /// A standby that joined in between does not know the earlier changes.
    #[test]
    fn without_changes_it_begins_at_a_checkpoint_of_the_newest_version() {
        let mut changes = Changes::<u64>::default();
        changes.checkpointed(BatchTime(5), BatchTime(7));
        assert!(!changes.retains());
        changes.checkpointed(BatchTime(7), BatchTime(7));
        changes.add(BatchTime(8), 1, 10, 8);
        assert_eq!(since(&changes, 7), Some(vec![8]));
    }
}
