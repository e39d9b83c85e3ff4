//! [`Ledger`]: all events and commands so far. It records and does not judge; the invariants read it.
//!
//! Written from the rules, independently of the machine: an event that the rules ignore is not recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dstreams_control::cluster::{
    ClusterCommand, ClusterConfig, ClusterEvent, ProducerOffset, StoredBlock, WorkerId,
};
use dstreams_control::{BatchTime, BlockId, ReceiverId};

/// A worker's role in a partition, as reported.
#[derive(Copy, Clone, Default, Debug)]
pub struct Part {
    /// The number of the copy that was ordered last.
    pub copy: u64,
    /// The copy is in progress.
    pub copying: bool,
    /// The copy failed, or ended when its source was lost.
    pub broken: bool,
    pub version: Option<BatchTime>,
}

pub struct Ledger {
    pub config: ClusterConfig,
    pub live: BTreeSet<WorkerId>,
    pub gone: BTreeSet<WorkerId>,
    /// Live workers that were asked to drain; those that were told that they may leave.
    pub draining: BTreeSet<WorkerId>,
    pub drained: BTreeSet<WorkerId>,
    /// The workers that are slow, also lost ones.
    pub slow: BTreeSet<WorkerId>,
    /// Workers that were told to accept no blocks from others; those of them that have answered.
    pub retiring: BTreeSet<WorkerId>,
    pub retired: BTreeSet<WorkerId>,
    pub peers: BTreeMap<WorkerId, Option<WorkerId>>,
    pub receivers: BTreeMap<ReceiverId, (WorkerId, u32)>,
    /// The surviving blocks of receivers that are gone.
    pub left: BTreeMap<ReceiverId, BTreeSet<BlockId>>,
    /// The workers that have not answered, by lost worker.
    pub fences: BTreeMap<WorkerId, BTreeSet<WorkerId>>,
    /// Lost workers whose survivors are unknown, since another one was lost before it answered for them, and that
    /// one; and those reported so.
    pub untold: BTreeSet<WorkerId>,
    pub unknown: BTreeSet<WorkerId>,
    /// Lost workers whose journals are to be read; those whose journals were; the blocks found that were still needed.
    pub adopting: BTreeSet<WorkerId>,
    pub adopted: BTreeSet<WorkerId>,
    pub adopted_blocks: BTreeSet<BlockId>,
    /// The workers that reported a block as stored.
    pub held: BTreeMap<BlockId, BTreeSet<WorkerId>>,
    pub forgotten: BTreeSet<BlockId>,
    /// The numbers of each receiver's blocks that were stored once; all up to a number that its worker reported, or
    /// that was forgotten.
    pub known: BTreeMap<ReceiverId, BTreeSet<u64>>,
    /// The producers' offsets in blocks; all that were stored and not lost.
    pub offsets: BTreeMap<BlockId, Vec<ProducerOffset>>,
    /// The greatest number that an owner of the producer reported when it gave up.
    pub revoked: BTreeMap<Arc<str>, u64>,
    pub lost_blocks: BTreeSet<BlockId>,
    /// Copies in progress, by target, with their sources.
    pub copying: BTreeMap<(WorkerId, BlockId), WorkerId>,
    /// Primary and standby.
    pub assigned: BTreeMap<u32, (WorkerId, Option<WorkerId>)>,
    /// The worker that receives the state to become the standby.
    pub next: BTreeMap<u32, WorkerId>,
    pub parts: BTreeMap<(u32, WorkerId), Part>,
    pub committed: Option<BatchTime>,
    /// Versions of each partition that some worker has installed.
    pub versions: BTreeMap<u32, BTreeSet<BatchTime>>,
    /// The batch that is about to be committed, or was committed last.
    pub finished: Option<BatchTime>,
    /// Partitions whose state must be recovered.
    pub recovering: BTreeMap<u32, u64>,
    /// The event was `StateInvalidated`.
    pub void: bool,
    /// The producer and worker of a claim, by token.
    pub claims: BTreeMap<u64, (Arc<str>, WorkerId)>,
    pub newest_claims: BTreeMap<Arc<str>, u64>,
    pub granted: BTreeSet<u64>,
    pub refused: BTreeSet<u64>,
    pub owners: BTreeMap<Arc<str>, (WorkerId, u64)>,
    pub cuts: BTreeMap<BlockId, BatchTime>,
}

