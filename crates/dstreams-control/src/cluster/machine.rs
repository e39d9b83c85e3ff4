//! [`Cluster`]: takes an event, returns commands.
//!
//! A step has two parts: take the event, then start what it made possible (drops, copies, moves of state) within the
//! bounds. The decisions are in [`Roster`], [`Receivers`], [`Fences`], [`Blocks`], [`Producers`] and [`Partitions`];
//! this module joins them.

use std::collections::{BTreeMap, BTreeSet};

use super::adoptions::Adoptions;
use super::blocks::Blocks;
use super::fences::Fences;
use super::partitions::Partitions;
use super::producers::Producers;
use super::receivers::{BlockStatus, Receivers};
use super::roster::Roster;
use super::{ClusterCommand, ClusterConfig, ClusterEvent, StoredBlock, WorkerId};
use crate::{BatchTime, BlockId, ReceiverId};

/// The workers of a cluster and what each of them has, as a pure state machine. See the [module's page](super).
#[derive(Debug)]
pub struct Cluster {
    roster: Roster,
    receivers: Receivers,
    fences: Fences,
    adoptions: Adoptions,
    blocks: Blocks,
    producers: Producers,
    partitions: Partitions,
    /// Finished blocks that workers still store; dropped at the end of the step.
    drops: BTreeMap<WorkerId, BTreeSet<BlockId>>,
}

impl Cluster {
    /// A cluster without workers.
    #[must_use]
    pub fn new(config: ClusterConfig) -> Self {
        let (max_concurrent_copies, max_lag) =
            (config.max_concurrent_copies, config.max_standby_lag);
        let mut partitions = Partitions::new(
            (config.partitions, config.standbys),
            max_concurrent_copies,
            max_lag,
        );
        if let Some(batch) = config.restored {
            partitions.restore(batch);
        }
        let mut producers = Producers::new(config.max_producers, &config.inputs);
        producers.restore(&config.producer_offsets);
        Self {
            roster: Roster::new(config.copies),
            receivers: Receivers::new(&config),
            fences: Fences::default(),
            adoptions: Adoptions::new(config.journals),
            blocks: Blocks::new(max_concurrent_copies),
            producers,
            partitions,
            drops: BTreeMap::new(),
        }
    }

    /// Takes an event and returns what to do, in order.
    ///
    /// Total: any event is accepted at any time, nothing panics. The cost is that of the change: logarithmic for a
    /// block; a loss walks what the worker stored; workers that join, drain or are slow, and state copies that end, walk
    /// the workers and the partitions, and all blocks only while there are fewer workers than copies of a block.
    /// `examples/cost` measures it.
    pub fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand> {
        // I1 (ARCHITECTURE.md): pure.
        let mut out = Vec::new();
        self.take(event, &mut out);
        for (worker, blocks) in std::mem::take(&mut self.drops) {
            let blocks = blocks.into_iter().collect();
            out.push(ClusterCommand::Drop { worker, blocks });
        }
        self.blocks.copy(&self.roster, &mut out);
        self.partitions.spread(&self.roster, &mut out);
        self.release_drained(&mut out);
        out
    }

