//! Membership, receivers, the ring of peers, and the survivors of a loss.

use std::sync::Arc;

use ClusterCommand::{Drained, Fence, Peer, Receive, Retire};
use dstreams_control::ReceiverId;
use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, ProducerOffset, StoredBlock,
    WorkerId,
};

use super::{
    W1, W2, W3, cluster, copy, dropped, fenced, forgotten, join, joined, lost, meta, plain,
    receiver_lost, stored,
};

fn offset(input: u32, producer: &str, last: u64) -> ProducerOffset {
    let producer = Arc::from(producer);
    ProducerOffset {
        input,
        producer,
        last,
    }
}

fn receive(worker: WorkerId, input: u32, receiver: u64) -> ClusterCommand {
    Receive {
        worker,
        input,
        receiver: ReceiverId(receiver),
        offsets: Vec::new(),
    }
}

/// For a source that resumes.
fn resume(
    (worker, input, receiver): (WorkerId, u32, u64),
    offsets: &[(&str, u64)],
) -> ClusterCommand {
    let offsets = offsets.iter();
    Receive {
        worker,
        input,
        receiver: ReceiverId(receiver),
        offsets: offsets.map(|(part, at)| (Arc::from(*part), *at)).collect(),
    }
}

fn peer(worker: WorkerId, to: impl Into<Option<WorkerId>>) -> ClusterCommand {
    Peer {
        worker,
        to: to.into(),
    }
}

#[test]
fn inputs_are_received_where_their_kind_says() {
    let inputs = vec![InputKind::Master, InputKind::Everywhere, InputKind::One];
    let mut it = Cluster::new(ClusterConfig::new(inputs, 0));
    assert_eq!(it.input_of(ReceiverId(0)), Some(0));
    assert_eq!(it.worker_of(ReceiverId(0)), None);
    assert_eq!(it.step(join(W1)), [receive(W1, 1, 3), receive(W1, 2, 4)]);
    let commands = it.step(join(W2));
    assert_eq!(
        commands,
        [peer(W1, W2), peer(W2, W1), receive(W2, 1, 5)],
        "the ring closes, then it receives"
    );
    assert_eq!(it.step(join(W2)), [], "repeated");
    assert_eq!(it.worker_of(ReceiverId(4)), Some(W1));
    assert_eq!(
        it.step(lost(W1)),
        [Fence { at: W2, lost: W1 }, peer(W2, None)]
    );
    let moved = it.step(fenced(W2, W1, &[]));
    assert_eq!(
        moved,
        [
            receiver_lost(3, &[]),
            receiver_lost(4, &[]),
            receive(W2, 2, 6)
        ]
    );
    assert_eq!(it.step(join(W1)), [], "an id is never reused");
    assert_eq!(it.input_of(ReceiverId(4)), None);
}

/// Removed files, for example. A client of the same name is unaffected.
#[test]
fn gone_parts_of_a_source_are_left_out() {
    let mut config = ClusterConfig::new(vec![InputKind::One, InputKind::Everywhere], 0);
    config.producer_offsets = vec![
        offset(0, "gone", 70),
        offset(0, "left", 7),
        offset(1, "gone", 9),
    ];
    let mut it = Cluster::new(config);
    for input in [0, 1] {
        let parts = vec![Arc::from("gone"), Arc::from("never")];
        assert_eq!(it.step(ClusterEvent::PartsRemoved { input, parts }), []);
    }
    let first = resume((W1, 0, 3), &[("left", 7)]);
    assert_eq!(it.step(join(W1)), [receive(W1, 1, 2), first]);
    assert_eq!(it.remembered_producers(), 2);
}

