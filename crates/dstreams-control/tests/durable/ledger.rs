//! [`Ledger`]: what happened so far. It records and does not judge; the invariants read it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dstreams_control::durable::{Entry, ReplayError, Restart};
use dstreams_control::{BatchTime, BlockId, BlockMeta};

use crate::disk::{Block, Checkpoint, Line};
use crate::plan::PARTITIONS;

pub type States = [u64; PARTITIONS];

/// Something happened; judged before it is recorded.
#[derive(Clone)]
pub enum Fact<'a> {
    /// A block was appended to a journal.
    Written(&'a Rc<Block>),
    /// A producer learns that its records up to a number are safe.
    Told { producer: usize, last: u64 },
    /// The controller has cut a batch.
    Cut(BatchTime),
    /// The records of a batch were set aside.
    SetAside {
        batch: BatchTime,
        records: Vec<(usize, u64)>,
    },
    /// An output of a batch takes effect.
    Effect(Effect<'a>),
    /// A checkpoint becomes visible.
    Checkpoint(&'a Checkpoint),
    /// A journal has released entries.
    LetGo,
    /// A process has read the disks, and decided.
    Restart(&'a Result<Restart, ReplayError>),
    /// A batch is replayed that follows another; the version of the state.
    Follows {
        after: BatchTime,
        version: Option<BatchTime>,
    },
    /// It has the state as of its last batch that took effect.
    Replayed {
        batch: Option<BatchTime>,
        states: States,
    },
    /// All is done, with a checkpoint since: the journals or receivers that still need entries.
    Calm { needed: usize },
}

#[derive(Clone)]
pub struct Effect<'a> {
    pub output: usize,
    pub batch: BatchTime,
    pub blocks: &'a [BlockMeta],
    pub records: Vec<(usize, u64)>,
    pub content: u64,
    /// The state as the batch left it.
    pub states: States,
    /// It was not there before.
    pub put: bool,
}

/// A batch that took effect.
pub struct Visible {
    pub blocks: Vec<BlockMeta>,
    pub states: States,
}

#[derive(Default)]
pub struct Ledger {
    /// Intervals may be skipped.
    pub skips: bool,
    /// The last number reported as safe, by producer.
    pub told: Vec<u64>,
    pub blocks: BTreeMap<BlockId, Rc<Block>>,
    pub synced_blocks: BTreeSet<BlockId>,
    pub synced_cuts: BTreeSet<BatchTime>,
    /// Records in blocks that were synced.
    pub synced_records: BTreeSet<(usize, u64)>,
    pub visible: BTreeMap<BatchTime, Visible>,
    /// Batches whose records were set aside.
    pub set_aside: BTreeSet<BatchTime>,
    /// Of records in these, and of those that were set aside.
    pub records: BTreeMap<(usize, u64), BatchTime>,
    /// The sinks.
    pub outputs: BTreeMap<(usize, BatchTime), u64>,
}

impl Ledger {
    pub fn new(clients: usize) -> Self {
        Self {
            told: vec![0; clients],
            ..Self::default()
        }
    }

    /// Lines were synced.
    pub fn synced(&mut self, lines: &[Line]) {
        for line in lines {
            match &line.entry {
                Entry::Cut { batch, .. } => drop(self.synced_cuts.insert(*batch)),
                Entry::Block { meta, .. } => {
                    self.synced_blocks.insert(meta.id);
                    let records = line.block.iter().flat_map(|block| &block.records);
                    self.synced_records.extend(records);
                }
                _ => {}
            }
        }
    }

    /// Lines were lost; no one learnt of their blocks.
    pub fn lost(&mut self, lines: &[Line]) {
        for block in lines.iter().filter_map(|line| line.block.as_ref()) {
            let known = self.blocks.get(&block.meta.id);
            if known.is_some_and(|known| known == block) {
                self.blocks.remove(&block.meta.id);
            }
        }
    }

    /// The records of blocks, in order.
    pub fn records_of(&self, blocks: &[BlockMeta]) -> Vec<(usize, u64)> {
        let of = |meta: &BlockMeta| self.blocks.get(&meta.id).into_iter();
        let blocks = blocks.iter().flat_map(of);
        blocks
            .flat_map(|block| block.records.iter().copied())
            .collect()
    }

    /// The state as of a batch that took effect.
    pub fn states_at(&self, batch: Option<BatchTime>) -> Option<States> {
        match batch {
            Some(batch) => self.visible.get(&batch).map(|visible| visible.states),
            None => Some(States::default()),
        }
    }

    /// The state before a batch.
    pub fn states_before(&self, batch: BatchTime) -> States {
        let before = self.visible.range(..batch).next_back();
        before.map_or(States::default(), |(_, visible)| visible.states)
    }

    pub fn record(&mut self, fact: Fact) {
        match fact {
            Fact::Written(block) => drop(self.blocks.insert(block.meta.id, Rc::clone(block))),
            Fact::Told { producer, last } => self.told[producer] = self.told[producer].max(last),
            Fact::SetAside { batch, records } => {
                self.records
                    .extend(records.into_iter().map(|record| (record, batch)));
                self.set_aside.insert(batch);
            }
            Fact::Effect(effect) => {
                let key = (effect.output, effect.batch);
                self.outputs.entry(key).or_insert(effect.content);
                if effect.output == 0 && !self.visible.contains_key(&effect.batch) {
                    let of = |record: &(usize, u64)| (*record, effect.batch);
                    self.records.extend(effect.records.iter().map(of));
                    let visible = Visible {
                        blocks: effect.blocks.to_vec(),
                        states: effect.states,
                    };
                    self.visible.insert(effect.batch, visible);
                }
            }
            _ => {}
        }
    }
}

/// The state of a partition after a batch with these records.
pub fn fold(partition: usize, before: u64, batch: BatchTime, records: &[(usize, u64)]) -> u64 {
    let mix = |hash: u64, value: u64| {
        (hash ^ value.wrapping_add(0x9E37_79B9_7F4A_7C15))
            .wrapping_mul(0xBF58_476D_1CE4_E5B9)
            .rotate_left(27)
    };
    let own = records
        .iter()
        .filter(|(_, number)| *number as usize % PARTITIONS == partition);
    own.fold(mix(before, batch.0), |hash, (producer, number)| {
        mix(hash, (*producer as u64) << 32 | number)
    })
}
