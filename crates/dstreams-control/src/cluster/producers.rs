//! [`Producers`]: which worker takes the records of which producer, and the offset up to which they are safe.
//!
//! A producer has one owner at most. Before the next one, the owner has given it up, or is lost and every worker
//! refuses it; the next owner resumes from what is known to be safe by then. The parts of a source that runs on one
//! worker are producers too, without owners: their receiver moves instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::receivers::Receivers;
use super::roster::Roster;
use super::{ClusterCommand, InputKind, ProducerOffset, WorkerId};
use crate::BlockId;

/// Input and name.
type Key = (u32, Arc<str>);

/// A connection that may send, or wants to.
#[derive(Copy, Clone, Debug)]
struct Claim {
    worker: WorkerId,
    token: u64,
}

#[derive(Copy, Clone, Debug)]
enum Owner {
    Nobody,
    Granted {
        claim: Claim,
        revoked: bool,
    },
    /// The owner is lost and not fenced yet.
    Lost,
}

#[derive(Debug)]
struct Producer {
    owner: Owner,
    waiting: Option<Claim>,
    /// The newest claim's token.
    newest: Option<u64>,
    /// The offset that is safe even if all stored blocks are lost.
    settled: u64,
    /// The greatest number in each stored block.
    stored: BTreeMap<BlockId, u64>,
    /// When it was last claimed, as a counter.
    turn: u64,
}

#[derive(Debug)]
pub(super) struct Producers {
    max: usize,
    /// Inputs whose producers are the parts of one source.
    of_sources: BTreeSet<u32>,
    /// The number of such parts. They are never forgotten, or the source would begin again.
    parts: usize,
    all: BTreeMap<Key, Producer>,
    of_worker: BTreeMap<WorkerId, BTreeSet<Key>>,
    /// Producers without owner or waiting claim, by turn.
    idle: BTreeSet<(u64, Key)>,
    turns: u64,
    /// Producers forgotten so far.
    forgotten: u64,
}

impl Producers {
    pub(super) fn new(max: usize, inputs: &[InputKind]) -> Self {
        let inputs = (0..).zip(inputs);
        let one = inputs.filter(|(_, kind)| **kind == InputKind::One);
        Self {
            max: max.max(1),
            of_sources: one.map(|(input, _)| input).collect(),
            parts: 0,
            all: BTreeMap::new(),
            of_worker: BTreeMap::new(),
            idle: BTreeSet::new(),
            turns: 0,
            forgotten: 0,
        }
    }

    /// Producers that were forgotten because there were too many.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Adds the offsets that an earlier master left; least recently active first.
    pub(super) fn restore(&mut self, offsets: &[ProducerOffset]) {
        for offset in offsets {
            let it = self.producer(&(offset.input, Arc::clone(&offset.producer)));
            it.settled = it.settled.max(offset.last);
        }
        self.trim();
    }

    /// A client connected to a live worker.
    pub(super) fn claim(
        &mut self,
        key: Key,
        (worker, token): (WorkerId, u64),
        (roster, receivers): (&Roster, &Receivers),
        out: &mut Vec<ClusterCommand>,
    ) {
        let newest = self.all.get(&key).and_then(|it| it.newest);
        if newest.is_some_and(|newest| token <= newest) {
            if newest != Some(token) {
                out.push(ClusterCommand::Refuse { token, worker });
            }
            return;
        }
        let turn = self.next_turn();
        let it = self.producer(&key);
        let before = std::mem::replace(&mut it.turn, turn);
        it.newest = Some(token);
        if let Some(older) = it.waiting.replace(Claim { worker, token })
            && roster.is_live(older.worker)
        {
            out.push(ClusterCommand::Refuse {
                token: older.token,
                worker: older.worker,
            });
        }
        match &mut it.owner {
            Owner::Lost | Owner::Granted { revoked: true, .. } => {}
            Owner::Granted { claim, revoked } if claim.worker != worker => {
                *revoked = true;
                out.push(ClusterCommand::Revoke {
                    worker: claim.worker,
                    input: key.0,
                    producer: Arc::clone(&key.1),
                    token: claim.token,
                });
            }
            Owner::Nobody | Owner::Granted { .. } => it.grant(receivers, out),
        }
        let owner = it.owner_at();
        self.idle.remove(&(before, key.clone()));
        if let Some(owner) = owner {
            self.of_worker.entry(owner).or_default().insert(key);
        }
        self.trim();
    }

    /// A worker gave up the producer it was granted with `token`.
    pub(super) fn revoked(
        &mut self,
        key: &Key,
        (worker, token): (WorkerId, u64),
        last: u64,
        known: (&Roster, &Receivers),
        out: &mut Vec<ClusterCommand>,
    ) {
        let Some(it) = self.all.get_mut(key) else {
            return;
        };
        match it.owner {
            Owner::Granted { claim, .. } if (claim.worker, claim.token) == (worker, token) => {}
            _ => return,
        }
        it.settled = it.settled.max(last);
        if let Some(owned) = self.of_worker.get_mut(&worker) {
            owned.remove(key);
        }
        self.freed(key, known, out);
    }

