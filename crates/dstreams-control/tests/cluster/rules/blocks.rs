//! The workers that store each block: copies after a loss, forgotten blocks, lost blocks.

use ClusterCommand::{Adopt, BlockLost, Copy};
use dstreams_control::cluster::{ClusterCommand, ClusterConfig, ClusterEvent, InputKind};

use super::{
    W1, W2, W3, cluster, copy, dropped, fenced, forgotten, id, join, joined, lost, plain,
    receiver_lost, stored,
};

fn copy_failed(block: (u32, u64), to: super::WorkerId) -> ClusterEvent {
    let block = id(block);
    ClusterEvent::CopyFailed { block, to }
}

#[test]
fn a_block_stored_by_its_peer_needs_no_copy() {
    let mut it = cluster(3, 0);
    assert_eq!(it.step(stored(W2, &[(1, 0)])), []);
    assert_eq!(it.stored_on(id((1, 0))), [W1, W2], "its receiver stores it");
    assert_eq!(it.step(stored(W1, &[(1, 0)])), []);
    assert_eq!(it.step(stored(W1, &[(99, 0)])), [], "no such receiver");
    assert_eq!(it.stored_blocks(), 1);
}

#[test]
fn the_number_of_copies_is_restored() {
    let mut it = cluster(3, 0);
    it.step(stored(W2, &[(1, 0), (1, 1)]));
    let commands = it.step(lost(W2));
    assert!(commands.contains(&copy((1, 0), W1, W3)), "{commands:?}");
    assert!(commands.contains(&copy((1, 1), W1, W3)), "{commands:?}");
    assert_eq!(it.step(copy_failed((1, 0), W3)), [copy((1, 0), W1, W3)]);
    assert_eq!(it.step(stored(W3, &[(1, 0), (1, 1)])), []);
    assert_eq!(it.stored_on(id((1, 0))), [W1, W3]);
    assert_eq!(it.step(copy_failed((1, 0), W3)), [], "repeated");
}

#[test]
fn a_failed_copy_is_retried_elsewhere() {
    let mut it = cluster(4, 0);
    it.step(stored(W2, &[(1, 0)]));
    let commands = it.step(lost(W2));
    assert!(commands.contains(&copy((1, 0), W1, W3)), "{commands:?}");
    let w4 = super::WorkerId(4);
    assert_eq!(it.step(copy_failed((1, 0), W3)), [copy((1, 0), W1, w4)]);
    assert_eq!(it.step(lost(w4)).last().unwrap(), &copy((1, 0), W1, W3));
}

#[test]
fn concurrent_copies_are_bounded() {
    let config = ClusterConfig {
        max_concurrent_copies: 2,
        ..ClusterConfig::new(vec![InputKind::Everywhere], 0)
    };
    let mut it = joined(config, 3);
    it.step(stored(W2, &[(1, 0), (1, 1), (1, 2), (1, 3)]));
    let copies = |commands: &[ClusterCommand]| {
        let copy = |command: &&ClusterCommand| matches!(command, Copy { .. });
        commands.iter().filter(copy).count()
    };
    assert_eq!(copies(&it.step(lost(W2))), 2);
    assert_eq!(it.step(stored(W3, &[(1, 0)])), [copy((1, 2), W1, W3)]);
    // A forgotten block's copy in progress still counts.
    assert_eq!(it.step(forgotten(&[(1, 1)])), [dropped(W1, &[(1, 1)])]);
    assert_eq!(
        it.step(stored(W3, &[(1, 1)])),
        [dropped(W3, &[(1, 1)]), copy((1, 3), W1, W3)]
    );
}

#[test]
fn blocks_of_a_lone_worker_are_copied_to_a_newcomer() {
    let mut it = cluster(1, 0);
    assert_eq!(it.step(stored(W1, &[(1, 0)])), []);
    assert_eq!(it.step(join(W2)).last().unwrap(), &copy((1, 0), W1, W2));
}