impl Ledger {
    pub fn new(config: ClusterConfig) -> Self {
        Self {
            config,
            live: BTreeSet::new(),
            gone: BTreeSet::new(),
            draining: BTreeSet::new(),
            drained: BTreeSet::new(),
            slow: BTreeSet::new(),
            retiring: BTreeSet::new(),
            retired: BTreeSet::new(),
            peers: BTreeMap::new(),
            receivers: BTreeMap::new(),
            left: BTreeMap::new(),
            fences: BTreeMap::new(),
            untold: BTreeSet::new(),
            unknown: BTreeSet::new(),
            adopting: BTreeSet::new(),
            adopted: BTreeSet::new(),
            adopted_blocks: BTreeSet::new(),
            held: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            known: BTreeMap::new(),
            offsets: BTreeMap::new(),
            revoked: BTreeMap::new(),
            lost_blocks: BTreeSet::new(),
            copying: BTreeMap::new(),
            assigned: BTreeMap::new(),
            next: BTreeMap::new(),
            parts: BTreeMap::new(),
            committed: None,
            versions: BTreeMap::new(),
            finished: None,
            recovering: BTreeMap::new(),
            void: false,
            claims: BTreeMap::new(),
            newest_claims: BTreeMap::new(),
            granted: BTreeSet::new(),
            refused: BTreeSet::new(),
            owners: BTreeMap::new(),
            cuts: BTreeMap::new(),
        }
    }

    /// Live workers that are not draining.
    pub fn open(&self) -> impl Iterator<Item = WorkerId> {
        self.live.difference(&self.draining).copied()
    }

    /// Open workers that are not slow; all, if all are.
    pub fn steady(&self) -> Vec<WorkerId> {
        let steady: Vec<_> = self.open().filter(|it| !self.slow.contains(it)).collect();
        if steady.is_empty() {
            return self.open().collect();
        }
        steady
    }

    /// The number of open workers that should store a block.
    pub fn needed(&self) -> usize {
        self.config.copies.min(self.open().count()).max(1)
    }

    /// Whether all blocks before it were stored too.
    pub fn follows(&self, block: BlockId) -> bool {
        let known = self.known.get(&block.receiver);
        let all = || (0..block.seq).all(|seq| known.is_some_and(|known| known.contains(&seq)));
        self.left.contains_key(&block.receiver) || all()
    }

    /// The newest committed version of a partition.
    pub fn newest(&self, partition: u32) -> Option<BatchTime> {
        let versions = self.versions.get(&partition)?;
        versions.range(..=self.committed?).next_back().copied()
    }

    /// The same, once the batch that is about to be committed is.
    pub fn newest_then(&self, partition: u32) -> Option<BatchTime> {
        let versions = self.versions.get(&partition)?;
        let then = self.finished.max(self.committed);
        versions.range(..=then?).next_back().copied()
    }

    /// The workers with a role in a partition.
    pub fn parts_of(&self, partition: u32) -> impl Iterator<Item = WorkerId> {
        let assigned = self.assigned.get(&partition).copied();
        let [primary, standby] =
            assigned.map_or([None; 2], |(primary, standby)| [Some(primary), standby]);
        let next = self.next.get(&partition).copied();
        [primary, standby, next].into_iter().flatten()
    }

    /// Whether a worker with a role in a partition is live, and has reported all of its committed state.
    pub fn has_all(&self, partition: u32, worker: WorkerId) -> bool {
        self.has(partition, worker, self.newest(partition))
    }

    /// The same, as of this version.
    pub fn has(&self, partition: u32, worker: WorkerId, wanted: Option<BatchTime>) -> bool {
        let part = self.parts.get(&(partition, worker)).copied();
        let part = part.unwrap_or_default();
        let whole = !part.copying && !part.broken && part.version >= wanted;
        self.live.contains(&worker) && whole
    }

    /// Whether the standby may take over, by the reports so far.
    pub fn is_complete(&self, partition: u32) -> bool {
        let Some((_, Some(standby))) = self.assigned.get(&partition) else {
            return false;
        };
        let part = self
            .parts
            .get(&(partition, *standby))
            .copied()
            .unwrap_or_default();
        self.live.contains(standby)
            && !part.copying
            && !part.broken
            && !self.recovering.contains_key(&partition)
            && part.version >= self.newest(partition)
    }