    /// The worker is lost and not fenced yet.
    pub(super) fn lose(&mut self, worker: WorkerId) {
        for key in self.of_worker.get(&worker).into_iter().flatten() {
            if let Some(it) = self.all.get_mut(key) {
                it.owner = Owner::Lost;
            }
        }
    }

    /// Every worker refuses the lost one.
    pub(super) fn fenced(
        &mut self,
        lost: WorkerId,
        known: (&Roster, &Receivers),
        out: &mut Vec<ClusterCommand>,
    ) {
        for key in self.of_worker.remove(&lost).unwrap_or_default() {
            self.freed(&key, known, out);
        }
        self.trim();
    }

    /// It has no owner now: a waiting claim gets it.
    fn freed(
        &mut self,
        key: &Key,
        (roster, receivers): (&Roster, &Receivers),
        out: &mut Vec<ClusterCommand>,
    ) {
        let Some(it) = self.all.get_mut(key) else {
            return;
        };
        it.owner = Owner::Nobody;
        it.waiting = it.waiting.filter(|claim| roster.is_live(claim.worker));
        it.grant(receivers, out);
        let turn = it.turn;
        if let Some(owner) = it.owner_at() {
            self.of_worker.entry(owner).or_default().insert(key.clone());
        } else {
            self.idle.insert((turn, key.clone()));
        }
    }

    /// A new block is stored.
    pub(super) fn add_offsets(&mut self, block: BlockId, offsets: &[ProducerOffset]) {
        for offset in offsets {
            let it = self.producer(&(offset.input, Arc::clone(&offset.producer)));
            it.stored.insert(block, offset.last);
        }
        self.trim();
    }

    /// A block is no longer stored: its records are settled, or lost.
    pub(super) fn remove_offsets(
        &mut self,
        block: BlockId,
        offsets: &[ProducerOffset],
        safe: bool,
    ) {
        for offset in offsets {
            let key = (offset.input, Arc::clone(&offset.producer));
            if let Some(it) = self.all.get_mut(&key) {
                let last = it.stored.remove(&block).filter(|_| safe);
                it.settled = it.settled.max(last.unwrap_or_default());
            }
        }
    }

    /// A part of a source no longer exists. A connection's producer of that name stays.
    pub(super) fn remove_part(&mut self, key: Key) {
        let free = |it: &Producer| matches!(it.owner, Owner::Nobody) && it.waiting.is_none();
        if !self.of_sources.contains(&key.0) || !self.all.get(&key).is_some_and(free) {
            return;
        }
        if let Some(it) = self.all.remove(&key) {
            self.parts = self.parts.saturating_sub(1);
            self.idle.remove(&(it.turn, key));
        }
    }

    /// The safe offset of each part of an input's source, by name.
    pub(super) fn offsets(&self, input: u32, receivers: &Receivers) -> Vec<(Arc<str>, u64)> {
        let first = (input, Arc::from(""));
        let of_input = self
            .all
            .range(first..)
            .take_while(|((of, _), _)| *of == input);
        let offsets = of_input.map(|((_, part), it)| (Arc::clone(part), it.last(receivers)));
        offsets.filter(|(_, last)| *last > 0).collect()
    }

    /// The number of producers remembered.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn next_turn(&mut self) -> u64 {
        self.turns = self.turns.saturating_add(1);
        self.turns
    }

    /// The producer; a new one is idle.
    fn producer(&mut self, key: &Key) -> &mut Producer {
        let turn = self.next_turn();
        let (idle, parts) = (&mut self.idle, &mut self.parts);
        let of_source = self.of_sources.contains(&key.0);
        self.all.entry(key.clone()).or_insert_with(|| {
            match of_source {
                true => *parts += 1,
                false => drop(idle.insert((turn, key.clone()))),
            }
            Producer::new(turn)
        })
    }

    /// Forgets the least recently claimed producers, if there are too many.
    fn trim(&mut self) {
        while self.all.len() - self.parts > self.max {
            let Some((_, key)) = self.idle.pop_first() else {
                return;
            };
            self.all.remove(&key);
            self.forgotten = self.forgotten.saturating_add(1);
        }
    }
}

impl Producer {
    const fn new(turn: u64) -> Self {
        Self {
            owner: Owner::Nobody,
            waiting: None,
            newest: None,
            settled: 0,
            stored: BTreeMap::new(),
            turn,
        }
    }

    /// Grants the waiting claim, if there is one.
    fn grant(&mut self, receivers: &Receivers, out: &mut Vec<ClusterCommand>) {
        let Some(claim) = self.waiting.take() else {
            return;
        };
        self.owner = Owner::Granted {
            claim,
            revoked: false,
        };
        out.push(ClusterCommand::Grant {
            token: claim.token,
            worker: claim.worker,
            last: self.last(receivers),
        });
    }

    /// The greatest number that is safe.
    fn last(&self, receivers: &Receivers) -> u64 {
        let follows = |&(&block, _): &(&BlockId, _)| receivers.follows(block);
        let stored = self.stored.iter().filter(follows).map(|(_, &last)| last);
        self.settled.max(stored.max().unwrap_or_default())
    }

    const fn owner_at(&self) -> Option<WorkerId> {
        match self.owner {
            Owner::Granted { claim, .. } => Some(claim.worker),
            Owner::Nobody | Owner::Lost => None,
        }
    }
}
