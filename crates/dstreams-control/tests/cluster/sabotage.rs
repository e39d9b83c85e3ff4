//! [`Sabotaged`]: a cluster machine with an injected fault. Each [`Fault`] alters the events or the commands of the
//! real machine; the simulation must report the invariant that breaks. The list is in the documentation of `main.rs`.

use std::collections::BTreeSet;

use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, StoredBlock, WorkerId,
};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

use crate::machine::Machine;

/// An injected fault.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Fault {
    FenceNotAwaited,
    FenceOfTheLost,
    SurvivorDropped,
    SurvivorInvented,
    ReceiverLostTwice,
    FencedIgnored,
    RevokeNotAwaited,
    GrantTwice,
    GrantForgotten,
    OldClaimGranted,
    RefusalForgotten,
    MarksIgnored,
    MarksInflated,
    GapsIgnored,
    StateCopyIgnored,
    CopyForgotten,
    CopyBackwards,
    CopiesUnbounded,
    ReceiverForgotten,
    ReceiverTwice,
    SourceBeginsAgain,
    DropForgotten,
    DropTooEarly,
    ForgottenIgnored,
    BlockLostForNothing,
    BlockLostTwice,
    UnknownHidden,
    UnknownForNothing,
    AdoptForgotten,
    AdoptNotAwaited,
    AdoptedIgnored,
    AdoptTwice,
    AdoptForNothing,
    PeerIsItself,
    PeerToldAgain,
    PeerForgotten,
    StandbyIsHolder,
    StandbyLeavesEarly,
    StandbyNotAwaited,
    AssignedAgain,
    AssignForgotten,
    IncompletePromoted,
    StateLostForNothing,
    StateLossHidden,
    ChangesForgotten,
    ChangesNeeded,
    DrainedTooEarly,
    DrainedForgotten,
    LossNotHeard,
    SlowIgnored,
}

/// All faults, each with the invariant that must report it.
pub const FAULTS: &[(Fault, &str)] = &[
    (Fault::FenceNotAwaited, "survivors"),
    (Fault::FenceOfTheLost, "lost-left-alone"),
    (Fault::SurvivorDropped, "survivors"),
    (Fault::SurvivorInvented, "survivors"),
    (Fault::ReceiverLostTwice, "survivors"),
    (Fault::FencedIgnored, "block-lost"),
    (Fault::RevokeNotAwaited, "one-owner"),
    (Fault::GrantTwice, "newest-claim"),
    (Fault::GrantForgotten, "liveness"),
    (Fault::OldClaimGranted, "newest-claim"),
    (Fault::RefusalForgotten, "newest-claim"),
    (Fault::MarksIgnored, "known-last"),
    (Fault::MarksInflated, "known-last"),
    (Fault::StateCopyIgnored, "nothing-waits"),
    (Fault::ChangesForgotten, "nothing-waits"),
    (Fault::ChangesNeeded, "nothing-waits"),
    (Fault::CopyForgotten, "copies-restored"),
    (Fault::CopyBackwards, "copies-bounded"),
    (Fault::CopiesUnbounded, "copies-bounded"),
    (Fault::ReceiverForgotten, "inputs-covered"),
    (Fault::ReceiverTwice, "inputs-covered"),
    (Fault::SourceBeginsAgain, "known-last"),
    (Fault::DropForgotten, "nothing-leaks"),
    (Fault::DropTooEarly, "nothing-leaks"),
    (Fault::ForgottenIgnored, "nothing-leaks"),
    (Fault::BlockLostForNothing, "block-lost"),
    (Fault::BlockLostTwice, "block-lost"),
    (Fault::UnknownHidden, "losses-told"),
    (Fault::UnknownForNothing, "losses-told"),
    (Fault::AdoptForgotten, "survivors"),
    (Fault::AdoptNotAwaited, "survivors"),
    (Fault::AdoptedIgnored, "block-lost"),
    (Fault::AdoptTwice, "losses-told"),
    (Fault::AdoptForNothing, "losses-told"),
    (Fault::PeerIsItself, "ring"),
    (Fault::PeerToldAgain, "ring"),
    (Fault::PeerForgotten, "ring"),
    (Fault::StandbyIsHolder, "two-parts"),
    (Fault::StandbyLeavesEarly, "two-copies"),
    (Fault::StandbyNotAwaited, "two-copies"),
    (Fault::AssignedAgain, "two-parts"),
    (Fault::AssignForgotten, "two-parts"),
    (Fault::IncompletePromoted, "complete-standby"),
    (Fault::StateLostForNothing, "state-lost"),
    (Fault::StateLossHidden, "state-lost"),
    (Fault::DrainedTooEarly, "drained"),
    (Fault::DrainedForgotten, "drained"),
    (Fault::LossNotHeard, "lost-left-alone"),
    (Fault::SlowIgnored, "ring"),
];

