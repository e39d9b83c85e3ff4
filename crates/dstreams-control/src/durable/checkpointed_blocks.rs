//! [`CheckpointedBlocks`]: the blocks that a checkpoint contains, permanently.
//!
//! The cut that names a block may be released while the block is still in another journal. So a checkpoint lists
//! its blocks: a range for each receiver. Receivers with no other relevant blocks form ranges too, so that it stays
//! small.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::seq_set::SeqSet;
use crate::{BlockId, ReceiverId};

/// A set of blocks. Opaque: stored with a checkpoint, given to [`Replay`](super::Replay) and to workers.
#[derive(Clone, Eq, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct CheckpointedBlocks {
    /// Receivers that are gone, with all their relevant blocks covered.
    closed: SeqSet,
    /// The others.
    open: BTreeMap<ReceiverId, SeqSet>,
}

impl CheckpointedBlocks {
    /// Whether no restart needs the block: it is in a checkpoint, or irrelevant.
    #[must_use]
    pub fn contains(&self, block: BlockId) -> bool {
        let of_open = || self.open.get(&block.receiver);
        self.is_closed(block.receiver) || of_open().is_some_and(|of| of.contains(block.seq))
    }

    /// Whether no restart needs any block of the receiver.
    #[must_use]
    pub fn is_closed(&self, receiver: ReceiverId) -> bool {
        self.closed.contains(receiver.0)
    }

    /// Adds a block.
    pub(super) fn insert(&mut self, block: BlockId) {
        if !self.is_closed(block.receiver) {
            self.open
                .entry(block.receiver)
                .or_default()
                .insert(block.seq);
        }
    }

    /// Adds all blocks of a receiver.
    pub(super) fn close(&mut self, receiver: ReceiverId) {
        self.open.remove(&receiver);
        self.closed.insert(receiver.0);
    }

    /// Adds all receivers before `first` but these: they have no blocks anywhere and never will. So any number of
    /// processes takes few ranges.
    pub fn close_before<'a>(
        &mut self,
        first: ReceiverId,
        but: impl Iterator<Item = &'a ReceiverId>,
    ) {
        let but: BTreeSet<ReceiverId> = but.copied().chain(self.open()).collect();
        let mut from = 0;
        for ReceiverId(open) in but.into_iter().filter(|it| *it < first).chain([first]) {
            if from < open {
                self.closed.insert_range(from, open - 1);
            }
            from = open + 1;
        }
    }

    /// The receivers that have blocks in the set and are not closed.
    pub(super) fn open(&self) -> impl Iterator<Item = ReceiverId> {
        self.open.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(receiver: u64, seq: u64) -> BlockId {
        BlockId {
            receiver: ReceiverId(receiver),
            seq,
        }
    }

    #[test]
    fn a_closed_receiver_has_all_blocks() {
        let mut checkpointed_blocks = CheckpointedBlocks::default();
        checkpointed_blocks.insert(id(3, 0));
        assert!(checkpointed_blocks.contains(id(3, 0)) && !checkpointed_blocks.contains(id(3, 1)));
        checkpointed_blocks.close(ReceiverId(3));
        checkpointed_blocks.insert(id(3, 7));
        assert!(
            checkpointed_blocks.contains(id(3, 1)) && checkpointed_blocks.is_closed(ReceiverId(3))
        );
        assert!(!checkpointed_blocks.contains(id(2, 0)) && checkpointed_blocks.open().count() == 0);
    }

    #[test]
    fn ended_processes_are_one_range() {
        let mut checkpointed_blocks = CheckpointedBlocks::default();
        for process in 0..70_000 {
            let first = ReceiverId::first_of(process);
            checkpointed_blocks.insert(id(first.0 + 1, 0));
            let ended = [ReceiverId(first.0 + 1), ReceiverId(first.0 + 2)];
            let next = ReceiverId::first_of(process + 1);
            checkpointed_blocks.close_before(next, ended.iter());
            assert!(
                checkpointed_blocks.is_closed(first)
                    && checkpointed_blocks.is_closed(ReceiverId(next.0 - 1))
            );
            assert!(!checkpointed_blocks.is_closed(next));
            for receiver in ended {
                assert!(
                    !checkpointed_blocks.is_closed(receiver)
                        && !checkpointed_blocks.contains(id(receiver.0, 9))
                );
                checkpointed_blocks.close(receiver);
            }
        }
        let json = serde_json::to_string(&checkpointed_blocks).unwrap();
        assert_eq!(
            json,
            r#"{"closed":{"ranges":{"0":300647710719999}},"open":{}}"#
        );
        assert_eq!(ReceiverId::first_of(70_000).0 - 1, 300_647_710_719_999);
    }

    /// The first, neighbours, the bound itself: closed ranges lie between and around them.
    #[test]
    fn open_receivers_are_the_only_gaps() {
        let mut checkpointed_blocks = CheckpointedBlocks::default();
        checkpointed_blocks.insert(id(4, 0));
        checkpointed_blocks.close_before(ReceiverId(6), [0, 3, 6, 8].map(ReceiverId).iter());
        let closed = |receiver: &u64| checkpointed_blocks.is_closed(ReceiverId(*receiver));
        assert_eq!((0..9).filter(closed).collect::<Vec<_>>(), [1, 2, 5]);
        let json = serde_json::to_string(&checkpointed_blocks.closed).unwrap();
        assert_eq!(json, r#"{"ranges":{"1":2,"5":5}}"#);
    }

    /// Checkpoints contain these bytes.
    #[test]
    fn json_is_readable() {
        let json = r#"{"closed":{"ranges":{"0":4,"9":9}},"open":{"7":{"ranges":{"0":11}}}}"#;
        let checkpointed_blocks: CheckpointedBlocks = serde_json::from_str(json).unwrap();
        assert!(checkpointed_blocks.contains(id(4, 99)) && checkpointed_blocks.contains(id(7, 11)));
        assert!(
            !checkpointed_blocks.contains(id(5, 0)) && !checkpointed_blocks.contains(id(7, 12))
        );
        assert_eq!(serde_json::to_string(&checkpointed_blocks).unwrap(), json);
    }
}
