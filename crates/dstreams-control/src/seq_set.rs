//! [`SeqSet`]: a set of numbers as ranges: those of every block a receiver has named, those of receivers that left.
//!
//! Consecutive numbers make one range, so it stays small for ever, and what is named twice is found however late the
//! second time comes.

use std::collections::BTreeMap;

/// A set of numbers, small where they are consecutive.
#[derive(Default, Debug)]
pub(crate) struct SeqSet {
    /// First number of each range to its last; neither overlapping nor adjacent.
    ranges: BTreeMap<u64, u64>,
}

impl SeqSet {
    /// Whether `seq` was added.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        let before = self.ranges.range(..=seq).next_back();
        before.is_some_and(|(_, &last)| seq <= last)
    }

    /// Adds `seq`; says whether it was new.
    pub(crate) fn insert(&mut self, seq: u64) -> bool {
        let before = self
            .ranges
            .range(..=seq)
            .next_back()
            .map(|(&first, &last)| (first, last));
        if before.is_some_and(|(_, last)| seq <= last) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last.checked_add(1) == Some(seq) => first,
            _ => seq,
        };
        let joined = seq
            .checked_add(1)
            .and_then(|next| self.ranges.remove(&next));
        self.ranges.insert(first, joined.unwrap_or(seq));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn consecutive_numbers_are_one_range_in_any_order() {
        let mut set = SeqSet::default();
        for seq in [0, 1, 5, 3, 4, 2] {
            assert!(set.insert(seq), "{seq} is new");
            assert!(!set.insert(seq), "{seq} is old");
        }
        assert_eq!(set.ranges, BTreeMap::from([(0, 5)]));
    }

    #[test]
    fn the_largest_number_is_no_trap() {
        let mut set = SeqSet::default();
        assert!(set.insert(u64::MAX));
        assert!(set.insert(u64::MAX - 1));
        assert!(!set.insert(u64::MAX));
        assert_eq!(set.ranges, BTreeMap::from([(u64::MAX - 1, u64::MAX)]));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(seqs in prop::collection::vec(0u64..40, 0..80)) {
            let (mut set, mut model) = (SeqSet::default(), BTreeSet::new());
            for seq in seqs {
                prop_assert_eq!(set.contains(seq), model.contains(&seq));
                prop_assert_eq!(set.insert(seq), model.insert(seq));
                prop_assert!(set.contains(seq));
            }
            let inside: Vec<u64> = set.ranges.iter().flat_map(|(&first, &last)| first..=last).collect();
            prop_assert_eq!(inside, model.into_iter().collect::<Vec<_>>());
        }
    }
}
