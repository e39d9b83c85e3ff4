//! [`Worker`]: receives, copies its blocks to its peer, and reports what it stores.
//!
//! A block is safe, and its records are acknowledged, when the peer has it and all before it, or when there is no peer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use dstreams_control::cluster::{ClusterEvent, WorkerId};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};

use super::letter::name;
use super::state::States;
use super::truth::SOURCE;
use super::{Block, End, Letter, Truth};
use crate::rng::Rng;

pub struct Held {
    pub block: Rc<Block>,
    /// It counts as a copy. One made to restore the number counts once the master knows of it.
    pub counts: bool,
}

struct Receiver {
    input: u32,
    /// The last number from its source.
    last_pushed: u64,
    /// The records of the open block.
    open: Vec<(usize, u64)>,
    made: Vec<Rc<Block>>,
    reported: usize,
}

/// A producer's grant here.
struct Grant {
    connection: u64,
    token: u64,
    /// The greatest number that was taken; that is in a sealed block; that is safe.
    taken: u64,
    sealed: u64,
    safe: u64,
    revoked: Option<u64>,
}

pub struct Worker {
    pub id: WorkerId,
    pub alive: bool,
    /// The master has given it up.
    pub given_up: bool,
    pub store: BTreeMap<BlockId, Held>,
    pub states: States,
    /// The blocks that it received, on disk: they outlive it.
    pub journal: BTreeMap<BlockId, Rc<Block>>,
    /// The master has taken the journal away: no later block is written, copied or acknowledged.
    pub journal_taken: bool,
    peer: Option<WorkerId>,
    receivers: BTreeMap<ReceiverId, Receiver>,
    /// Blocks it received that are not safe, in order.
    unsafe_blocks: VecDeque<BlockId>,
    /// Blocks that the peer has.
    copied: BTreeSet<BlockId>,
    refused: BTreeSet<WorkerId>,
    /// It drains, and refuses every other worker.
    retired: bool,
    grants: BTreeMap<usize, Grant>,
    /// Unanswered seals: the batch, the receiver, and the number of blocks that must be safe.
    seals: Vec<(BatchTime, ReceiverId, usize)>,
}

type Letters = Vec<(End, Letter)>;

impl Worker {
    pub fn new(id: WorkerId) -> Self {
        Self {
            id,
            alive: true,
            given_up: false,
            store: BTreeMap::new(),
            states: States::default(),
            journal: BTreeMap::new(),
            journal_taken: false,
            peer: None,
            receivers: BTreeMap::new(),
            unsafe_blocks: VecDeque::new(),
            copied: BTreeSet::new(),
            refused: BTreeSet::new(),
            retired: false,
            grants: BTreeMap::new(),
            seals: Vec::new(),
        }
    }

    /// Whether it counts: it is alive and not given up.
    pub fn is_in(&self) -> bool {
        self.alive && !self.given_up
    }

    pub fn held(&self) -> Vec<BlockId> {
        self.store.keys().copied().collect()
    }