    fn take(&mut self, event: ClusterEvent, out: &mut Vec<ClusterCommand>) {
        match event {
            ClusterEvent::Joined { worker } => self.joined(worker, out),
            ClusterEvent::Lost { worker } => self.lost(worker, out),
            ClusterEvent::Drain { worker } => self.drain(worker, out),
            ClusterEvent::Slow { workers } => self.slow(workers, out),
            ClusterEvent::Stored { worker, blocks } => self.stored(worker, blocks),
            ClusterEvent::Fenced {
                worker,
                lost,
                blocks,
            } => {
                self.stored(worker, blocks);
                if self.roster.is_live(worker) {
                    self.fences.answered(worker, lost);
                    self.finish_fences(out);
                }
            }
            ClusterEvent::Adopted { lost, blocks } => self.adopted(lost, blocks, out),
            ClusterEvent::Retired { worker, blocks } => {
                self.stored(worker, blocks);
                if self.roster.retired(worker) {
                    self.fences.answered_all(worker);
                    self.finish_fences(out);
                }
            }
            ClusterEvent::CopyFailed { block, to } => self.blocks.copy_ended(block, to, true),
            ClusterEvent::Forgotten { blocks } => {
                blocks.into_iter().for_each(|block| self.forget(block));
            }
            ClusterEvent::SourceEnded { input } => self.receivers.source_ended(input),
            ClusterEvent::PartsRemoved { input, parts } => {
                let parts = parts.into_iter();
                parts.for_each(|part| self.producers.remove_part((input, part)));
            }
            ClusterEvent::Claim {
                input,
                producer,
                worker,
                token,
            } => {
                if self.roster.is_live(worker) && self.receivers.is_at_workers(input) {
                    let (key, claim) = ((input, producer), (worker, token));
                    let known = (&self.roster, &self.receivers);
                    self.producers.claim(key, claim, known, out);
                } else if self.roster.is_live(worker) {
                    out.push(ClusterCommand::Refuse { token, worker });
                }
            }
            ClusterEvent::Revoked {
                worker,
                input,
                producer,
                token,
                last,
            } => {
                let (key, grant) = ((input, producer), (worker, token));
                let known = (&self.roster, &self.receivers);
                self.producers.revoked(&key, grant, last, known, out);
            }
            ClusterEvent::Installed {
                worker,
                partition,
                version,
                copy,
            } => self.partitions.installed(partition, worker, version, copy),
            ClusterEvent::StateCopyFailed {
                partition,
                to,
                copy,
            } => self.partitions.copy_failed(partition, to, copy),
            ClusterEvent::StateInvalidated => self.partitions.invalidate(out),
            ClusterEvent::Committed { batch } => self.partitions.committed(batch),
        }
    }

    fn joined(&mut self, worker: WorkerId, out: &mut Vec<ClusterCommand>) {
        if !self.roster.join(worker) {
            return;
        }
        // Peers first: a block received without one is stored only once.
        self.roster.assign_peers(out);
        self.receivers.join(worker, out);
        self.roster_changed(out);
    }

    fn drain(&mut self, worker: WorkerId, out: &mut Vec<ClusterCommand>) {
        if self.roster.drain(worker) {
            self.roster.assign_peers(out);
            self.blocks.drain(worker, &self.roster);
            self.roster_changed(out);
        }
    }

    fn slow(&mut self, workers: BTreeSet<WorkerId>, out: &mut Vec<ClusterCommand>) {
        if self.roster.slow_are(workers) {
            self.roster.assign_peers(out);
            self.partitions.roster_changed();
        }
    }

    fn lost(&mut self, worker: WorkerId, out: &mut Vec<ClusterCommand>) {
        if !self.roster.lose(worker) {
            return;
        }
        // Retired workers have already answered for every loss.
        let live = self.roster.live();
        let asked: BTreeSet<_> = live.filter(|&at| !self.roster.is_retired(at)).collect();
        for &at in &asked {
            out.push(ClusterCommand::Fence { at, lost: worker });
        }
        self.roster.assign_peers(out);
        let mut unknown = self.fences.lose(worker);
        if !unknown.is_empty() {
            // It may have acknowledged blocks because one of those had them; the master may not know of them.
            unknown.push(worker);
        }
        self.fences.begin(worker, asked);
        for lost in unknown {
            match self.adoptions.possible() {
                true => drop(self.adopt(lost, out)),
                false => out.push(ClusterCommand::SurvivorsUnknown { lost }),
            }
        }
        self.receivers.lose(worker);
        self.producers.lose(worker);
        self.partitions.lose(worker, out);
        for block in self.blocks.lose(worker, &self.roster) {
            self.lose_block(block, out);
        }
        self.finish_fences(out);
        self.roster_changed(out);
    }

    fn roster_changed(&mut self, out: &mut Vec<ClusterCommand>) {
        self.place(out);
        self.blocks.roster_changed(&self.roster);
        self.partitions.roster_changed();
    }

    fn stored(&mut self, worker: WorkerId, blocks: Vec<StoredBlock>) {
        if !self.roster.is_live(worker) {
            return;
        }
        for StoredBlock { meta, offsets } in blocks {
            self.blocks.copy_ended(meta.id, worker, false);
            let is_stored = self.blocks.contains(meta.id);
            match self.receivers.block_status(meta.id) {
                BlockStatus::Foreign => {}
                BlockStatus::Settled if !is_stored => {
                    self.drops.entry(worker).or_default().insert(meta.id);
                }
                BlockStatus::Wanted { receiver_at } if !is_stored => {
                    self.receivers.note_stored(meta.id, worker);
                    self.producers.add_offsets(meta.id, &offsets);
                    let stored_on = receiver_at.into_iter().chain([worker]).collect();
                    self.blocks.insert(meta, offsets, stored_on, &self.roster);
                }
                BlockStatus::Wanted { .. } | BlockStatus::Settled => {
                    self.receivers.note_stored(meta.id, worker);
                    self.blocks.add_copy(meta.id, worker, &self.roster);
                }
            }
        }
    }