#[test]
fn a_forgotten_block_is_dropped_everywhere_for_good() {
    let mut it = cluster(3, 0);
    it.step(stored(W2, &[(1, 0), (1, 1)]));
    assert_eq!(
        it.step(forgotten(&[(1, 0), (1, 1), (1, 2)])),
        [
            dropped(W1, &[(1, 0), (1, 1)]),
            dropped(W2, &[(1, 0), (1, 1)])
        ]
    );
    assert_eq!(it.stored_blocks(), 0);
    assert_eq!(it.step(stored(W1, &[(1, 2)])), [dropped(W1, &[(1, 2)])]);
    assert_eq!(it.step(stored(W3, &[(1, 1)])), [dropped(W3, &[(1, 1)])]);
}

#[test]
fn the_last_copy_is_lost_once() {
    let mut it = cluster(3, 0);
    it.step(stored(W2, &[(1, 0)]));
    it.step(lost(W1));
    it.step(fenced(W2, W1, &[]));
    assert_eq!(it.step(fenced(W3, W1, &[])), [receiver_lost(1, &[(1, 0)])]);
    assert_eq!(it.input_of(id((1, 0)).receiver), Some(0));
    let block = id((1, 0));
    let commands = it.step(lost(W2));
    let said = |command: &&ClusterCommand| **command == BlockLost { block };
    assert_eq!(commands.iter().filter(said).count(), 1, "{commands:?}");
    assert_eq!(it.step(copy_failed((1, 0), W3)), [], "stale");
    assert_eq!(it.input_of(block.receiver), None);
    assert_eq!(it.step(stored(W3, &[(1, 0)])), [dropped(W3, &[(1, 0)])]);
}

fn with_journals() -> super::Cluster {
    let config = ClusterConfig {
        journals: true,
        ..ClusterConfig::new(vec![InputKind::Everywhere], 0)
    };
    joined(config, 3)
}

fn adopted(lost: super::WorkerId, blocks: &[(u32, u64)]) -> ClusterEvent {
    let blocks = plain(blocks);
    ClusterEvent::Adopted { lost, blocks }
}

/// Its receiver is gone by then, and its survivors are known.
#[test]
fn a_block_that_nobody_stores_is_read_from_the_journal() {
    let mut it = with_journals();
    it.step(stored(W2, &[(1, 0)]));
    it.step(lost(W1));
    it.step(fenced(W2, W1, &[]));
    assert_eq!(it.step(fenced(W3, W1, &[])), [receiver_lost(1, &[(1, 0)])]);
    let commands = it.step(lost(W2));
    assert!(commands.contains(&Adopt { lost: W1 }), "{commands:?}");
    // The journal also has blocks that are over.
    assert_eq!(it.step(adopted(W1, &[(1, 0), (1, 1)])), []);
    assert!(it.is_adopted(id((1, 0))) && !it.is_adopted(id((1, 1))));
    assert_eq!(it.stored_blocks(), 1);
    assert_eq!(it.step(forgotten(&[(1, 0)])), []);
    assert_eq!(it.stored_blocks(), 0);
    assert_eq!(it.step(adopted(W1, &[(1, 0)])), [], "repeated");
}

#[test]
fn a_receiver_is_gone_once_its_journal_was_read_if_a_worker_was_lost_before_it_answered() {
    let mut it = with_journals();
    it.step(stored(W2, &[(1, 0)]));
    it.step(lost(W1));
    let commands = it.step(lost(W2));
    for lost in [W1, W2] {
        assert!(commands.contains(&Adopt { lost }), "{commands:?}");
    }
    assert_eq!(it.step(fenced(W3, W1, &[])), []);
    let gone = [receiver_lost(1, &[(1, 0), (1, 1)])];
    assert_eq!(it.step(adopted(W1, &[(1, 0), (1, 1)])), gone);
    assert_eq!(it.step(adopted(W2, &[])), []);
    assert_eq!(it.step(fenced(W3, W2, &[])), [receiver_lost(2, &[])]);
}

#[test]
fn a_block_that_is_not_in_the_journal_either_is_lost() {
    let mut it = with_journals();
    it.step(stored(W2, &[(1, 0)]));
    it.step(lost(W1));
    it.step(lost(W2));
    it.step(fenced(W3, W1, &[]));
    let block = id((1, 0));
    let gone = [BlockLost { block }, receiver_lost(1, &[])];
    assert_eq!(it.step(adopted(W1, &[])), gone);
}