    /// Records an event; call it before its commands are recorded.
    pub fn event(&mut self, event: &ClusterEvent) {
        self.void = matches!(event, ClusterEvent::StateInvalidated);
        match event {
            ClusterEvent::Joined { worker } => {
                if !self.gone.contains(worker) {
                    self.live.insert(*worker);
                }
            }
            ClusterEvent::Lost { worker } => self.lost(*worker),
            ClusterEvent::Drain { worker } if self.live.contains(worker) => {
                self.draining.insert(*worker);
            }
            ClusterEvent::Slow { workers } => self.slow.clone_from(workers),
            ClusterEvent::Stored { worker, blocks } => self.stored(*worker, blocks),
            ClusterEvent::Fenced {
                worker,
                lost,
                blocks,
            } => {
                self.stored(*worker, blocks);
                if self.live.contains(worker) {
                    self.fences.entry(*lost).or_default().remove(worker);
                    self.finish_fences();
                }
            }
            ClusterEvent::Adopted { lost, blocks } => self.adopted(*lost, blocks),
            ClusterEvent::Retired { worker, blocks } => {
                self.stored(*worker, blocks);
                if self.live.contains(worker) && self.retiring.contains(worker) {
                    self.retired.insert(*worker);
                    for silent in self.fences.values_mut() {
                        silent.remove(worker);
                    }
                    self.finish_fences();
                }
            }
            ClusterEvent::CopyFailed { block, to } => drop(self.copying.remove(&(*to, *block))),
            ClusterEvent::Forgotten { blocks } => {
                for block in blocks {
                    self.forgotten.insert(*block);
                    self.known
                        .entry(block.receiver)
                        .or_default()
                        .extend(0..=block.seq);
                    self.held.remove(block);
                }
            }
            ClusterEvent::Claim {
                producer,
                worker,
                token,
                ..
            } => {
                let newest = self.newest_claims.entry(Arc::clone(producer)).or_default();
                if self.live.contains(worker) && *token > *newest {
                    *newest = *token;
                    self.claims.insert(*token, (Arc::clone(producer), *worker));
                }
            }
            ClusterEvent::Revoked {
                worker,
                producer,
                token,
                last,
                ..
            } => {
                if self.owners.get(producer) == Some(&(*worker, *token))
                    && self.live.contains(worker)
                {
                    self.owners.remove(producer);
                    let most = self.revoked.entry(Arc::clone(producer)).or_default();
                    *most = (*most).max(*last);
                }
            }
            ClusterEvent::Installed {
                worker,
                partition,
                version,
                copy,
            } => self.installed(*worker, *partition, *version, *copy),
            ClusterEvent::StateCopyFailed {
                partition,
                to,
                copy,
            } => {
                if let Some(part) = self.parts.get_mut(&(*partition, *to)) {
                    part.broken |= part.copying && part.copy == *copy;
                    part.copying &= !part.broken;
                }
            }
            ClusterEvent::StateInvalidated => {
                let committed = self.committed;
                self.parts.clear();
                self.finished = None;
                for versions in self.versions.values_mut() {
                    versions.retain(|version| Some(*version) <= committed);
                }
            }
            ClusterEvent::Committed { batch } => self.committed = self.committed.max(Some(*batch)),
            ClusterEvent::Drain { .. }
            | ClusterEvent::SourceEnded { .. }
            | ClusterEvent::PartsRemoved { .. } => {}
        }
    }

    fn lost(&mut self, worker: WorkerId) {
        self.gone.insert(worker);
        if !self.live.remove(&worker) {
            return;
        }
        self.draining.remove(&worker);
        self.peers.remove(&worker);
        for stored_on in self.held.values_mut() {
            stored_on.remove(&worker);
        }
        self.copying
            .retain(|&(to, _), from| to != worker && *from != worker);
        self.parts.retain(|&(_, with), _| with != worker);
        for (partition, (primary, _)) in &self.assigned {
            if *primary == worker
                && let Some(next) = self.next.get(partition)
                && let Some(part) = self.parts.get_mut(&(*partition, *next))
            {
                part.broken |= part.copying;
                part.copying = false;
            }
        }
        for (lost, silent) in &mut self.fences {
            if silent.remove(&worker) {
                self.untold.extend([*lost, worker]);
            }
        }
        let asked = self.live.difference(&self.retired);
        self.fences.insert(worker, asked.copied().collect());
        self.finish_fences();
    }

    fn finish_fences(&mut self) {
        let fenced = |worker: &WorkerId| {
            let read = !self.config.journals
                || self.adopted.contains(worker)
                || !self.untold.contains(worker);
            read && self.fences.get(worker).is_some_and(BTreeSet::is_empty)
        };
        self.owners.retain(|_, (owner, _)| !fenced(owner));
    }

    fn stored(&mut self, worker: WorkerId, blocks: &[StoredBlock]) {
        if !self.live.contains(&worker) {
            return;
        }
        for block in blocks {
            let id = block.meta.id;
            self.copying.remove(&(worker, id));
            let left = self.left.get(&id.receiver);
            let lost = self.lost_blocks.contains(&id);
            let over = left.is_some_and(|left| lost || !left.contains(&id));
            if !over && !self.forgotten.contains(&id) {
                self.held.entry(id).or_default().insert(worker);
                self.offsets
                    .entry(id)
                    .or_insert_with(|| block.offsets.clone());
                let receives = self.receivers.get(&id.receiver).map(|&(worker, _)| worker);
                let known = self.known.entry(id.receiver).or_default();
                known.insert(id.seq);
                if receives == Some(worker) {
                    known.extend(0..id.seq);
                }
                // The master's own blocks may return.
                if !self.left.contains_key(&id.receiver) {
                    self.lost_blocks.remove(&id);
                }
            }
        }
    }

