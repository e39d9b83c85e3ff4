//! [`Receivers`]: which process receives which input, and which of its blocks are finished with.
//!
//! A receiver is open; then its worker is lost and being fenced; then it is gone. It is remembered until its last
//! block is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::{ClusterCommand, ClusterConfig, InputKind, WorkerId};
use crate::seq_set::SeqSet;
use crate::{BlockId, ReceiverId};

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Phase {
    Open,
    Fencing,
    Fenced,
}

#[derive(Debug)]
struct Receiver {
    input: u32,
    /// `None`: the master.
    worker: Option<WorkerId>,
    phase: Phase,
    /// Forgotten blocks.
    forgotten: SeqSet,
    /// Blocks that were stored once. Blocks after the first gap were never acknowledged.
    known: SeqSet,
}

impl Receiver {
    fn new(worker: Option<WorkerId>, input: u32) -> Self {
        Self {
            input,
            worker,
            phase: Phase::Open,
            forgotten: SeqSet::default(),
            known: SeqSet::default(),
        }
    }
}

/// How to treat a block that a worker reports as stored.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) enum BlockStatus {
    /// Its receiver never existed.
    Foreign,
    /// To be stored; `receiver_at` is the live worker that received it.
    Wanted { receiver_at: Option<WorkerId> },
    /// Forgotten, or of a receiver whose survivors are already determined: stored only if it is one of them.
    Settled,
}

#[derive(Debug)]
pub(super) struct Receivers {
    inputs: Vec<InputKind>,
    all: BTreeMap<ReceiverId, Receiver>,
    of_worker: BTreeMap<WorkerId, Vec<ReceiverId>>,
    /// Inputs with one receiver that have none now.
    unplaced: Vec<u32>,
    /// Inputs whose source has ended.
    ended: BTreeSet<u32>,
    /// The first id of a worker's receiver, and the next; `None` when there are no more.
    first: u64,
    next: Option<u64>,
}

impl Receivers {
    pub(super) fn new(config: &ClusterConfig) -> Self {
        let inputs = u32::try_from(config.inputs.len()).unwrap_or(u32::MAX);
        let first = config.first_receiver.max(u64::from(inputs));
        let of =
            |kind| (0..inputs).filter(move |&input| kind_of(&config.inputs, input) == Some(kind));
        let master = |input| (ReceiverId(u64::from(input)), Receiver::new(None, input));
        Self {
            inputs: config.inputs.clone(),
            all: of(InputKind::Master).map(master).collect(),
            of_worker: BTreeMap::new(),
            unplaced: of(InputKind::One).collect(),
            ended: BTreeSet::new(),
            first,
            next: Some(first),
        }
    }

    /// Gives a new worker a receiver for each input that is received everywhere.
    pub(super) fn join(&mut self, worker: WorkerId, out: &mut Vec<ClusterCommand>) {
        for input in 0..u32::try_from(self.inputs.len()).unwrap_or(u32::MAX) {
            if kind_of(&self.inputs, input) == Some(InputKind::Everywhere) {
                self.open(worker, input, out);
            }
        }
    }

    /// Gives each unplaced input to the one of `workers` with the fewest receivers.
    pub(super) fn place(
        &mut self,
        workers: impl Iterator<Item = WorkerId> + Clone,
        out: &mut Vec<ClusterCommand>,
    ) {
        for input in std::mem::take(&mut self.unplaced) {
            if self.ended.contains(&input) {
                continue;
            }
            let load = |worker: &WorkerId| self.of_worker.get(worker).map_or(0, Vec::len);
            match workers.clone().min_by_key(load) {
                Some(worker) => self.open(worker, input, out),
                None => self.unplaced.push(input),
            }
        }
    }

    /// An input needs no new receiver after its present one.
    pub(super) fn source_ended(&mut self, input: u32) {
        if kind_of(&self.inputs, input) == Some(InputKind::One) {
            self.ended.insert(input);
        }
    }

    fn open(&mut self, worker: WorkerId, input: u32, out: &mut Vec<ClusterCommand>) {
        let Some(next) = self.next else {
            return;
        };
        self.next = next.checked_add(1);
        let receiver = ReceiverId(next);
        self.of_worker.entry(worker).or_default().push(receiver);
        self.all
            .insert(receiver, Receiver::new(Some(worker), input));
        out.push(ClusterCommand::Receive {
            worker,
            input,
            receiver,
            offsets: Vec::new(),
        });
    }