    /// Has the master read the journal of a lost worker; returns whether that is news.
    fn adopt(&mut self, lost: WorkerId, out: &mut Vec<ClusterCommand>) -> bool {
        let news = self.adoptions.begin(lost);
        if news {
            out.push(ClusterCommand::Adopt { lost });
        }
        news
    }

    fn adopted(&mut self, lost: WorkerId, blocks: Vec<StoredBlock>, out: &mut Vec<ClusterCommand>) {
        let Some(expected) = self.adoptions.end(lost) else {
            return;
        };
        for StoredBlock { meta, offsets } in blocks {
            if self.receivers.worker_of(meta.id.receiver) != Some(lost) || !self.wants(meta.id) {
                continue;
            }
            if !self.blocks.contains(meta.id) {
                self.receivers.note_stored(meta.id, lost);
                self.producers.add_offsets(meta.id, &offsets);
                self.blocks
                    .insert(meta, offsets, BTreeSet::new(), &self.roster);
            }
            self.blocks.adopt(meta.id, &self.roster);
        }
        for block in expected {
            self.lose_block(block, out);
        }
        self.finish_fences(out);
    }

    fn forget(&mut self, block: BlockId) {
        self.receivers.forget(block);
        self.drop_everywhere(block, true);
    }

    fn drop_everywhere(&mut self, block: BlockId, safe: bool) {
        for worker in self.remove(block, safe) {
            self.drops.entry(worker).or_default().insert(block);
        }
    }

    /// Gives up a block if nobody stores it, and no fence in progress and no journal can still find it.
    fn lose_block(&mut self, block: BlockId, out: &mut Vec<ClusterCommand>) {
        if !self.blocks.is_lost(block) || self.receivers.is_fencing(block.receiver) {
            return;
        }
        let received_by = self.receivers.worker_of(block.receiver);
        if let Some(lost) = received_by.filter(|worker| !self.roster.is_live(*worker)) {
            self.adopt(lost, out);
            if self.adoptions.expect(lost, block) {
                return;
            }
        }
        self.remove(block, false);
        out.push(ClusterCommand::BlockLost { block });
    }

    /// Removes a block; returns the workers that stored it.
    fn remove(&mut self, block: BlockId, safe: bool) -> Vec<WorkerId> {
        let Some(removed) = self.blocks.remove(block) else {
            return Vec::new();
        };
        self.producers.remove_offsets(block, &removed.offsets, safe);
        if removed.last {
            self.receivers.release(block.receiver);
        }
        removed.stored_on
    }

    fn finish_fences(&mut self, out: &mut Vec<ClusterCommand>) {
        // I12 (ARCHITECTURE.md): the survivors count once every other worker refuses the lost one.
        while let Some(lost) = self
            .fences
            .pop_finished(|lost| self.adoptions.is_open(lost))
        {
            if self.lacks_blocks(lost) && self.adopt(lost, out) {
                self.fences.begin(lost, BTreeSet::new());
                continue;
            }
            for (receiver, end) in self.receivers.fenced(lost) {
                let (mut blocks, lost) = self.blocks.survivors(receiver);
                for block in lost {
                    self.remove(block, false);
                    out.push(ClusterCommand::BlockLost { block });
                }
                // Blocks after one that was never stored were not acknowledged, and are sent again.
                for block in blocks.split_off(blocks.partition_point(|block| block.id < end)) {
                    self.drop_everywhere(block.id, false);
                }
                if blocks.is_empty() {
                    self.receivers.release(receiver);
                }
                out.push(ClusterCommand::ReceiverLost { receiver, blocks });
            }
            let known = (&self.roster, &self.receivers);
            self.producers.fenced(lost, known, out);
            self.place(out);
        }
    }

    /// Whether blocks that the worker received are stored nowhere.
    fn lacks_blocks(&self, lost: WorkerId) -> bool {
        let mut receivers = self.receivers.of(lost);
        receivers.any(|receiver| !self.blocks.survivors(receiver).1.is_empty())
    }

