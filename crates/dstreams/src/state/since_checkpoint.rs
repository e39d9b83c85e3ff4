//! [`Changes`]: what batches did to a partition since the last checkpoint, for the next one.

use std::collections::VecDeque;

use dstreams_control::BatchTime;

/// Rows that are kept though the state has fewer.
const FEW: usize = 4096;

/// What batches changed in a partition since the last checkpoint.
/// Keeps nothing before the first checkpoint, and gives up (the next checkpoint has the whole
/// state then) when more rows have come than the state has: so it is no larger than that, whatever becomes of
/// checkpoints.
#[derive(Debug)]
pub(super) struct Changes<T> {
    /// Everything after this version is here; none where not.
    from: Option<BatchTime>,
    /// Batches, how many rows each changed, and how.
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
    /// Whether what a batch does is kept.
    pub fn keeps(&self) -> bool {
        self.from.is_some()
    }

    /// A batch changed so many rows of a state that has `held`.
    pub fn add(&mut self, batch: BatchTime, rows: usize, held: usize, change: T) {
        if !self.keeps() {
            return;
        }
        self.rows += rows;
        // I13 (ARCHITECTURE.md).
        if self.rows > held.max(FEW) {
            *self = Changes::default();
            return;
        }
        self.batches.push_back((batch, rows, change));
    }

    /// What came after version `since`, in order; none where that is not known.
    pub fn since(&self, since: BatchTime) -> Option<Vec<T>> {
        if self.from? > since {
            return None;
        }
        let later = self.batches.iter().filter(|(batch, ..)| *batch > since);
        Some(later.map(|(.., change)| change.clone()).collect())
    }

    /// The whole state as of `version`, which is the newest, is being written: what comes later is kept.
    pub fn begin(&mut self, version: BatchTime) {
        *self = Changes {
            from: Some(version),
            ..Changes::default()
        };
    }

    /// A checkpoint of `batch` is there: what it has is needed no more. The next one goes on from the last change that it
    /// has, which is older than `batch` where the state changes more rarely than there are batches. `newest` is the newest
    /// version now.
    pub fn covered(&mut self, batch: BatchTime, newest: BatchTime) {
        if self.from.is_none() {
            // What came in between was not kept.
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
    fn what_came_after_a_checkpoint_is_known_until_the_next_has_it() {
        let mut changes = Changes::default();
        changes.add(BatchTime(1), 1, 100, 1);
        assert_eq!(since(&changes, 0), None);
        changes.begin(BatchTime(1));
        changes.add(BatchTime(2), 10, 100, 2);
        changes.add(BatchTime(3), 10, 100, 3);
        assert_eq!(since(&changes, 0), None);
        assert_eq!(since(&changes, 1), Some(vec![2, 3]));
        assert_eq!(since(&changes, 2), Some(vec![3]));
        // It takes a while until it is there, and another may be tried before.
        changes.covered(BatchTime(2), BatchTime(3));
        assert_eq!(since(&changes, 1), None);
        assert_eq!(since(&changes, 2), Some(vec![3]));
        assert_eq!(changes.rows, 10);
        changes.covered(BatchTime(9), BatchTime(3));
        assert_eq!(since(&changes, 9), Some(vec![]));
        assert_eq!(changes.rows, 0);
    }

    #[test]
    fn a_state_that_changes_more_rarely_than_checkpoints_come_goes_on_from_its_version() {
        let mut changes = Changes::default();
        changes.begin(BatchTime(3));
        for batch in [4, 7, 9] {
            changes.covered(BatchTime(batch), BatchTime(3));
            assert_eq!(since(&changes, 3), Some(vec![]));
        }
        changes.add(BatchTime(10), 1, 100, 10);
        // It was being written while the state changed: it has the version before.
        changes.covered(BatchTime(9), BatchTime(10));
        assert_eq!(since(&changes, 3), Some(vec![10]));
        changes.covered(BatchTime(14), BatchTime(10));
        assert_eq!(
            (since(&changes, 10), since(&changes, 9)),
            (Some(vec![]), None)
        );
    }

    #[test]
    fn it_is_no_larger_than_the_state() {
        let mut changes = Changes::default();
        changes.begin(BatchTime(0));
        changes.add(BatchTime(1), FEW, 10, 1);
        assert_eq!(since(&changes, 0), Some(vec![1]));
        changes.add(BatchTime(2), 1, 10, 2);
        assert_eq!(since(&changes, 0), None);
        assert!(changes.batches.is_empty());
    }

    /// A standby that has come in between does not know what it did not keep.
    #[test]
    fn one_that_kept_nothing_begins_with_a_checkpoint_of_its_newest_version() {
        let mut changes = Changes::<u64>::default();
        changes.covered(BatchTime(5), BatchTime(7));
        assert!(!changes.keeps());
        changes.covered(BatchTime(7), BatchTime(7));
        changes.add(BatchTime(8), 1, 10, 8);
        assert_eq!(since(&changes, 7), Some(vec![8]));
    }
}
