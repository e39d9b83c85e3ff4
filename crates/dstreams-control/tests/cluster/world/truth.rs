//! [`Truth`]: the true state, whether or not anyone knows of it: the contents of each block, and the losses that are
//! excused.
//!
//! A block's loss is excused if its last holder is lost: then more workers were lost than the copies tolerate before
//! they were restored.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dstreams_control::cluster::{ClusterConfig, InputKind, ProducerOffset, StoredBlock, WorkerId};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

use super::Worker;
use super::letter::name;
use crate::ledger::Ledger;

/// The producer of records that no client sent.
pub const NOBODY: usize = usize::MAX;
/// The source of an input with one receiver; it numbers its records. There is one such input at most.
pub const SOURCE: usize = usize::MAX - 1;

/// A block and its contents.
#[derive(Clone, Debug)]
pub struct Block {
    pub meta: BlockMeta,
    pub input: u32,
    /// The worker that received it; `None`: the master.
    pub origin: Option<WorkerId>,
    pub records: Vec<(usize, u64)>,
}

impl Block {
    /// Producers and their numbers.
    pub fn records(&self) -> impl Iterator<Item = (usize, u64)> {
        let sent = |&&(producer, _): &&(usize, u64)| producer != NOBODY;
        self.records.iter().filter(sent).copied()
    }

    pub fn stored(&self) -> StoredBlock {
        let mut last = BTreeMap::new();
        for (producer, number) in self.records() {
            let most: &mut u64 = last.entry(producer).or_default();
            *most = number.max(*most);
        }
        let offset = |(producer, last)| ProducerOffset {
            input: self.input,
            producer: name(producer),
            last,
        };
        StoredBlock {
            meta: self.meta,
            offsets: last.into_iter().map(offset).collect(),
        }
    }
}

#[derive(Default)]
pub struct Truth {
    inputs: Vec<InputKind>,
    /// Workers have journals.
    journals: bool,
    /// Inputs without clients bring no more records.
    pub dry: bool,
    /// Every block that was ever made.
    pub blocks: BTreeMap<BlockId, Rc<Block>>,
    /// Those that were stored as required, so that their records were acknowledged.
    pub safe: BTreeSet<BlockId>,
    /// Those of them that a peer had.
    pub copied: BTreeSet<BlockId>,
    /// Those whose loss is excused.
    pub excused: BTreeSet<BlockId>,
    /// The committed changes of each partition.
    pub states: BTreeMap<u32, Vec<BatchTime>>,
}

impl Truth {
    pub fn new(config: &ClusterConfig) -> Self {
        let partitions = config.partitions;
        Self {
            inputs: config.inputs.clone(),
            journals: config.journals,
            states: (0..partitions)
                .map(|partition| (partition, Vec::new()))
                .collect(),
            ..Self::default()
        }
    }

    pub fn inputs_of(&self, kind: InputKind) -> impl Iterator<Item = u32> {
        let fits = move |&(_, &of): &(usize, &InputKind)| of == kind;
        let inputs = self.inputs.iter().enumerate().filter(fits);
        inputs.map(|(input, _)| u32::try_from(input).unwrap())
    }

    /// Whether the input has no clients and still brings records.
    pub fn flows(&self, input: u32) -> bool {
        !self.dry
            && self
                .inputs_of(InputKind::Everywhere)
                .all(|clients| clients != input)
    }

    /// The input that clients send to.
    pub fn clients(&self) -> u32 {
        self.inputs_of(InputKind::Everywhere).next().unwrap()
    }

    /// `blocks` of a receiver survive: their records will not be sent again. If a safe one was lost before anyone
    /// heard of it, those after it are given up too, as if they had never been safe; that is excused.
    pub fn is_gone(&mut self, receiver: ReceiverId, blocks: &[BlockMeta]) {
        self.safe.extend(blocks.iter().map(|block| block.id));
        let id = |seq| BlockId { receiver, seq };
        let all = self.blocks.range(id(0)..=id(u64::MAX)).map(|(&id, _)| id);
        let lost = |id: &BlockId| self.safe.contains(id) && self.excused.contains(id);
        let after = all
            .skip_while(|id| !lost(id))
            .filter(|id| blocks.binary_search_by_key(id, |block| block.id).is_err());
        let after: Vec<_> = after.collect();
        self.excused.extend(after);
    }

    /// A producer was told that everything up to `last` is safe: so are the blocks that were known, `lost` or stored.
    pub fn is_granted(
        &mut self,
        (producer, last): (usize, u64),
        lost: &BTreeSet<BlockId>,
        workers: &BTreeMap<WorkerId, Worker>,
    ) {
        let covered = |(of, number): (usize, u64)| of == producer && number <= last;
        let there = || workers.values().filter(|worker| !worker.given_up);
        for (id, block) in &self.blocks {
            let held = || there().any(|worker| worker.store.contains_key(id));
            if block.records().any(covered) && (lost.contains(id) || held()) {
                self.safe.insert(*id);
            }
        }
    }

    /// A worker that stored these blocks is dead or given up.
    pub fn out(&mut self, workers: &BTreeMap<WorkerId, Worker>, held: &[BlockId]) {
        for &block in held {
            let Some(origin) = self.blocks[&block].origin else {
                continue;
            };
            let on_disk = self.journals && workers[&origin].journal.contains_key(&block);
            if !on_disk && stored_on(workers, block) == 0 {
                self.excused.insert(block);
            }
        }
    }

    /// Where workers have journals: excuses the blocks of gone receivers that their worker acknowledged without a peer
    /// before the master heard of them. A real one asks the master first.
    pub fn alone(&mut self, ledger: &Ledger) {
        if !self.journals {
            return;
        }
        let heard = |id: &BlockId| {
            let known = ledger.known.get(&id.receiver);
            known.is_some_and(|known| known.contains(&id.seq))
        };
        let gone = |id: &BlockId| {
            let left = ledger.left.get(&id.receiver);
            left.is_some_and(|left| !left.contains(id))
        };
        let alone = self.safe.difference(&self.copied);
        let alone = alone.filter(|id| gone(id) && !heard(id) && !ledger.forgotten.contains(id));
        self.excused.extend(alone.copied().collect::<Vec<_>>());
    }
}

/// The number of workers that certainly store a block: they live, are not given up, and a copy made to restore the
/// number counts only if the master knows of it.
pub fn stored_on(workers: &BTreeMap<WorkerId, Worker>, block: BlockId) -> usize {
    let holds = |worker: &&Worker| {
        worker.is_in() && worker.store.get(&block).is_some_and(|held| held.counts)
    };
    workers.values().filter(holds).count()
}