    /// Opens the receivers of inputs that have none; each resumes at the offsets of the previous one.
    fn place(&mut self, out: &mut Vec<ClusterCommand>) {
        let before = out.len();
        let steady = self.roster.steady().iter().copied();
        self.receivers.place(steady, out);
        for command in out.iter_mut().skip(before) {
            if let ClusterCommand::Receive { input, offsets, .. } = command {
                *offsets = self.producers.offsets(*input, &self.receivers);
            }
        }
    }

    /// Lets drained workers leave. Each first retires: it reports the blocks that others sent it and accepts no more.
    /// Its peers may not have heard yet that it drains, and blocks that it leaves with would be lost unnoticed.
    fn release_drained(&mut self, out: &mut Vec<ClusterCommand>) {
        let has_handed_over = |&worker: &WorkerId| {
            self.blocks.has_handed_over(worker) && self.partitions.has_handed_over(worker)
        };
        let drained: Vec<_> = self
            .roster
            .draining()
            .iter()
            .copied()
            .filter(has_handed_over)
            .collect();
        for worker in drained {
            if self.roster.is_retired(worker) {
                self.roster.drained(worker);
                out.push(ClusterCommand::Drained { worker });
            } else if self.roster.retire(worker) {
                out.push(ClusterCommand::Retire { worker });
            }
        }
    }

    /// The live workers by id, draining ones included.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.roster.live()
    }

    /// The workers that store the block, by id.
    #[must_use]
    pub fn stored_on(&self, block: BlockId) -> &[WorkerId] {
        self.blocks.stored_on(block)
    }

    /// Whether a block is stored, or will be if it is found in the journal of a lost worker.
    #[must_use]
    pub fn wants(&self, block: BlockId) -> bool {
        let wanted = matches!(
            self.receivers.block_status(block),
            BlockStatus::Wanted { .. }
        );
        wanted || self.blocks.contains(block)
    }

    /// Whether the master stores the block, from the journal of a lost worker.
    #[must_use]
    pub fn is_adopted(&self, block: BlockId) -> bool {
        self.blocks.is_adopted(block)
    }

    /// The primary of the partition of state; `None` without workers.
    #[must_use]
    pub fn primary(&self, partition: u32) -> Option<WorkerId> {
        self.partitions.primary(partition)
    }

    /// The worker that receives a copy of the partition's state, to become its standby.
    #[must_use]
    pub fn next(&self, partition: u32) -> Option<WorkerId> {
        self.partitions.next(partition)
    }

    /// The standby of the partition, complete or not.
    #[must_use]
    pub fn standby(&self, partition: u32) -> Option<WorkerId> {
        self.partitions.standby(partition)
    }

    /// The newest version of the partition that its primary has reported as installed.
    #[must_use]
    pub fn version(&self, partition: u32) -> Option<BatchTime> {
        self.partitions.version(partition)
    }

    /// Whether the worker has a role in the partition and has reported all of its committed state. Commit a batch
    /// only when such a standby has its changes too, or cannot get them.
    #[must_use]
    pub fn has_all(&self, partition: u32, worker: WorkerId) -> bool {
        self.partitions.has_all(partition, worker)
    }

    /// Committed changes that a worker with a role in a partition still lacks: each partition, and the version after
    /// which they begin. Ask after [`ClusterEvent::Committed`]; all others can be released. If needed ones had to be
    /// released all the same (they are bounded), the standby falls behind and receives the whole state again.
    #[must_use]
    pub fn missing_changes(&self) -> Vec<(u32, BatchTime)> {
        self.partitions.missing_changes()
    }

    /// The input of a receiver: from its `Receive` until it is gone and all its blocks are forgotten or lost.
    #[must_use]
    pub fn input_of(&self, receiver: ReceiverId) -> Option<u32> {
        self.receivers.input_of(receiver)
    }

    /// The worker of a receiver, live or lost, as long as [`Cluster::input_of`] knows it; `None` for the master's.
    #[must_use]
    pub fn worker_of(&self, receiver: ReceiverId) -> Option<WorkerId> {
        self.receivers.worker_of(receiver)
    }

    /// The number of blocks that are stored and not forgotten.
    #[must_use]
    pub fn stored_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The number of producers that were forgotten because there were too many.
    #[must_use]
    pub const fn forgotten_producers(&self) -> u64 {
        self.producers.forgotten()
    }

    /// The number of producers that are remembered.
    #[must_use]
    pub fn remembered_producers(&self) -> usize {
        self.producers.len()
    }
}