    pub fn take(&mut self, from: End, letter: Letter, truth: &mut Truth, rng: &mut Rng) -> Letters {
        let mut out = Vec::new();
        match letter {
            Letter::Receive {
                receiver,
                input,
                position,
            } => {
                let (open, made) = (Vec::new(), Vec::new());
                let receiver_of = Receiver {
                    input,
                    last_pushed: position,
                    open,
                    made,
                    reported: 0,
                };
                self.receivers.insert(receiver, receiver_of);
            }
            Letter::Peer(to) => self.new_peer(to, truth, &mut out),
            Letter::Seal(batch) => self.seal_all(batch, truth, &mut out, rng),
            Letter::Push(block) => self.pushed_here(from, block, truth, &mut out),
            Letter::Pushed(block) => {
                // Copies at a refused worker no longer count.
                let peer = self
                    .peer
                    .filter(|peer| !self.refused.contains(peer) && !self.retired);
                if from == peer.map_or(End::Master, End::Worker) {
                    self.copied.insert(block);
                }
                while let Some(&first) = self
                    .unsafe_blocks
                    .front()
                    .filter(|it| self.copied.contains(it))
                {
                    self.safe(first, truth, &mut out);
                }
            }
            Letter::Fence(lost) => self.fence(lost, &mut out),
            Letter::Retire => {
                self.retired = true;
                let foreign = self.store.values();
                let foreign = foreign.filter(|held| held.block.origin != Some(self.id));
                out.push(said(ClusterEvent::Retired {
                    worker: self.id,
                    blocks: foreign.map(|held| held.block.stored()).collect(),
                }));
            }
            Letter::Keep(block) => self.store_copy(&block, false, &mut out),
            Letter::Copy { block, from } => match self.store.get(&block) {
                Some(held) => out.push(self.stored(&Rc::clone(&held.block))),
                None => out.push((End::Worker(from), Letter::Want(block))),
            },
            Letter::Want(block) => out.push(match self.store.get(&block) {
                Some(held) => (from, Letter::Have(Rc::clone(&held.block))),
                None => (from, Letter::HaveNot(block)),
            }),
            Letter::Have(block) => self.store_copy(&block, false, &mut out),
            Letter::HaveNot(block) => {
                let to = self.id;
                out.push(said(ClusterEvent::CopyFailed { block, to }));
            }
            Letter::Drop(blocks) => self.drop_blocks(&blocks),
            Letter::Hello { connection } => {
                if let End::Client(producer) = from {
                    let connected = Letter::Connected {
                        producer,
                        connection,
                    };
                    out.push((End::Master, connected));
                }
            }
            Letter::Grant {
                producer,
                connection,
                token,
                last,
            } => self.granted(producer, connection, token, last, &mut out),
            Letter::Refuse {
                producer,
                connection,
            } => out.push((End::Client(producer), Letter::Closed { connection })),
            Letter::Batch { connection, number } => {
                if let End::Client(producer) = from {
                    self.batch(producer, connection, number, truth, &mut out, rng);
                }
            }
            Letter::Revoke { producer, token } => {
                self.revoke(producer, token, truth, &mut out, rng)
            }
            letter => self.states.take(self.id, from, letter, &mut out),
        }
        out
    }

    fn new_peer(&mut self, to: Option<WorkerId>, truth: &mut Truth, out: &mut Letters) {
        self.peer = to;
        self.copied.clear();
        for id in self.unsafe_blocks.clone() {
            match to {
                Some(peer) => out.push((
                    End::Worker(peer),
                    Letter::Push(Rc::clone(&self.store[&id].block)),
                )),
                None => self.safe(id, truth, out),
            }
        }
    }

    fn pushed_here(&mut self, from: End, block: Rc<Block>, truth: &mut Truth, out: &mut Letters) {
        let refused =
            matches!(from, End::Worker(worker) if self.retired || self.refused.contains(&worker));
        if !refused {
            self.store_copy(&block, true, out);
            if self.is_in() {
                // It was in transit when its receiver was lost.
                truth.excused.remove(&block.meta.id);
            }
            out.push((from, Letter::Pushed(block.meta.id)));
        }
    }

    fn store_copy(&mut self, block: &Rc<Block>, counts: bool, out: &mut Letters) {
        let held = self.store.entry(block.meta.id).or_insert_with(|| Held {
            block: Rc::clone(block),
            counts,
        });
        held.counts |= counts;
        out.push(self.stored(block));
    }

    fn stored(&self, block: &Block) -> (End, Letter) {
        let (worker, blocks) = (self.id, vec![block.stored()]);
        said(ClusterEvent::Stored { worker, blocks })
    }

    fn fence(&mut self, lost: WorkerId, out: &mut Letters) {
        self.refused.insert(lost);
        let of_lost = self
            .store
            .values()
            .filter(|held| held.block.origin == Some(lost));
        out.push(said(ClusterEvent::Fenced {
            worker: self.id,
            lost,
            blocks: of_lost.map(|held| held.block.stored()).collect(),
        }));
    }

