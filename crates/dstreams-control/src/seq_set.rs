//! [`SeqSet`]: a set of numbers as ranges: the blocks that a receiver has reported, the receivers that left, the
//! blocks that a checkpoint covers.
//!
//! Consecutive numbers make one range, so it stays small, and a repetition is recognised however late it comes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of numbers, small where they are consecutive.
#[derive(Clone, Eq, PartialEq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct SeqSet {
    /// The last number of each range by its first; ranges neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
}

impl SeqSet {
    /// Adds every number up to `last`.
    pub(crate) fn insert_up_to(&mut self, mut last: u64) {
        let touches = |first: u64, last: u64| first == 0 || first - 1 <= last;
        while let Some(range) = self
            .ranges
            .first_entry()
            .filter(|it| touches(*it.key(), last))
        {
            last = last.max(range.remove());
        }
        self.ranges.insert(0, last);
    }

    /// Adds every number from `first` to `last`.
    pub(crate) fn insert_range(&mut self, mut first: u64, mut last: u64) {
        self.ranges.retain(|&from, &mut to| {
            let touches = from <= last.saturating_add(1) && first <= to.saturating_add(1);
            if touches {
                (first, last) = (first.min(from), last.max(to));
            }
            !touches
        });
        self.ranges.insert(first, last);
    }

    /// The least number that is not in the set.
    pub(crate) fn end(&self) -> u64 {
        let first = self.ranges.first_key_value();
        let from_zero = first.filter(|&(&first, _)| first == 0);
        from_zero.map_or(0, |(_, &last)| last.saturating_add(1))
    }

    /// Whether `seq` was added.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        let before = self.ranges.range(..=seq).next_back();
        before.is_some_and(|(_, &last)| seq <= last)
    }

    /// Adds `seq`; returns whether it was new.
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
    fn the_largest_number_does_not_overflow() {
        let mut set = SeqSet::default();
        assert!(set.insert(u64::MAX));
        assert!(set.insert(u64::MAX - 1));
        assert!(!set.insert(u64::MAX));
        assert_eq!(set.ranges, BTreeMap::from([(u64::MAX - 1, u64::MAX)]));
    }

    proptest! {
        #[test]
        fn insert_up_to_makes_one_range(seqs in prop::collection::vec(0u64..40, 0..30), last in 0u64..45) {
            let (mut set, mut model) = (SeqSet::default(), BTreeSet::new());
            for seq in seqs {
                set.insert(seq);
                model.insert(seq);
            }
            let least = |model: &BTreeSet<u64>| (0..).find(|seq| !model.contains(seq));
            prop_assert_eq!(Some(set.end()), least(&model));
            set.insert_up_to(last);
            model.extend(0..=last);
            prop_assert_eq!(Some(set.end()), least(&model));
            let inside: Vec<u64> = set.ranges.iter().flat_map(|(&first, &last)| first..=last).collect();
            prop_assert_eq!(inside, model.into_iter().collect::<Vec<_>>());
            let apart = set.ranges.iter().zip(set.ranges.iter().skip(1));
            prop_assert!(apart.into_iter().all(|((_, last), (first, _))| last + 1 < *first));
        }

        #[test]
        fn behaves_as_a_set(
            seqs in prop::collection::vec(0u64..40, 0..80),
            runs in prop::collection::vec((0u64..40, 0u64..6), 0..4),
        ) {
            let (mut set, mut model) = (SeqSet::default(), BTreeSet::new());
            for (first, more) in runs {
                set.insert_range(first, first + more);
                model.extend(first..=first + more);
            }
            for seq in seqs {
                prop_assert_eq!(set.contains(seq), model.contains(&seq));
                prop_assert_eq!(set.insert(seq), model.insert(seq));
                prop_assert!(set.contains(seq));
            }
            let inside: Vec<u64> = set.ranges.iter().flat_map(|(&first, &last)| first..=last).collect();
            prop_assert_eq!(inside, model.into_iter().collect::<Vec<_>>());
            let apart = set.ranges.iter().zip(set.ranges.iter().skip(1));
            prop_assert!(apart.into_iter().all(|((_, last), (first, _))| last + 1 < *first));
        }
    }
}
