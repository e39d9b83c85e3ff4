//! The primaries and standbys of partitions of state: spread, promotion, state copies.

use ClusterCommand::{Assign, CopyState, StateLost};
use dstreams_control::BatchTime;
use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, WorkerId,
};

use super::{W1, W2, W3, cluster, committed, installed, join, joined, lost};

fn assign(
    partition: u32,
    primary: WorkerId,
    standby: impl Into<Option<WorkerId>>,
) -> ClusterCommand {
    Assign {
        partition,
        primary,
        standby: standby.into(),
        next: None,
    }
}

/// With a worker that receives the state to become the standby.
fn assign_next(
    partition: u32,
    primary: WorkerId,
    standby: impl Into<Option<WorkerId>>,
    next: WorkerId,
) -> ClusterCommand {
    Assign {
        partition,
        primary,
        standby: standby.into(),
        next: Some(next),
    }
}

fn copy_state(partition: u32, from: WorkerId, to: WorkerId, copy: u64) -> ClusterCommand {
    CopyState {
        partition,
        from,
        to,
        copy,
    }
}

fn copy_failed(partition: u32, to: WorkerId, copy: u64) -> ClusterEvent {
    ClusterEvent::StateCopyFailed {
        partition,
        to,
        copy,
    }
}

fn state_lost(partition: u32, copy: u64) -> ClusterCommand {
    StateLost { partition, copy }
}

/// The commands about state.
fn step(cluster: &mut Cluster, event: ClusterEvent) -> Vec<ClusterCommand> {
    let mut commands = cluster.step(event);
    commands
        .retain(|command| matches!(command, Assign { .. } | CopyState { .. } | StateLost { .. }));
    commands
}

/// Primaries and standbys install the batch, and it is committed.
fn batch(cluster: &mut Cluster, partitions: u32, version: u64) {
    for partition in 0..partitions {
        for worker in [cluster.primary(partition), cluster.standby(partition)] {
            worker.map(|worker| cluster.step(installed(worker, partition, version, 0)));
        }
    }
    cluster.step(committed(version));
}

/// As of the last commit, in place. The standby gets a new copy once it is recovered; earlier reports are stale.
#[test]
fn a_void_state_is_recovered_by_its_primary() {
    let mut it = cluster(2, 2);
    batch(&mut it, 2, 100);
    let [primary, standby] = [it.primary(0).unwrap(), it.standby(0).unwrap()];
    it.step(installed(primary, 0, 200, 0));
    it.step(installed(standby, 0, 200, 0));
    let commands = step(&mut it, ClusterEvent::StateInvalidated);
    assert_eq!(commands[..2], [state_lost(0, 1), state_lost(1, 2)]);
    assert!(commands.contains(&assign(0, primary, None)), "{commands:?}");
    assert_eq!(it.version(0), None);
    assert_eq!(step(&mut it, installed(primary, 0, 200, 0)), []);
    assert_eq!(it.version(0), None);
    assert_eq!(step(&mut it, installed(primary, 0, 0, 1)), []);
    assert_eq!(
        step(&mut it, installed(primary, 0, 100, 1)),
        [
            assign_next(0, primary, None, standby),
            copy_state(0, primary, standby, 3),
        ]
    );
    // Lost during recovery: the other worker recovers it.
    let other = it.primary(1).unwrap();
    let commands = step(&mut it, lost(other));
    assert!(commands.contains(&state_lost(1, 4)), "{commands:?}");
}

#[test]
fn one_loss_during_a_move_loses_no_state() {
    let mut it = cluster(2, 4);
    batch(&mut it, 4, 100);
    let moved = step(&mut it, join(W3));
    let copies = moved.iter().filter(|it| matches!(it, CopyState { .. }));
    assert!(copies.count() > 0, "{moved:?}");
    for lost_one in [W1, W2] {
        let mut it = cluster(2, 4);
        batch(&mut it, 4, 100);
        step(&mut it, join(W3));
        let commands = step(&mut it, lost(lost_one));
        let gone = commands.iter().find(|it| matches!(it, StateLost { .. }));
        assert_eq!(gone, None, "loss of {lost_one}");
    }
}