/// Records in a surviving or forgotten block are not read again; those after a gap are.
#[test]
fn a_source_resumes_at_its_safe_offsets() {
    let mut config = ClusterConfig::new(vec![InputKind::One, InputKind::Everywhere], 0);
    config.max_producers = 1;
    config.producer_offsets = vec![
        offset(0, "left", 70),
        offset(1, "a client", 9),
        offset(1, "an earlier client", 9),
    ];
    let mut it = Cluster::new(config);
    let first = resume((W1, 0, 3), &[("left", 70)]);
    assert_eq!(it.step(join(W1)), [receive(W1, 1, 2), first]);
    it.step(join(W2));
    let of_source = |seq, part, last| StoredBlock {
        meta: meta((3, seq)),
        offsets: vec![offset(0, part, last)],
    };
    it.step(ClusterEvent::Stored {
        worker: W1,
        blocks: vec![of_source(0, "a", 3)],
    });
    it.step(forgotten(&[(3, 0)]));
    it.step(ClusterEvent::Stored {
        worker: W2,
        blocks: vec![of_source(1, "b", 5), of_source(3, "b", 9)],
    });
    it.step(lost(W1));
    let moved = it.step(fenced(W2, W1, &[]));
    let again = resume((W2, 0, 5), &[("a", 3), ("b", 5), ("left", 70)]);
    assert!(moved.contains(&again), "{moved:?}");
    assert_eq!(
        it.remembered_producers(),
        4,
        "parts of a source do not count"
    );
}

#[test]
fn an_ended_source_runs_nowhere_else() {
    let inputs = vec![InputKind::One, InputKind::One];
    let mut it = Cluster::new(ClusterConfig::new(inputs, 0));
    let first = it.step(join(W1));
    assert_eq!(first, [receive(W1, 0, 2), receive(W1, 1, 3)]);
    it.step(join(W2));
    assert_eq!(it.step(ClusterEvent::SourceEnded { input: 0 }), []);
    it.step(lost(W1));
    let moved = it.step(fenced(W2, W1, &[]));
    assert_eq!(
        moved,
        [
            receiver_lost(2, &[]),
            receiver_lost(3, &[]),
            receive(W2, 1, 4)
        ]
    );
}

#[test]
fn the_ring_follows_membership() {
    let mut it = cluster(3, 0);
    assert_eq!(it.workers().collect::<Vec<_>>(), [W1, W2, W3]);
    let commands = it.step(lost(W2));
    assert!(commands.contains(&peer(W1, W3)), "{commands:?}");
    assert!(!commands.contains(&peer(W3, W1)), "unchanged: {commands:?}");
}

#[test]
fn one_copy_needs_no_peers() {
    let config = ClusterConfig {
        copies: 1,
        ..ClusterConfig::new(vec![], 0)
    };
    let mut it = joined(config, 1);
    assert_eq!(it.step(join(W2)), []);
}

#[test]
fn a_block_survives_if_any_worker_stores_it() {
    let mut it = cluster(3, 0);
    it.step(stored(W1, &[(1, 0)]));
    it.step(stored(W2, &[(1, 0)]));
    it.step(lost(W1));
    assert_eq!(
        it.step(fenced(W2, W1, &[(1, 2), (1, 0)])).len(),
        1,
        "one copy"
    );
    assert_eq!(it.step(fenced(W2, W1, &[])), [], "repeated");
    let commands = it.step(fenced(W3, W1, &[(1, 1)]));
    assert_eq!(commands[0], receiver_lost(1, &[(1, 0), (1, 1), (1, 2)]));
    assert_eq!(it.step(fenced(W3, W1, &[])), []);
}

#[test]
fn blocks_after_a_gap_do_not_survive() {
    let mut it = cluster(3, 0);
    it.step(stored(W2, &[(1, 0), (1, 2)]));
    it.step(stored(W3, &[(1, 4)]));
    it.step(lost(W1));
    it.step(fenced(W3, W1, &[(1, 4)]));
    let commands = it.step(fenced(W2, W1, &[(1, 0), (1, 2)]));
    assert!(
        commands.contains(&receiver_lost(1, &[(1, 0)])),
        "{commands:?}"
    );
    assert!(commands.contains(&dropped(W2, &[(1, 2)])), "{commands:?}");
    assert!(commands.contains(&dropped(W3, &[(1, 4)])), "{commands:?}");

    // If the receiving worker reports it, all before it were stored.
    let mut it = cluster(3, 0);
    it.step(stored(W1, &[(1, 3)]));
    it.step(stored(W2, &[(1, 4), (1, 6)]));
    it.step(lost(W1));
    it.step(fenced(W3, W1, &[]));
    let commands = it.step(fenced(W2, W1, &[(1, 4), (1, 6)]));
    assert!(
        commands.contains(&receiver_lost(1, &[(1, 4)])),
        "{commands:?}"
    );
}

