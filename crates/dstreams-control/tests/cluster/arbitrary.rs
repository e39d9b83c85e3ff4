//! Any events in any order: nothing panics, whatever the numbers, and the properties that need no model of the
//! workers hold.
//!
//! Numbers are chosen so that events often match earlier ones, or nearly; proptest shrinks failures.

use std::collections::BTreeSet;
use std::sync::Arc;

use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, ProducerOffset, StoredBlock,
    WorkerId,
};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};
use proptest::prelude::*;

fn worker() -> impl Strategy<Value = WorkerId> {
    prop_oneof![20 => 0u32..6, 1 => any::<u32>()].prop_map(WorkerId)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..6, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![12 => 0u32..4, 1 => any::<u32>()]
}

fn block() -> impl Strategy<Value = BlockId> {
    let receiver = prop_oneof![20 => 0u64..12, 1 => any::<u64>()];
    (receiver, number()).prop_map(|(receiver, seq)| BlockId {
        receiver: ReceiverId(receiver),
        seq,
    })
}

fn producer() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![
        Just(Arc::from("p")),
        Just(Arc::from("q")),
        Just(Arc::from(""))
    ]
}

fn stored() -> impl Strategy<Value = Vec<StoredBlock>> {
    let offset =
        (small(), producer(), number()).prop_map(|(input, producer, last)| ProducerOffset {
            input,
            producer,
            last,
        });
    let block =
        (block(), prop::collection::vec(offset, 0..3)).prop_map(|(id, offsets)| StoredBlock {
            meta: BlockMeta {
                id,
                rows: 1,
                bytes: 1,
            },
            offsets,
        });
    prop::collection::vec(block, 0..4)
}

fn event() -> impl Strategy<Value = ClusterEvent> {
    let batch = || number().prop_map(BatchTime);
    let blocks = prop::collection::vec(block(), 0..4);
    prop_oneof![
        6 => worker().prop_map(|worker| ClusterEvent::Joined { worker }),
        3 => worker().prop_map(|worker| ClusterEvent::Lost { worker }),
        1 => worker().prop_map(|worker| ClusterEvent::Drain { worker }),
        1 => prop::collection::btree_set(worker(), 0..4).prop_map(|workers| ClusterEvent::Slow { workers }),
        8 => (worker(), stored()).prop_map(|(worker, blocks)| ClusterEvent::Stored { worker, blocks }),
        6 => (worker(), worker(), stored())
            .prop_map(|(worker, lost, blocks)| ClusterEvent::Fenced { worker, lost, blocks }),
        4 => (worker(), stored()).prop_map(|(lost, blocks)| ClusterEvent::Adopted { lost, blocks }),
        2 => (worker(), stored()).prop_map(|(worker, blocks)| ClusterEvent::Retired { worker, blocks }),
        2 => (block(), worker()).prop_map(|(block, to)| ClusterEvent::CopyFailed { block, to }),
        2 => blocks.prop_map(|blocks| ClusterEvent::Forgotten { blocks }),
        1 => small().prop_map(|input| ClusterEvent::SourceEnded { input }),
        4 => (small(), producer(), worker(), number())
            .prop_map(|(input, producer, worker, token)| ClusterEvent::Claim { input, producer, worker, token }),
        4 => (worker(), small(), producer(), number(), number()).prop_map(
            |(worker, input, producer, token, last)| ClusterEvent::Revoked { worker, input, producer, token, last }),
        6 => (worker(), small(), batch(), number()).prop_map(
            |(worker, partition, version, copy)| ClusterEvent::Installed { worker, partition, version, copy }),
        2 => (small(), worker(), number())
            .prop_map(|(partition, to, copy)| ClusterEvent::StateCopyFailed { partition, to, copy }),
        1 => Just(ClusterEvent::StateInvalidated),
        3 => batch().prop_map(|batch| ClusterEvent::Committed { batch }),
    ]
}

fn config() -> impl Strategy<Value = ClusterConfig> {
    let kind = prop_oneof![
        Just(InputKind::Everywhere),
        Just(InputKind::One),
        Just(InputKind::Master)
    ];
    let bounds = (0usize..4, 0usize..3, 0usize..3, 0u64..3);
    let first = prop_oneof![8 => 0u64..3, 1 => Just(u64::MAX - 1), 1 => Just(u64::MAX)];
    let rest = (bounds, any::<[bool; 2]>());
    (prop::collection::vec(kind, 0..4), 0u32..4, first, rest).prop_map(
        |(inputs, partitions, first_receiver, (bounds, [journals, standbys]))| {
            let (copies, max_concurrent_copies, max_producers, max_standby_lag) = bounds;
            ClusterConfig {
                copies,
                first_receiver,
                max_concurrent_copies,
                max_producers,
                max_standby_lag,
                journals,
                standbys,
                ..ClusterConfig::new(inputs, partitions)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(config in config(), events in prop::collection::vec(event(), 0..120)) {
        let mut cluster = Cluster::new(config.clone());
        let (mut receivers, mut gone, mut granted) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for event in events {
            let again = event.clone();
            for command in cluster.step(event) {
                match command {
                    ClusterCommand::Receive { receiver, .. } => {
                        prop_assert!(receivers.insert(receiver), "{receiver} twice");
                    }
                    ClusterCommand::ReceiverLost { receiver, blocks } => {
                        prop_assert!(gone.insert(receiver), "{receiver} is gone twice");
                        prop_assert!(blocks.iter().all(|block| block.id.receiver == receiver));
                    }
                    ClusterCommand::Grant { token, worker, .. } => {
                        prop_assert!(cluster.workers().any(|live| live == worker));
                        granted.push(token);
                    }
                    ClusterCommand::Copy { from, to, .. } | ClusterCommand::CopyState { from, to, .. } => {
                        prop_assert!(from != to && cluster.workers().any(|live| live == to));
                    }
                    ClusterCommand::Assign { primary, standby, .. } => {
                        prop_assert!(Some(primary) != standby);
                    }
                    _ => {}
                }
            }
            // Repeated, it changes nothing, unless it answers a command just given.
            if matches!(
                again,
                ClusterEvent::Joined { .. }
                    | ClusterEvent::Lost { .. }
                    | ClusterEvent::Drain { .. }
                    | ClusterEvent::Slow { .. }
            ) {
                let said = cluster.step(again);
                prop_assert!(said.is_empty(), "{said:?}");
            }
            let live: BTreeSet<_> = cluster.workers().collect();
            for partition in 0..config.partitions {
                let (primary, standby) = (cluster.primary(partition), cluster.standby(partition));
                prop_assert!(primary.is_none_or(|it| live.contains(&it)));
                prop_assert!(standby.is_none_or(|it| live.contains(&it) && primary != Some(it)));
                prop_assert!(primary.is_some() || standby.is_none());
            }
        }
    }
}