    fn drop_blocks(&mut self, blocks: &[BlockId]) {
        for block in blocks {
            self.store.remove(block);
            // Checkpoints have some of the batches that are over.
            if block.seq % 2 == 0 {
                self.journal.remove(block);
            }
            self.unsafe_blocks.retain(|id| id != block);
        }
    }

    /// Seals the open block of a receiver, unless it is empty, and begins to copy it.
    fn seal(&mut self, id: ReceiverId, truth: &mut Truth, out: &mut Letters) {
        if self.journal_taken {
            return;
        }
        let Some(receiver) = self.receivers.get_mut(&id).filter(|it| !it.open.is_empty()) else {
            return;
        };
        let records = std::mem::take(&mut receiver.open);
        for &(producer, number) in &records {
            if let Some(grant) = self.grants.get_mut(&producer) {
                grant.sealed = grant.sealed.max(number);
            }
        }
        let block = Rc::new(Block {
            meta: BlockMeta {
                id: BlockId {
                    receiver: id,
                    seq: receiver.made.len() as u64,
                },
                rows: records.len() as u64,
                bytes: 8 * records.len() as u64,
            },
            input: receiver.input,
            origin: Some(self.id),
            records,
        });
        receiver.made.push(Rc::clone(&block));
        let name = block.meta.id;
        truth.blocks.insert(name, Rc::clone(&block));
        self.journal.insert(name, Rc::clone(&block));
        let held = Held {
            block: Rc::clone(&block),
            counts: true,
        };
        self.store.insert(name, held);
        self.unsafe_blocks.push_back(name);
        match self.peer {
            Some(peer) => out.push((End::Worker(peer), Letter::Push(block))),
            None => self.safe(name, truth, out),
        }
    }

    /// A block is stored as required: answers everyone waiting for that.
    fn safe(&mut self, id: BlockId, truth: &mut Truth, out: &mut Letters) {
        self.unsafe_blocks.retain(|&other| other != id);
        truth.safe.insert(id);
        if self.copied.contains(&id) {
            truth.copied.insert(id);
        }
        let block = Rc::clone(&truth.blocks[&id]);
        out.push(self.stored(&block));
        for &(producer, number) in &block.records {
            if let Some(grant) = self.grants.get_mut(&producer) {
                grant.safe = grant.safe.max(number);
                let (connection, number) = (grant.connection, grant.safe);
                out.push((End::Client(producer), Letter::Ack { connection, number }));
            }
        }
        self.answer_seals(out);
        self.answer_revokes(truth.clients(), out);
    }

    fn seal_all(&mut self, batch: BatchTime, truth: &mut Truth, out: &mut Letters, rng: &mut Rng) {
        let ids: Vec<_> = self.receivers.keys().copied().collect();
        for id in ids {
            let flows = truth.flows(self.receivers[&id].input) && rng.chance(500);
            if let Some(receiver) = self.receivers.get_mut(&id).filter(|_| flows) {
                receiver.last_pushed += 1;
                receiver.open.push((SOURCE, receiver.last_pushed));
            }
            self.seal(id, truth, out);
            self.seals.push((batch, id, self.receivers[&id].made.len()));
        }
        self.answer_seals(out);
    }

    fn answer_seals(&mut self, out: &mut Letters) {
        let waits = |id: ReceiverId, count: usize| {
            let unsafe_one = |block: &BlockId| block.receiver == id && block.seq < count as u64;
            self.unsafe_blocks.iter().any(unsafe_one)
        };
        let (later, now): (Vec<_>, Vec<_>) = self
            .seals
            .iter()
            .partition(|&&(_, id, count)| waits(id, count));
        self.seals = later;
        for (batch, id, count) in now {
            let Some(receiver) = self.receivers.get_mut(&id) else {
                continue;
            };
            let from = receiver.reported;
            receiver.reported = count.max(from);
            let blocks = receiver.made.get(from..count).unwrap_or_default();
            let reported = Letter::Reported {
                batch,
                receiver: id,
                blocks: blocks.iter().map(|block| block.stored()).collect(),
            };
            out.push((End::Master, reported));
        }
    }