/// Faults with consequences, and the invariant they break in the end if the earlier symptoms are not judged.
pub const CONSEQUENCES: &[(Fault, &str)] = &[
    (Fault::MarksInflated, "acked-once"),
    (Fault::GapsIgnored, "known-last"),
    (Fault::GapsIgnored, "acked-once"),
    (Fault::GapsIgnored, "survivors"),
    (Fault::SurvivorDropped, "acked-once"),
    (Fault::DropTooEarly, "acked-once"),
    (Fault::MarksIgnored, "producer-once"),
    (Fault::SourceBeginsAgain, "producer-once"),
    (Fault::RevokeNotAwaited, "producer-once"),
    (Fault::FenceNotAwaited, "acked-once"),
    (Fault::ForgottenIgnored, "nothing-leaks"),
    (Fault::FencedIgnored, "survivors"),
    (Fault::AdoptedIgnored, "acked-once"),
    (Fault::AdoptNotAwaited, "acked-once"),
    (Fault::StateLossHidden, "complete-standby"),
    (Fault::StateCopyIgnored, "spread"),
    (Fault::SlowIgnored, "spread"),
];

pub struct Sabotaged {
    inner: Cluster,
    fault: Fault,
    live: BTreeSet<WorkerId>,
    /// The blocks reported as stored and not forgotten.
    held: Vec<BlockMeta>,
    newest: BatchTime,
    claims: Vec<ClusterEvent>,
    /// An input that is received by one worker.
    one: Option<u32>,
    /// The number of times the fault was injected.
    pub fired: u64,
}

impl Sabotaged {
    pub fn new(config: ClusterConfig, fault: Fault) -> Self {
        let mut config = config;
        let unbounded = fault == Fault::CopiesUnbounded;
        let always = [
            Fault::ChangesForgotten,
            Fault::ChangesNeeded,
            Fault::StandbyNotAwaited,
        ];
        let always = always.contains(&fault);
        if unbounded {
            config.max_concurrent_copies *= 100;
        }
        let one = config
            .inputs
            .iter()
            .position(|&kind| kind == InputKind::One);
        Self {
            one: one.and_then(|one| u32::try_from(one).ok()),
            inner: Cluster::new(config),
            fault,
            live: BTreeSet::new(),
            held: Vec::new(),
            newest: BatchTime(0),
            claims: Vec::new(),
            fired: u64::from(unbounded || always),
        }
    }

    /// The commands it gives for `event`, before [`Self::alter`].
    fn take(&mut self, event: ClusterEvent) -> Vec<ClusterCommand> {
        let mut said = match (self.fault, self.altered(&event)) {
            (_, Some(events)) => {
                self.fired += 1;
                events
                    .into_iter()
                    .flat_map(|event| self.inner.step(event))
                    .collect()
            }
            (Fault::FenceNotAwaited, None) => {
                let mut said = self.inner.step(event.clone());
                if let ClusterEvent::Lost { worker } = event {
                    said.extend(self.answer_fences(worker));
                }
                said
            }
            (_, None) => self.inner.step(event.clone()),
        };
        match &event {
            ClusterEvent::Joined { worker } => drop(self.live.insert(*worker)),
            ClusterEvent::Lost { worker } => drop(self.live.remove(worker)),
            ClusterEvent::Stored { blocks, .. } => {
                self.held.extend(blocks.iter().map(|block| block.meta))
            }
            ClusterEvent::Forgotten { blocks } => {
                self.held.retain(|held| !blocks.contains(&held.id))
            }
            ClusterEvent::Installed { version, .. } => self.newest = self.newest.max(*version),
            ClusterEvent::Claim { .. } => self.claims.push(event.clone()),
            _ => {}
        }
        said.extend(self.added(&event));
        said
    }