    /// The worker is lost: its receivers are being fenced.
    pub(super) fn lose(&mut self, worker: WorkerId) {
        for receiver in self.of_worker.get(&worker).into_iter().flatten() {
            if let Some(receiver) = self.all.get_mut(receiver) {
                receiver.phase = Phase::Fencing;
            }
        }
    }

    /// The receivers of a worker, live or lost and not yet gone.
    pub(super) fn of(&self, worker: WorkerId) -> impl Iterator<Item = ReceiverId> {
        self.of_worker.get(&worker).into_iter().flatten().copied()
    }

    /// The lost worker's receivers, gone now, each with the first block that was never stored.
    /// [`Receivers::release`] those without blocks.
    pub(super) fn fenced(&mut self, lost: WorkerId) -> Vec<(ReceiverId, BlockId)> {
        let mut fenced = Vec::new();
        for id in self.of_worker.remove(&lost).unwrap_or_default() {
            let Some(receiver) = self.all.get_mut(&id) else {
                continue;
            };
            let end = BlockId {
                receiver: id,
                seq: receiver.known.end(),
            };
            fenced.push((id, end));
            receiver.phase = Phase::Fenced;
            receiver.forgotten = SeqSet::default();
            receiver.known = SeqSet::default();
            if kind_of(&self.inputs, receiver.input) == Some(InputKind::One) {
                self.unplaced.push(receiver.input);
            }
        }
        fenced
    }

    /// None of its blocks is stored any more: a receiver that is gone is forgotten.
    pub(super) fn release(&mut self, receiver: ReceiverId) {
        let fenced = |it: &Receiver| it.phase == Phase::Fenced;
        if self.all.get(&receiver).is_some_and(fenced) {
            self.all.remove(&receiver);
        }
    }

    /// The block is forgotten, whether it was stored or not.
    pub(super) fn forget(&mut self, block: BlockId) {
        if let Some(receiver) = self.all.get_mut(&block.receiver)
            && receiver.phase != Phase::Fenced
        {
            receiver.forgotten.insert(block.seq);
            // Reports come in the order of the blocks.
            receiver.known.insert_up_to(block.seq);
        }
    }

    /// A worker stores the block. If its receiver's worker says so, all blocks before it were replicated as
    /// required.
    pub(super) fn note_stored(&mut self, block: BlockId, by: WorkerId) {
        let there = |it: &&mut Receiver| it.phase != Phase::Fenced;
        let Some(receiver) = self.all.get_mut(&block.receiver).filter(there) else {
            return;
        };
        match receiver.worker == Some(by) {
            true => receiver.known.insert_up_to(block.seq),
            false => drop(receiver.known.insert(block.seq)),
        }
    }

    /// Whether all blocks before it were stored too, so that its records are contiguous.
    pub(super) fn follows(&self, block: BlockId) -> bool {
        let follows = |it: &Receiver| it.phase == Phase::Fenced || block.seq < it.known.end();
        self.all.get(&block.receiver).is_none_or(follows)
    }

    pub(super) fn block_status(&self, block: BlockId) -> BlockStatus {
        let Some(receiver) = self.all.get(&block.receiver) else {
            let given = |next| (self.first..next).contains(&block.receiver.0);
            return match self.next.map_or(block.receiver.0 >= self.first, given) {
                true => BlockStatus::Settled,
                false => BlockStatus::Foreign,
            };
        };
        if receiver.phase == Phase::Fenced || receiver.forgotten.contains(block.seq) {
            return BlockStatus::Settled;
        }
        let open = receiver.phase == Phase::Open;
        BlockStatus::Wanted {
            receiver_at: receiver.worker.filter(|_| open),
        }
    }

    /// Whether its surviving blocks are not known yet.
    pub(super) fn is_fencing(&self, receiver: ReceiverId) -> bool {
        self.all
            .get(&receiver)
            .is_some_and(|receiver| receiver.phase == Phase::Fencing)
    }

    /// Whether workers take clients of this input.
    pub(super) fn is_at_workers(&self, input: u32) -> bool {
        kind_of(&self.inputs, input).is_some_and(|kind| kind != InputKind::Master)
    }

    pub(super) fn input_of(&self, receiver: ReceiverId) -> Option<u32> {
        self.all.get(&receiver).map(|receiver| receiver.input)
    }

    pub(super) fn worker_of(&self, receiver: ReceiverId) -> Option<WorkerId> {
        self.all.get(&receiver)?.worker
    }
}

fn kind_of(inputs: &[InputKind], input: u32) -> Option<InputKind> {
    inputs.get(usize::try_from(input).ok()?).copied()
}