    fn granted(
        &mut self,
        producer: usize,
        connection: u64,
        token: u64,
        last: u64,
        out: &mut Letters,
    ) {
        let before = self.grants.get(&producer);
        let at_least = |of: fn(&Grant) -> u64| before.map_or(last, |grant| of(grant).max(last));
        let grant = Grant {
            connection,
            token,
            taken: at_least(|grant| grant.taken),
            sealed: at_least(|grant| grant.sealed),
            safe: at_least(|grant| grant.safe),
            revoked: None,
        };
        let ack = last;
        self.grants.insert(producer, grant);
        out.push((End::Client(producer), Letter::Ready { connection, ack }));
    }

    fn batch(
        &mut self,
        producer: usize,
        connection: u64,
        number: u64,
        truth: &mut Truth,
        out: &mut Letters,
        rng: &mut Rng,
    ) {
        let of_clients = |it: &&ReceiverId| self.receivers[*it].input == truth.clients();
        let receiver = self.receivers.keys().find(of_clients).copied();
        let grant = self.grants.get_mut(&producer);
        let Some((receiver, grant)) = receiver.zip(grant) else {
            return;
        };
        if grant.connection != connection || grant.revoked.is_some() {
            return;
        }
        if number <= grant.taken {
            if number <= grant.safe {
                out.push((End::Client(producer), Letter::Ack { connection, number }));
            }
            return;
        }
        grant.taken = number;
        if let Some(receiver) = self.receivers.get_mut(&receiver) {
            receiver.open.push((producer, number));
        }
        if rng.chance(400) {
            self.seal(receiver, truth, out);
        }
    }

    fn revoke(
        &mut self,
        producer: usize,
        token: u64,
        truth: &mut Truth,
        out: &mut Letters,
        rng: &mut Rng,
    ) {
        let Some(grant) = self
            .grants
            .get_mut(&producer)
            .filter(|grant| grant.token <= token)
        else {
            return out.push(revoked((self.id, truth.clients()), producer, token, 0));
        };
        grant.revoked = Some(token);
        let connection = grant.connection;
        out.push((End::Client(producer), Letter::Closed { connection }));
        let ids: Vec<_> = self.receivers.keys().copied().collect();
        for id in ids {
            if rng.chance(500) {
                self.seal(id, truth, out);
            } else if let Some(receiver) = self.receivers.get_mut(&id) {
                receiver.open.retain(|&(of, _)| of != producer);
            }
        }
        self.answer_revokes(truth.clients(), out);
    }

    /// Answers each `Revoke` whose producer has no unsafe records left.
    fn answer_revokes(&mut self, input: u32, out: &mut Letters) {
        let (id, store, unsafe_blocks) = (self.id, &self.store, &self.unsafe_blocks);
        let is_unsafe = |producer: usize| {
            let of = |block: &BlockId| {
                store[block]
                    .block
                    .records
                    .iter()
                    .any(|&(of, _)| of == producer)
            };
            unsafe_blocks.iter().any(of)
        };
        self.grants.retain(|&producer, grant| match grant.revoked {
            Some(token) if !is_unsafe(producer) => {
                out.push(revoked((id, input), producer, token, grant.sealed));
                false
            }
            _ => true,
        });
    }
}

fn said(event: ClusterEvent) -> (End, Letter) {
    (End::Master, Letter::Said(event))
}

fn revoked(
    (worker, input): (WorkerId, u32),
    producer: usize,
    token: u64,
    last: u64,
) -> (End, Letter) {
    said(ClusterEvent::Revoked {
        worker,
        input,
        producer: name(producer),
        token,
        last,
    })
}