    /// Answers for every worker that it stores nothing.
    fn answer_fences(&mut self, lost: WorkerId) -> Vec<ClusterCommand> {
        let mut said = Vec::new();
        for worker in self.live.clone() {
            self.fired += 1;
            let blocks = Vec::new();
            said.extend(self.inner.step(ClusterEvent::Fenced {
                worker,
                lost,
                blocks,
            }));
        }
        said
    }

    /// The events it takes instead of `event`.
    fn altered(&self, event: &ClusterEvent) -> Option<Vec<ClusterEvent>> {
        let offsets = |blocks: &[StoredBlock], change: fn(&mut StoredBlock)| {
            let mut blocks = blocks.to_vec();
            blocks.iter_mut().for_each(change);
            blocks
        };
        match (self.fault, event) {
            (Fault::MarksIgnored, ClusterEvent::Stored { worker, blocks }) => {
                let (worker, blocks) = (*worker, offsets(blocks, |block| block.offsets.clear()));
                Some(vec![ClusterEvent::Stored { worker, blocks }])
            }
            (Fault::MarksInflated, ClusterEvent::Stored { worker, blocks }) => {
                let more = |block: &mut StoredBlock| {
                    block.offsets.iter_mut().for_each(|offset| offset.last += 1)
                };
                let (worker, blocks) = (*worker, offsets(blocks, more));
                Some(vec![ClusterEvent::Stored { worker, blocks }])
            }
            // As if the receiving worker had reported them, and so all before them.
            (Fault::GapsIgnored, ClusterEvent::Stored { blocks, .. }) => {
                let receiver = blocks.first()?.meta.id.receiver;
                let worker = self.inner.worker_of(receiver)?;
                let blocks = blocks.clone();
                let own = ClusterEvent::Stored { worker, blocks };
                Some(vec![own, event.clone()])
            }
            (Fault::ForgottenIgnored, ClusterEvent::Forgotten { .. })
            | (Fault::LossNotHeard, ClusterEvent::Lost { .. })
            | (Fault::SlowIgnored, ClusterEvent::Slow { .. }) => Some(vec![]),
            (Fault::StateCopyIgnored, ClusterEvent::Installed { copy: 1.., .. }) => Some(vec![]),
            (Fault::FencedIgnored, ClusterEvent::Fenced { worker, lost, .. }) => {
                let blocks = Vec::new();
                let (worker, lost) = (*worker, *lost);
                let fenced = ClusterEvent::Fenced {
                    worker,
                    lost,
                    blocks,
                };
                Some(vec![fenced])
            }
            (Fault::AdoptedIgnored, ClusterEvent::Adopted { lost, .. }) => {
                let (lost, blocks) = (*lost, Vec::new());
                Some(vec![ClusterEvent::Adopted { lost, blocks }])
            }
            (Fault::OldClaimGranted, ClusterEvent::Claim { token, .. }) => {
                let older = self
                    .claims
                    .iter()
                    .rev()
                    .find(|claim| same_producer(claim, event))?;
                let mut older = older.clone();
                if let ClusterEvent::Claim { token: old, .. } = &mut older {
                    *old = *token;
                }
                Some(vec![older])
            }
            _ => None,
        }
    }