    fn adopted(&mut self, lost: WorkerId, blocks: &[StoredBlock]) {
        if !self.adopting.remove(&lost) {
            return;
        }
        self.adopted.insert(lost);
        for block in blocks {
            let id = block.meta.id;
            let receiver = self.receivers.get(&id.receiver);
            let of_lost = receiver.is_some_and(|(worker, _)| *worker == lost);
            let left = self.left.get(&id.receiver);
            let over = left.is_some_and(|left| !left.contains(&id));
            if of_lost && !over && !self.forgotten.contains(&id) {
                self.adopted_blocks.insert(id);
                let offsets = self.offsets.entry(id);
                offsets.or_insert_with(|| block.offsets.clone());
                let known = self.known.entry(id.receiver).or_default();
                known.extend(0..=id.seq);
            }
        }
        self.finish_fences();
    }

    fn installed(&mut self, worker: WorkerId, partition: u32, version: BatchTime, copy: u64) {
        let Some((primary, _)) = self.assigned.get(&partition).copied() else {
            return;
        };
        let has_part = self.parts_of(partition).any(|with| with == worker);
        let part = self.parts.entry((partition, worker)).or_default();
        let counts = self.live.contains(&worker) && has_part && part.copy == copy;
        if !counts {
            return;
        }
        part.copying = false;
        part.version = part.version.max(Some(version));
        if version != BatchTime(0) {
            self.versions.entry(partition).or_default().insert(version);
        }
        if primary == worker && Some(version) >= self.newest(partition) {
            self.recovering.remove(&partition);
        }
    }

    /// Records a command; call it after the invariants have judged it.
    pub fn command(&mut self, command: &ClusterCommand) {
        match command {
            ClusterCommand::Receive {
                worker,
                input,
                receiver,
                ..
            } => drop(self.receivers.insert(*receiver, (*worker, *input))),
            ClusterCommand::Peer { worker, to } => drop(self.peers.insert(*worker, *to)),
            ClusterCommand::ReceiverLost { receiver, blocks } => {
                let blocks: BTreeSet<_> = blocks.iter().map(|block| block.id).collect();
                let over = |id: &BlockId| {
                    id.receiver == *receiver && !blocks.contains(id) && !self.forgotten.contains(id)
                };
                self.offsets.retain(|id, _| !over(id));
                self.held.retain(|id, _| !over(id));
                self.left.insert(*receiver, blocks);
            }
            ClusterCommand::Copy { block, from, to } => {
                self.copying.insert((*to, *block), *from);
            }
            ClusterCommand::BlockLost { block } => {
                self.lost_blocks.insert(*block);
                self.offsets.remove(block);
                self.held.remove(block);
            }
            ClusterCommand::Grant { token, worker, .. } => {
                self.granted.insert(*token);
                if let Some((producer, _)) = self.claims.get(token) {
                    self.owners.insert(Arc::clone(producer), (*worker, *token));
                }
            }
            ClusterCommand::Refuse { token, .. } => drop(self.refused.insert(*token)),
            ClusterCommand::Assign {
                partition,
                primary,
                standby,
                next,
            } => {
                let before = self.assigned.insert(*partition, (*primary, *standby));
                self.next.remove(partition);
                self.next.extend(next.map(|next| (*partition, next)));
                if let Some(&copy) = self.recovering.get(partition)
                    && (self.void || before.is_none_or(|(before, _)| before != *primary))
                {
                    let part = self.parts.entry((*partition, *primary)).or_default();
                    *part = Part {
                        copy,
                        ..Part::default()
                    };
                }
                let has = |worker| [Some(*primary), *standby, *next].contains(&Some(worker));
                self.parts
                    .retain(|&(of, worker), _| of != *partition || has(worker));
            }
            ClusterCommand::CopyState {
                partition,
                to,
                copy,
                ..
            } => {
                let part = Part {
                    copy: *copy,
                    copying: true,
                    ..Part::default()
                };
                self.parts.insert((*partition, *to), part);
            }
            ClusterCommand::StateLost { partition, copy } => {
                self.recovering.insert(*partition, *copy);
            }
            ClusterCommand::Retire { worker } => drop(self.retiring.insert(*worker)),
            ClusterCommand::Drained { worker } => drop(self.drained.replace(*worker)),
            ClusterCommand::SurvivorsUnknown { lost } => drop(self.unknown.insert(*lost)),
            ClusterCommand::Adopt { lost } => drop(self.adopting.insert(*lost)),
            ClusterCommand::Fence { .. }
            | ClusterCommand::Drop { .. }
            | ClusterCommand::Revoke { .. } => {}
        }
    }
}