#[test]
fn a_worker_lost_before_its_answer_is_not_awaited() {
    let mut it = cluster(3, 0);
    it.step(stored(W3, &[(1, 0)]));
    it.step(lost(W1));
    it.step(fenced(W2, W1, &[]));
    let commands = it.step(lost(W3));
    assert!(commands.contains(&receiver_lost(1, &[])), "{commands:?}");
    assert!(
        commands.contains(&ClusterCommand::BlockLost {
            block: super::id((1, 0))
        }),
        "{commands:?}"
    );
    assert_eq!(it.step(fenced(W2, W3, &[])), [receiver_lost(3, &[])]);
    assert_eq!(
        it.step(lost(W2)),
        [receiver_lost(2, &[])],
        "no worker is left to ask"
    );
}

#[test]
fn a_draining_worker_gives_everything_away_and_may_leave() {
    let mut it = cluster(3, 1);
    it.step(stored(W1, &[(1, 0)]));
    it.step(stored(W2, &[(1, 0)]));
    let commands = it.step(ClusterEvent::Drain { worker: W1 });
    assert!(commands.contains(&copy((1, 0), W1, W3)), "{commands:?}");
    assert!(commands.contains(&peer(W3, W2)), "{commands:?}");
    let stored = ClusterEvent::Stored {
        worker: W3,
        blocks: plain(&[(1, 0)]),
    };
    assert_eq!(it.step(stored.clone()), [Retire { worker: W1 }]);
    assert_eq!(it.step(stored), []);
    assert_eq!(it.step(retired(W1, &[])), [Drained { worker: W1 }]);
    assert_eq!(it.step(retired(W1, &[])), []);
    assert!(it.primary(0).is_some_and(|primary| primary != W1));
    assert!(it.standby(0).is_some_and(|standby| standby != W1));
}

fn retired(worker: WorkerId, blocks: &[(u32, u64)]) -> ClusterEvent {
    let blocks = plain(blocks);
    ClusterEvent::Retired { worker, blocks }
}

/// A retired worker has no part in later losses: its own loss makes no survivors unknown.
#[test]
fn a_retired_worker_is_not_asked_about_losses() {
    for lost_first in [false, true] {
        let mut it = cluster(4, 0);
        it.step(ClusterEvent::Drain { worker: W1 });
        if lost_first {
            let commands = it.step(lost(W2));
            assert!(
                commands.contains(&Fence { at: W1, lost: W2 }),
                "{commands:?}"
            );
            it.step(retired(W1, &[]));
        } else {
            it.step(retired(W1, &[]));
            let commands = it.step(lost(W2));
            assert!(
                !commands.contains(&Fence { at: W1, lost: W2 }),
                "{commands:?}"
            );
        }
        let left = it.step(lost(W1));
        let unknown =
            |command: &ClusterCommand| matches!(command, ClusterCommand::SurvivorsUnknown { .. });
        assert!(!left.iter().any(unknown), "{left:?}");
    }
}

/// Copies that its peer sent it last count, as the peer's loss shows.
#[test]
fn a_retiring_worker_gives_away_its_last_copies() {
    let mut it = cluster(3, 0);
    assert!(
        it.step(ClusterEvent::Drain { worker: W1 })
            .contains(&Retire { worker: W1 })
    );
    let commands = it.step(retired(W1, &[(3, 0)]));
    assert!(!commands.contains(&Drained { worker: W1 }), "{commands:?}");
    it.step(lost(W3));
    let commands = it.step(stored(W2, &[(3, 0)]));
    assert!(commands.contains(&Drained { worker: W1 }), "{commands:?}");
}

#[test]
fn a_lone_worker_keeps_its_blocks_while_it_drains() {
    let mut it = cluster(1, 1);
    it.step(stored(W1, &[(0, 0), (1, 0)]));
    assert_eq!(it.step(ClusterEvent::Drain { worker: W1 }), []);
    let commands = it.step(join(W2));
    assert!(commands.contains(&copy((1, 0), W1, W2)), "{commands:?}");
    assert_eq!(
        it.step(stored(W2, &[(1, 0)])),
        [Retire { worker: W1 }],
        "an unknown receiver's block does not count"
    );
}