    /// The commands it gives instead of `command`.
    fn alter(&mut self, command: ClusterCommand) -> Vec<ClusterCommand> {
        let said = command.clone();
        let twice = || Some(vec![said.clone(), said.clone()]);
        let altered = match (self.fault, command) {
            (Fault::FenceOfTheLost, ClusterCommand::Fence { lost, .. }) => {
                Some(vec![said.clone(), ClusterCommand::Fence { at: lost, lost }])
            }
            (
                Fault::SurvivorDropped,
                ClusterCommand::ReceiverLost {
                    receiver,
                    mut blocks,
                },
            ) => blocks
                .pop()
                .map(|_| vec![ClusterCommand::ReceiverLost { receiver, blocks }]),
            (
                Fault::SurvivorInvented,
                ClusterCommand::ReceiverLost {
                    receiver,
                    mut blocks,
                },
            ) => {
                let id = BlockId {
                    receiver,
                    seq: 1_000_000,
                };
                blocks.push(BlockMeta {
                    id,
                    rows: 0,
                    bytes: 0,
                });
                Some(vec![ClusterCommand::ReceiverLost { receiver, blocks }])
            }
            (Fault::ReceiverLostTwice, ClusterCommand::ReceiverLost { .. })
            | (Fault::GrantTwice, ClusterCommand::Grant { .. })
            | (Fault::BlockLostTwice, ClusterCommand::BlockLost { .. })
            | (Fault::PeerToldAgain, ClusterCommand::Peer { .. })
            | (Fault::AdoptTwice, ClusterCommand::Adopt { .. })
            | (Fault::AssignedAgain, ClusterCommand::Assign { .. }) => twice(),
            (Fault::AdoptNotAwaited, ClusterCommand::Adopt { lost }) => {
                let mut all = vec![said.clone()];
                let blocks = Vec::new();
                all.extend(self.inner.step(ClusterEvent::Adopted { lost, blocks }));
                Some(all)
            }
            (Fault::GrantForgotten, ClusterCommand::Grant { .. })
            | (Fault::RefusalForgotten, ClusterCommand::Refuse { .. })
            | (Fault::CopyForgotten, ClusterCommand::Copy { .. })
            | (Fault::DropForgotten, ClusterCommand::Drop { .. })
            | (Fault::PeerForgotten, ClusterCommand::Peer { .. })
            | (Fault::AssignForgotten, ClusterCommand::Assign { .. })
            | (Fault::AdoptForgotten, ClusterCommand::Adopt { .. })
            | (Fault::UnknownHidden, ClusterCommand::SurvivorsUnknown { .. })
            | (Fault::StateLossHidden, ClusterCommand::StateLost { .. })
            | (Fault::DrainedForgotten, ClusterCommand::Drained { .. }) => Some(vec![]),
            (Fault::ReceiverForgotten, ClusterCommand::Receive { input, .. })
                if self.one == Some(input) =>
            {
                Some(vec![])
            }
            (
                Fault::RevokeNotAwaited,
                ClusterCommand::Revoke {
                    worker,
                    input,
                    producer,
                    token,
                },
            ) => {
                let last = 0;
                Some(self.inner.step(ClusterEvent::Revoked {
                    worker,
                    input,
                    producer,
                    token,
                    last,
                }))
            }
            (Fault::CopyBackwards, ClusterCommand::Copy { block, from, to }) => {
                let (from, to) = (to, from);
                Some(vec![ClusterCommand::Copy { block, from, to }])
            }
            (
                Fault::ReceiverTwice,
                ClusterCommand::Receive {
                    worker,
                    input,
                    receiver,
                    offsets,
                },
            ) => {
                let receiver = ReceiverId(receiver.0 + 10_000);
                let again = ClusterCommand::Receive {
                    worker,
                    input,
                    receiver,
                    offsets,
                };
                Some(vec![said.clone(), again])
            }
            (
                Fault::SourceBeginsAgain,
                ClusterCommand::Receive {
                    worker,
                    input,
                    receiver,
                    offsets,
                },
            ) if !offsets.is_empty() => Some(vec![ClusterCommand::Receive {
                worker,
                input,
                receiver,
                offsets: Vec::new(),
            }]),
            (Fault::PeerIsItself, ClusterCommand::Peer { worker, .. }) => {
                let to = Some(worker);
                Some(vec![ClusterCommand::Peer { worker, to }])
            }
            (
                Fault::StandbyIsHolder,
                ClusterCommand::Assign {
                    partition, primary, ..
                },
            ) => {
                let (standby, next) = (Some(primary), None);
                Some(vec![ClusterCommand::Assign {
                    partition,
                    primary,
                    standby,
                    next,
                }])
            }
            (
                Fault::StandbyLeavesEarly,
                ClusterCommand::Assign {
                    partition,
                    primary,
                    next: Some(next),
                    ..
                },
            ) => Some(vec![ClusterCommand::Assign {
                partition,
                primary,
                standby: Some(next),
                next: None,
            }]),
            (
                Fault::IncompletePromoted,
                ClusterCommand::CopyState {
                    partition,
                    to,
                    copy,
                    ..
                },
            ) => {
                let installed = ClusterEvent::Installed {
                    worker: to,
                    partition,
                    version: self.newest,
                    copy,
                };
                let mut all = vec![said.clone()];
                all.extend(self.inner.step(installed));
                Some(all)
            }
            _ => None,
        };
        self.fired += u64::from(altered.is_some());
        altered.unwrap_or_else(|| vec![said])
    }

