//! The worker that takes a producer's records, and the offset it resumes at.

use std::sync::Arc;

use ClusterCommand::{Grant, Refuse, Revoke};
use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, ProducerOffset, WorkerId,
};

use super::{W1, W2, W3, cluster, fenced, forgotten, joined, lost, marked};

fn claim(worker: WorkerId, token: u64) -> ClusterEvent {
    claim_of("p", worker, token)
}

fn claim_of(producer: &str, worker: WorkerId, token: u64) -> ClusterEvent {
    ClusterEvent::Claim {
        input: 0,
        producer: Arc::from(producer),
        worker,
        token,
    }
}

fn revoked(worker: WorkerId, token: u64, last: u64) -> ClusterEvent {
    ClusterEvent::Revoked {
        worker,
        input: 0,
        producer: Arc::from("p"),
        token,
        last,
    }
}

fn revoke(worker: WorkerId, token: u64) -> ClusterCommand {
    Revoke {
        worker,
        input: 0,
        producer: Arc::from("p"),
        token,
    }
}

fn grant(token: u64, worker: WorkerId, last: u64) -> ClusterCommand {
    Grant {
        token,
        worker,
        last,
    }
}

fn store(cluster: &mut Cluster, worker: WorkerId, block: (u32, u64), last: u64) {
    let blocks = vec![marked(block, last)];
    cluster.step(ClusterEvent::Stored { worker, blocks });
}

#[test]
fn a_grant_starts_at_the_safe_offset() {
    let mut it = cluster(2, 0);
    assert_eq!(it.step(claim(W1, 1)), [grant(1, W1, 0)]);
    store(&mut it, W2, (1, 0), 7);
    assert_eq!(it.step(claim(W1, 2)), [grant(2, W1, 7)]);
    it.step(forgotten(&[(1, 0)]));
    assert_eq!(it.step(claim(W1, 3)), [grant(3, W1, 7)]);
    assert_eq!(it.step(claim(W1, 3)), [], "repeated");
    assert_eq!(it.step(claim(W3, 4)), [], "no such worker");
}

#[test]
fn a_stale_or_misdirected_claim_is_refused() {
    let mut it = cluster(2, 0);
    let refused = |token, worker| [Refuse { token, worker }];
    it.step(claim(W1, 5));
    assert_eq!(it.step(claim(W2, 4)), refused(4, W2), "a newer one exists");
    let elsewhere = ClusterEvent::Claim {
        input: 7,
        producer: Arc::from("p"),
        worker: W1,
        token: 6,
    };
    assert_eq!(it.step(elsewhere), refused(6, W1), "no such input");
}

#[test]
fn records_after_a_gap_are_not_safe_yet() {
    let mut it = cluster(2, 0);
    it.step(claim(W1, 1));
    store(&mut it, W2, (1, 0), 3);
    store(&mut it, W2, (1, 2), 9);
    assert_eq!(it.step(claim(W1, 2)), [grant(2, W1, 3)]);
    store(&mut it, W2, (1, 1), 6);
    assert_eq!(it.step(claim(W1, 3)), [grant(3, W1, 9)]);
}

#[test]
fn the_previous_owner_gives_up_first() {
    let mut it = cluster(3, 0);
    it.step(claim(W1, 1));
    assert_eq!(it.step(claim(W2, 2)), [revoke(W1, 1)]);
    let replaced = [Refuse {
        token: 2,
        worker: W2,
    }];
    assert_eq!(it.step(claim(W3, 3)), replaced, "it was replaced");
    assert_eq!(it.step(revoked(W2, 1, 4)), [], "does not own it");
    assert_eq!(it.step(revoked(W1, 1, 4)), [grant(3, W3, 4)]);
    assert_eq!(it.step(revoked(W1, 1, 9)), [], "repeated");
    assert_eq!(it.step(claim(W1, 4)), [revoke(W3, 3)]);
    assert_eq!(it.step(revoked(W3, 3, 2)), [grant(4, W1, 4)]);
    // An old answer does not answer this one.
    assert_eq!(it.step(claim(W2, 5)), [revoke(W1, 4)]);
    assert_eq!(it.step(revoked(W1, 1, 9)), []);
}

#[test]
fn a_lost_owner_is_fenced_first() {
    let mut it = cluster(3, 0);
    it.step(claim(W1, 1));
    it.step(lost(W1));
    assert_eq!(it.step(claim(W2, 2)), []);
    it.step(ClusterEvent::Fenced {
        worker: W2,
        lost: W1,
        blocks: vec![marked((1, 0), 5)],
    });
    assert_eq!(it.step(revoked(W1, 1, 9)), [], "too late");
    let commands = it.step(fenced(W3, W1, &[]));
    assert!(commands.contains(&grant(2, W2, 5)), "{commands:?}");
}

#[test]
fn lost_records_are_not_safe() {
    let mut it = cluster(2, 0);
    it.step(claim(W1, 1));
    store(&mut it, W2, (1, 0), 3);
    store(&mut it, W1, (1, 1), 4);
    it.step(lost(W1));
    it.step(fenced(W2, W1, &[(1, 0)]));
    assert_eq!(it.step(claim(W2, 2)), [grant(2, W2, 3)]);
}

#[test]
fn a_waiting_claim_of_a_lost_worker_is_not_granted() {
    let mut it = cluster(3, 0);
    it.step(claim(W1, 1));
    it.step(claim(W2, 2));
    it.step(lost(W2));
    assert_eq!(it.step(revoked(W1, 1, 4)), []);
    assert_eq!(it.step(claim(W3, 3)), [grant(3, W3, 4)]);
}

#[test]
fn producers_without_an_owner_are_forgotten_beyond_a_bound() {
    let config = ClusterConfig {
        max_producers: 2,
        ..ClusterConfig::new(vec![InputKind::Everywhere], 0)
    };
    let mut it = joined(config, 2);
    it.step(claim(W1, 1));
    it.step(revoked(W1, 1, 8));
    it.step(claim_of("q", W1, 2));
    assert_eq!(it.step(claim(W2, 3)), [grant(3, W2, 8)]);
    it.step(claim_of("r", W1, 4));
    assert_eq!(it.remembered_producers(), 3, "all have a live owner");
    it.step(revoked(W2, 3, 9));
    it.step(claim_of("s", W1, 5));
    assert_eq!(it.remembered_producers(), 3);
    assert_eq!(it.step(claim(W2, 6)), [grant(6, W2, 0)]);
}

#[test]
fn offsets_of_an_earlier_master_are_safe() {
    let mut config = ClusterConfig::new(vec![InputKind::Everywhere], 0);
    config.producer_offsets = vec![ProducerOffset {
        input: 0,
        producer: Arc::from("p"),
        last: 70,
    }];
    let mut it = joined(config, 1);
    assert_eq!(it.step(claim(W1, 1)), [grant(1, W1, 70)]);
    assert_eq!(it.step(claim_of("q", W1, 2)), [grant(2, W1, 0)]);
}
