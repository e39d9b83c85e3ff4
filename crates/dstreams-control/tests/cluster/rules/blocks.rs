//! Who holds which block:
//! copies after a loss, what is forgotten, what is lost.

use ClusterCommand::{BlockLost, Copy};
use dstreams_control::cluster::{ClusterCommand, ClusterConfig, ClusterEvent, InputKind};

use super::{
    W1, W2, W3, cluster, copy, dropped, fenced, forgotten, gone, id, join, joined, lost, stored,
};

fn copy_failed(block: (u32, u64), to: super::WorkerId) -> ClusterEvent {
    let block = id(block);
    ClusterEvent::CopyFailed { block, to }
}

#[test]
fn a_block_its_peer_stored_needs_no_copy() {
    let mut it = cluster(3, 0);
    assert_eq!(it.step(stored(W2, &[(1, 0)])), []);
    assert_eq!(it.holders(id((1, 0))), [W1, W2], "its receiver holds it");
    assert_eq!(it.step(stored(W1, &[(1, 0)])), []);
    assert_eq!(it.step(stored(W1, &[(99, 0)])), [], "of no receiver");
    assert_eq!(it.held_blocks(), 1);
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
    assert_eq!(it.holders(id((1, 0))), [W1, W3]);
    assert_eq!(it.step(copy_failed((1, 0), W3)), [], "a second time");
}

#[test]
fn a_copy_that_fails_is_tried_elsewhere() {
    let mut it = cluster(4, 0);
    it.step(stored(W2, &[(1, 0)]));
    let commands = it.step(lost(W2));
    assert!(commands.contains(&copy((1, 0), W1, W3)), "{commands:?}");
    let w4 = super::WorkerId(4);
    assert_eq!(it.step(copy_failed((1, 0), W3)), [copy((1, 0), W1, w4)]);
    assert_eq!(it.step(lost(w4)).last().unwrap(), &copy((1, 0), W1, W3));
}

#[test]
fn copies_under_way_are_bounded() {
    let config = ClusterConfig {
        max_copying: 2,
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
    // What is forgotten is under way all the same.
    assert_eq!(it.step(forgotten(&[(1, 1)])), [dropped(W1, &[(1, 1)])]);
    assert_eq!(
        it.step(stored(W3, &[(1, 1)])),
        [dropped(W3, &[(1, 1)]), copy((1, 3), W1, W3)]
    );
}

#[test]
fn who_was_alone_is_copied_to_who_comes() {
    let mut it = cluster(1, 0);
    assert_eq!(it.step(stored(W1, &[(1, 0)])), []);
    assert_eq!(it.step(join(W2)).last().unwrap(), &copy((1, 0), W1, W2));
}

#[test]
fn what_is_forgotten_is_dropped_by_all_and_for_good() {
    let mut it = cluster(3, 0);
    it.step(stored(W2, &[(1, 0), (1, 1)]));
    assert_eq!(
        it.step(forgotten(&[(1, 0), (1, 1), (1, 2)])),
        [
            dropped(W1, &[(1, 0), (1, 1)]),
            dropped(W2, &[(1, 0), (1, 1)])
        ]
    );
    assert_eq!(it.held_blocks(), 0);
    assert_eq!(it.step(stored(W1, &[(1, 2)])), [dropped(W1, &[(1, 2)])]);
    assert_eq!(it.step(stored(W3, &[(1, 1)])), [dropped(W3, &[(1, 1)])]);
}

#[test]
fn the_last_copy_is_lost_once() {
    let mut it = cluster(3, 0);
    it.step(stored(W2, &[(1, 0)]));
    it.step(lost(W1));
    it.step(fenced(W2, W1, &[]));
    assert_eq!(it.step(fenced(W3, W1, &[])), [gone(1, &[(1, 0)])]);
    assert_eq!(it.input_of(id((1, 0)).receiver), Some(0));
    let block = id((1, 0));
    let commands = it.step(lost(W2));
    let said = |command: &&ClusterCommand| **command == BlockLost { block };
    assert_eq!(commands.iter().filter(said).count(), 1, "{commands:?}");
    assert_eq!(it.step(copy_failed((1, 0), W3)), [], "of before");
    assert_eq!(it.input_of(block.receiver), None);
    assert_eq!(it.step(stored(W3, &[(1, 0)])), [dropped(W3, &[(1, 0)])]);
}