    /// A command that it adds.
    fn added(&mut self, event: &ClusterEvent) -> Option<ClusterCommand> {
        let added = match (self.fault, event) {
            (Fault::DropTooEarly, ClusterEvent::Stored { worker, blocks })
                if self.live.contains(worker) =>
            {
                let blocks = blocks.iter().map(|block| block.meta.id).collect();
                let worker = *worker;
                Some(ClusterCommand::Drop { worker, blocks })
            }
            (Fault::BlockLostForNothing, ClusterEvent::Stored { worker, blocks })
                if self.live.contains(worker) =>
            {
                let block = blocks.first()?.meta.id;
                Some(ClusterCommand::BlockLost { block })
            }
            (Fault::UnknownForNothing, ClusterEvent::Lost { worker }) => {
                let lost = *worker;
                Some(ClusterCommand::SurvivorsUnknown { lost })
            }
            (Fault::AdoptForNothing, ClusterEvent::Lost { worker }) => {
                let lost = *worker;
                Some(ClusterCommand::Adopt { lost })
            }
            (Fault::StateLostForNothing, ClusterEvent::Committed { .. }) => {
                self.inner.primary(0)?;
                let (partition, copy) = (0, 1_000_000);
                Some(ClusterCommand::StateLost { partition, copy })
            }
            (Fault::DrainedTooEarly, ClusterEvent::Drain { worker })
                if self.live.contains(worker) =>
            {
                let worker = *worker;
                Some(ClusterCommand::Drained { worker })
            }
            _ => None,
        };
        self.fired += u64::from(added.is_some());
        added
    }
}

fn same_producer(one: &ClusterEvent, other: &ClusterEvent) -> bool {
    let of = |event: &ClusterEvent| match event {
        ClusterEvent::Claim {
            producer, worker, ..
        } => Some((producer.clone(), *worker)),
        _ => None,
    };
    match (of(one), of(other)) {
        (Some((one, at)), Some((other, now_at))) => one == other && at != now_at,
        _ => false,
    }
}

impl Machine for Sabotaged {
    fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand> {
        let said = self.take(event);
        said.into_iter()
            .flat_map(|command| self.alter(command))
            .collect()
    }

    fn state(&self) -> &Cluster {
        &self.inner
    }

    fn missing_changes(&self) -> Vec<(u32, BatchTime)> {
        match self.fault {
            Fault::ChangesForgotten => Vec::new(),
            Fault::ChangesNeeded => vec![(0, BatchTime(0))],
            _ => self.inner.missing_changes(),
        }
    }

    fn has_all(&self, partition: u32, worker: WorkerId) -> bool {
        let awaited = self.fault != Fault::StandbyNotAwaited;
        awaited && self.inner.has_all(partition, worker)
    }
}