#[test]
fn a_standby_leaves_once_the_next_is_complete() {
    let mut it = cluster(2, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    step(&mut it, join(W3));
    let drain = ClusterEvent::Drain { worker: standby };
    assert_eq!(
        step(&mut it, drain),
        [
            assign_next(0, primary, standby, W3),
            copy_state(0, primary, W3, 1)
        ]
    );
    // Its copy is older than the newest batch.
    it.step(installed(primary, 0, 200, 0));
    it.step(committed(200));
    assert_eq!(it.step(installed(W3, 0, 100, 1)), []);
    let retire = ClusterCommand::Retire { worker: standby };
    assert_eq!(
        it.step(installed(W3, 0, 200, 1)),
        [assign(0, primary, W3), retire]
    );
}

/// The batch is committed because the previous standby has it: the next one must have it too.
#[test]
fn a_standby_stays_while_it_is_ahead_of_the_next() {
    let mut it = cluster(2, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    step(&mut it, join(W3));
    step(&mut it, ClusterEvent::Drain { worker: standby });
    step(&mut it, installed(primary, 0, 200, 0));
    step(&mut it, installed(standby, 0, 200, 0));
    assert_eq!(step(&mut it, installed(W3, 0, 100, 1)), []);
    step(&mut it, committed(200));
    let commands = step(&mut it, lost(primary));
    let gone = commands.iter().find(|it| matches!(it, StateLost { .. }));
    assert_eq!((gone, it.primary(0)), (None, Some(standby)));
}

/// Two workers have the only partition as of 200, which is not committed; a third has received it as of 100, to
/// become the standby. Returns the cluster with the primary and the standby.
fn next_that_waits() -> (Cluster, WorkerId, WorkerId) {
    let mut it = cluster(2, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    step(&mut it, join(W3));
    step(&mut it, ClusterEvent::Drain { worker: standby });
    step(&mut it, installed(primary, 0, 200, 0));
    step(&mut it, installed(standby, 0, 200, 0));
    assert_eq!(step(&mut it, installed(W3, 0, 100, 1)), []);
    assert_eq!(it.next(0), Some(W3));
    (it, primary, standby)
}

/// It has everything committed: a loss makes it the standby, and another loss then loses no state.
#[test]
fn a_waiting_next_becomes_the_standby_after_a_loss() {
    for holder_first in [false, true] {
        let (mut it, primary, standby) = next_that_waits();
        let both = match holder_first {
            true => [primary, standby],
            false => [standby, primary],
        };
        let commands = step(&mut it, lost(both[0]));
        let has = |worker| it.has_all(0, worker);
        assert!(has(both[1]) && has(W3), "{commands:?}");
        assert_eq!(it.next(0), None);
        let commands = step(&mut it, lost(both[1]));
        let gone = commands.iter().find(|it| matches!(it, StateLost { .. }));
        assert_eq!((gone, it.primary(0)), (None, Some(W3)));
    }
}

/// A batch is committed once a standby that had everything before has it too.
#[test]
fn has_all_needs_a_role_and_all_committed_state() {
    let mut it = cluster(2, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    assert!(
        it.has_all(0, primary) && it.has_all(0, standby),
        "nothing is committed"
    );
    step(&mut it, installed(primary, 0, 100, 0));
    assert!(it.has_all(0, standby), "not committed yet");
    step(&mut it, committed(100));
    assert!(it.has_all(0, primary) && !it.has_all(0, standby));
    step(&mut it, installed(standby, 0, 100, 0));
    assert!(it.has_all(0, standby));

    step(&mut it, join(W3));
    assert!(!it.has_all(0, W3), "no role");
    step(&mut it, ClusterEvent::Drain { worker: standby });
    assert!(it.next(0) == Some(W3) && !it.has_all(0, W3), "no copy yet");
    step(&mut it, ClusterEvent::StateInvalidated);
    assert!(!it.has_all(0, primary), "being recovered");
}

/// A batch is committed when the primary has it: no worker without it becomes primary.
#[test]
fn a_standby_swaps_once_it_has_all_of_the_primary() {
    let mut it = cluster(2, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    it.step(installed(primary, 0, 200, 0));
    let drain = ClusterEvent::Drain { worker: primary };
    assert_eq!(step(&mut it, drain), []);
    assert_eq!(
        step(&mut it, installed(standby, 0, 200, 0)),
        [assign(0, standby, None)],
        "the previous primary drains"
    );
}

#[test]
fn the_first_worker_gets_all_and_the_second_half() {
    let mut it = cluster(0, 4);
    let all: Vec<_> = (0..4)
        .map(|partition| assign(partition, W1, None))
        .collect();
    assert_eq!(step(&mut it, join(W1)), all);
    assert_eq!(
        step(&mut it, join(W2)),
        [
            assign(0, W2, W1),
            assign(1, W2, W1),
            assign(2, W1, W2),
            assign(3, W1, W2)
        ],
        "nothing is installed, so nothing is copied"
    );
}

#[test]
fn a_newcomer_becomes_primary_after_its_copy() {
    let mut it = cluster(1, 2);
    batch(&mut it, 2, 100);
    assert_eq!(
        step(&mut it, join(W2)),
        [
            assign_next(0, W1, None, W2),
            assign_next(1, W1, None, W2),
            copy_state(0, W1, W2, 1),
            copy_state(1, W1, W2, 2)
        ]
    );
    assert_eq!(step(&mut it, installed(W2, 0, 100, 9)), [], "no such copy");
    assert_eq!(step(&mut it, installed(W2, 0, 100, 1)), [assign(0, W2, W1)]);
    assert_eq!(step(&mut it, installed(W2, 1, 100, 2)), [assign(1, W1, W2)]);
}

#[test]
fn state_copies_are_bounded() {
    let config = ClusterConfig {
        max_concurrent_copies: 1,
        ..ClusterConfig::new(vec![], 2)
    };
    let mut it = joined(config, 1);
    batch(&mut it, 2, 100);
    assert_eq!(
        step(&mut it, join(W2)),
        [assign_next(0, W1, None, W2), copy_state(0, W1, W2, 1)]
    );
    assert_eq!(
        step(&mut it, installed(W2, 0, 100, 1)),
        [
            assign(0, W2, W1),
            assign_next(1, W1, None, W2),
            copy_state(1, W1, W2, 2)
        ]
    );
}

#[test]
fn a_complete_standby_takes_over() {
    let mut it = cluster(3, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    let third = [W1, W2, W3]
        .into_iter()
        .find(|&worker| worker != primary && worker != standby)
        .unwrap();
    assert_eq!(
        step(&mut it, lost(primary)),
        [
            assign_next(0, standby, None, third),
            copy_state(0, standby, third, 1)
        ]
    );
    assert_eq!(
        step(&mut it, lost(standby)),
        [state_lost(0, 2), assign(0, third, None)]
    );
}

#[test]
fn a_lagging_standby_does_not_take_over() {
    let mut it = cluster(2, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    it.step(installed(primary, 0, 200, 0));
    it.step(committed(200));
    assert_eq!(
        step(&mut it, lost(primary)),
        [state_lost(0, 1), assign(0, standby, None)]
    );
}

#[test]
fn an_uncommitted_version_does_not_count() {
    let mut it = cluster(2, 1);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    it.step(installed(primary, 0, 200, 0));
    assert_eq!(step(&mut it, lost(primary)), [assign(0, standby, None)]);
}

#[test]
fn a_standby_that_missed_batches_gets_the_state_again() {
    let config = ClusterConfig {
        max_standby_lag: 2,
        ..ClusterConfig::new(vec![], 1)
    };
    let mut it = joined(config, 2);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    for version in [200, 300] {
        it.step(installed(primary, 0, version, 0));
        assert_eq!(step(&mut it, committed(version)), []);
    }
    assert_eq!(
        step(&mut it, committed(400)),
        [
            assign_next(0, primary, None, standby),
            copy_state(0, primary, standby, 1)
        ]
    );
    assert_eq!(step(&mut it, installed(standby, 0, 300, 0)), [], "stale");
    it.step(installed(standby, 0, 300, 1));
    assert_eq!(step(&mut it, lost(primary)), [assign(0, standby, None)]);
}

/// It would stay the next standby for good, and the worker that it replaces could never leave.
#[test]
fn a_next_standby_that_misses_a_batch_gets_the_state_again_while_the_standby_follows() {
    let config = ClusterConfig {
        max_standby_lag: 2,
        ..ClusterConfig::new(vec![], 1)
    };
    let mut it = joined(config, 2);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    batch(&mut it, 1, 100);
    step(&mut it, join(W3));
    step(&mut it, ClusterEvent::Drain { worker: standby });
    let mut again = Vec::new();
    for version in [200, 300] {
        assert_eq!((again, it.next(0)), (Vec::new(), Some(W3)), "{version}");
        it.step(installed(primary, 0, version, 0));
        it.step(installed(standby, 0, version, 0));
        it.step(installed(W3, 0, 100, 1));
        again = step(&mut it, committed(version));
    }
    assert_eq!(again, [copy_state(0, primary, W3, 2)]);
    assert_eq!(
        step(&mut it, installed(W3, 0, 300, 2)),
        [assign(0, primary, W3)]
    );
}

#[test]
fn a_failed_state_copy_goes_elsewhere() {
    let mut it = cluster(1, 1);
    batch(&mut it, 1, 100);
    assert_eq!(
        step(&mut it, join(W2)),
        [assign_next(0, W1, None, W2), copy_state(0, W1, W2, 1)]
    );
    assert_eq!(
        step(&mut it, copy_failed(0, W2, 1)),
        [copy_state(0, W1, W2, 2)],
        "no other worker"
    );
    assert_eq!(step(&mut it, copy_failed(0, W2, 1)), [], "repeated");
    step(&mut it, join(W3));
    assert_eq!(
        step(&mut it, copy_failed(0, W2, 2)),
        [assign_next(0, W1, None, W3), copy_state(0, W1, W3, 3)]
    );
}

#[test]
fn a_state_that_no_worker_has_is_recovered() {
    let mut it = cluster(1, 1);
    batch(&mut it, 1, 100);
    assert_eq!(step(&mut it, lost(W1)), [state_lost(0, 1)]);
    assert_eq!(it.primary(0), None);
    assert_eq!(step(&mut it, join(W2)), [assign(0, W2, None)]);
    assert_eq!(step(&mut it, join(W3)), [], "there is nothing to copy yet");
    assert_eq!(
        step(&mut it, lost(W2)),
        [state_lost(0, 2), assign(0, W3, None)]
    );
    let w4 = WorkerId(4);
    it.step(join(w4));
    assert_eq!(step(&mut it, installed(W3, 0, 100, 1)), [], "stale");
    assert_eq!(
        step(&mut it, installed(W3, 0, 100, 2)),
        [assign_next(0, W3, None, w4), copy_state(0, W3, w4, 3)]
    );
}

#[test]
fn newcomers_take_their_share() {
    let mut it = cluster(0, 12);
    for worker in 1..=4 {
        let mut commands = it.step(join(WorkerId(worker)));
        while let Some(command) = commands.pop() {
            if let CopyState {
                partition,
                to,
                copy,
                ..
            } = command
            {
                commands.extend(it.step(installed(to, partition, 0, copy)));
            }
        }
    }
    for worker in (1..=4).map(WorkerId) {
        let count = |of: &dyn Fn(u32) -> Option<WorkerId>| {
            (0..12)
                .filter(|&partition| of(partition) == Some(worker))
                .count()
        };
        assert_eq!(count(&|partition| it.primary(partition)), 3);
        assert_eq!(count(&|partition| it.standby(partition)), 3);
    }
}

/// State of an earlier master is recovered on the primary before it is copied or moved.
#[test]
fn restored_state_is_first_recovered_on_its_primary() {
    let mut config = ClusterConfig::new(vec![], 2);
    config.restored = Some(BatchTime(300));
    let mut it = Cluster::new(config);
    step(&mut it, join(W1));
    assert_eq!(step(&mut it, join(W2)), [], "there is nothing to copy yet");
    assert_eq!(step(&mut it, installed(W1, 0, 300, 0)), [], "began empty");
    let made = step(&mut it, installed(W1, 0, 300, 1));
    assert_eq!(
        made,
        [assign_next(0, W1, None, W2), copy_state(0, W1, W2, 2)]
    );
    assert_eq!(step(&mut it, installed(W2, 0, 300, 2)), [assign(0, W2, W1)]);

    // Lost before recovery: the next one recovers it, under another number.
    let commands = step(&mut it, lost(W1));
    assert_eq!(
        commands,
        [state_lost(1, 3), assign(0, W2, None), assign(1, W2, None)]
    );
    step(&mut it, installed(W2, 1, 300, 3));
    let commands = step(&mut it, join(W3));
    let copies = commands.iter().filter(|it| matches!(it, CopyState { .. }));
    assert_eq!(copies.count(), 2, "{commands:?}");
}

/// A standby is there for a move only.
#[test]
fn without_standbys_a_newcomer_takes_its_share() {
    let config = ClusterConfig {
        standbys: false,
        ..ClusterConfig::new(vec![InputKind::Everywhere], 2)
    };
    let mut it = joined(config, 1);
    batch(&mut it, 2, 100);
    let commands = it.step(join(W2));
    assert!(
        commands.contains(&assign_next(0, W1, None, W2)),
        "{commands:?}"
    );
    let commands = it.step(installed(W2, 0, 100, 1));
    assert_eq!(commands, [assign(0, W2, None)]);
    let commands = it.step(lost(W2));
    assert!(commands.contains(&state_lost(0, 2)), "{commands:?}");
}

fn slow(workers: &[WorkerId]) -> ClusterEvent {
    let workers = workers.iter().copied().collect();
    ClusterEvent::Slow { workers }
}

/// At once, since its standby has everything; then the standby moves too. Later it gets its share again.
#[test]
fn state_leaves_a_slow_worker() {
    let mut it = cluster(3, 3);
    batch(&mut it, 3, 100);
    let partition = (0..3).find(|partition| it.primary(*partition) == Some(W1));
    let partition = partition.unwrap();
    let standby = it.standby(partition).unwrap();
    let commands = it.step(slow(&[W1]));
    assert_eq!(it.primary(partition), Some(standby));
    assert!((0..3).all(|partition| it.primary(partition) != Some(W1)));
    let copies = commands.iter().filter_map(|command| match command {
        CopyState {
            partition,
            from,
            to,
            copy,
        } => {
            assert!(*from != W1 && *to != W1, "{command:?}");
            Some((*partition, *to, *copy))
        }
        _ => None,
    });
    let copies: Vec<_> = copies.collect();
    for (partition, to, copy) in &copies {
        assert_eq!(it.standby(*partition), Some(W1), "it stays until then");
        it.step(installed(*to, *partition, 100, *copy));
    }
    assert_eq!(copies.len(), 2);
    assert!((0..3).all(|partition| it.standby(partition) != Some(W1)));
    // The same event again changes nothing.
    assert_eq!(it.step(slow(&[W1])), []);
    let commands = step(&mut it, slow(&[]));
    let back = commands.iter().find_map(|command| match command {
        CopyState {
            partition,
            to: W1,
            copy,
            ..
        } => Some((*partition, *copy)),
        _ => None,
    });
    let (partition, copy) = back.unwrap_or_else(|| panic!("{commands:?}"));
    it.step(installed(W1, partition, 100, copy));
    assert_eq!(it.primary(partition), Some(W1));
}

/// A slow standby is better than none, also where its state is to be copied to it again.
#[test]
fn a_slow_worker_is_standby_if_there_is_no_other() {
    let mut it = cluster(2, 1);
    batch(&mut it, 1, 100);
    let (primary, standby) = (it.primary(0).unwrap(), it.standby(0).unwrap());
    assert_eq!(
        step(&mut it, slow(&[primary])),
        [assign(0, standby, primary)]
    );
    assert_eq!(step(&mut it, slow(&[primary, standby])), [], "both are");
    step(&mut it, slow(&[primary]));
    // It misses changes for too long.
    let mut said = Vec::new();
    for version in 200..220 {
        it.step(installed(standby, 0, version, 0));
        said.extend(step(&mut it, committed(version)));
    }
    assert!(
        said.contains(&copy_state(0, standby, primary, 1)),
        "{said:?}"
    );
    // One that joins takes its place.
    let commands = step(&mut it, join(W3));
    assert!(
        commands.is_empty(),
        "not before that copy has ended: {commands:?}"
    );
    let commands = step(&mut it, installed(primary, 0, 219, 1));
    assert!(
        commands.contains(&copy_state(0, standby, W3, 2)),
        "{commands:?}"
    );
    assert_eq!(
        step(&mut it, installed(W3, 0, 219, 2)),
        [assign(0, standby, W3)]
    );
}
