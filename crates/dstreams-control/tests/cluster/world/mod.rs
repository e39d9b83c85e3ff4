//! [`World`]: time, messages in transit, and models of everyone who sends them: workers, producers, and the master's
//! loop, which drives both machines.
//!
//! Messages from the master to a worker arrive in order, and so do those between two workers or a client and a worker
//! (they are connections), except copies of blocks. These, and workers' messages to the master, come late and in any
//! order; the latter also twice. Only the answer to a fence comes after all earlier acknowledgements.

mod client;
mod letter;
mod life;
mod master;
mod state;
mod truth;
mod worker;

use std::collections::{BTreeMap, VecDeque};

use dstreams_control::cluster::{ClusterEvent, StoredBlock, WorkerId};
use dstreams_control::{Controller, Timestamp};

pub use client::Client;
pub use letter::{End, Letter};
use master::{Do, Master};
pub use truth::{Block, SOURCE, Truth};
pub use worker::Worker;

use crate::judge::{Judge, Violation};
use crate::machine::Machine;
use crate::plan::{INTERVAL_US, Plan, Rates, Turn};
use crate::rng::Rng;
use crate::tally::Tally;

/// A scheduled event.
enum Item {
    Deliver {
        from: End,
        to: End,
        letter: Letter,
    },
    /// The timer of the `WakeAt` with this number runs out.
    Wake(u64),
    /// A producer's turn to send, or connect.
    Client(usize),
    Turn(Turn),
    /// The process ends.
    Ends(WorkerId),
    /// A worker's death is noticed.
    Seen(WorkerId),
    /// The master takes a lost worker's journal away, and has read it.
    ReadJournal(WorkerId),
}

pub struct World<'a> {
    machine: &'a mut dyn Machine,
    controller: Controller,
    rng: Rng,
    plan: Plan,
    rates: Rates,
    /// Microseconds since the beginning.
    time: u64,
    queue: BTreeMap<(u64, u64), Item>,
    queued: u64,
    /// When the last message between two ends arrives, where messages come in order.
    lines: BTreeMap<(End, End), u64>,
    workers: BTreeMap<WorkerId, Worker>,
    next_worker: u32,
    clients: Vec<Client>,
    connections: u64,
    master: Master,
    todo: VecDeque<Do>,
    truth: Truth,
    judge: Judge,
    tally: Tally,
}

/// Runs the world of `seed` to its end, judged by all invariants or only by `only`; returns a tally of events and the
/// number of steps.
pub fn run(
    seed: u64,
    machine: &mut dyn Machine,
    plan: Plan,
    (trace, only): (bool, Option<&'static str>),
) -> Result<(Tally, u64), Violation> {
    let clients = plan.producers.iter().map(|&total| Client::new(total));
    let mut world = World {
        machine,
        controller: Controller::new(plan.control.clone()),
        rng: Rng::new(seed.wrapping_mul(31)),
        rates: plan.rates.clone(),
        time: 0,
        queue: BTreeMap::new(),
        queued: 0,
        lines: BTreeMap::new(),
        workers: BTreeMap::new(),
        next_worker: 1,
        clients: clients.collect(),
        connections: 0,
        master: Master::default(),
        todo: VecDeque::new(),
        truth: Truth::new(&plan.cluster),
        judge: Judge::new(plan.cluster.clone(), trace, only),
        tally: Tally::default(),
        plan,
    };
    world.live()?;
    Ok((world.tally, world.judge.steps))
}

impl World<'_> {
    /// Executes the next scheduled event.
    fn next(&mut self) -> Result<(), Violation> {
        let Some(((at, _), item)) = self.queue.pop_first() else {
            return self
                .judge
                .rule("liveness", Err("nothing is scheduled".to_owned()));
        };
        self.time = self.time.max(at);
        match item {
            Item::Deliver { from, to, letter } => self.deliver(from, to, letter)?,
            Item::Wake(number) => self.wake(number),
            Item::Client(client) => self.client_turn(client),
            Item::Turn(turn) => self.turn(turn),
            Item::Ends(worker) => self.ends(worker),
            Item::Seen(worker) => self.give_up(worker),
            Item::ReadJournal(worker) => self.read_journal(worker),
        }
        self.settle()
    }

    fn push(&mut self, after: u64, item: Item) {
        self.queued += 1;
        self.queue.insert((self.time + after, self.queued), item);
    }

    /// Sends a message, perhaps late, perhaps twice.
    fn send(&mut self, from: End, to: End, letter: Letter) {
        let most = if self.rng.chance(self.rates.late) {
            2 * INTERVAL_US
        } else {
            INTERVAL_US / 20
        };
        let mut after = 1 + self.rng.below(most);
        if matches!(letter, Letter::HaveState { .. }) {
            after += self.plan.state_us;
        }
        if to == End::Master {
            // The answer to a fence implies that every earlier acknowledgement is known.
            let told = self.lines.entry((from, to)).or_default();
            let blocks = &self.truth.blocks;
            let own = |it: &StoredBlock| blocks[&it.meta.id].origin.map(End::Worker) == Some(from);
            match &letter {
                Letter::Said(ClusterEvent::Stored { blocks, .. }) if blocks.iter().any(own) => {
                    *told = (*told).max(self.time + after);
                }
                Letter::Said(ClusterEvent::Fenced { .. } | ClusterEvent::Retired { .. }) => {
                    after = after.max(told.saturating_sub(self.time) + 1);
                }
                _ => {}
            }
            if self.rng.chance(self.rates.duplicate) && letter.may_repeat() {
                let later = after + self.rng.below(3 * INTERVAL_US);
                let letter = letter.clone();
                self.push(later, Item::Deliver { from, to, letter });
                self.tally.add("message delivered twice");
            }
            return self.push(after, Item::Deliver { from, to, letter });
        }
        // A state copy takes time, and delays nothing else.
        if matches!(letter, Letter::Push(_) | Letter::HaveState { .. }) {
            return self.push(after, Item::Deliver { from, to, letter });
        }
        let line = self.lines.entry((from, to)).or_default();
        *line = (*line).max(self.time + after);
        let after = *line - self.time;
        self.push(after, Item::Deliver { from, to, letter });
    }

    fn deliver(&mut self, from: End, to: End, letter: Letter) -> Result<(), Violation> {
        let letters = match to {
            End::Master => return self.reaches_master(from, letter),
            End::Client(client) => {
                self.clients[client].take(letter);
                return Ok(());
            }
            End::Worker(id) => match self.workers.get_mut(&id).filter(|worker| worker.alive) {
                Some(worker) => worker.take(from, letter, &mut self.truth, &mut self.rng),
                None => letter
                    .bounce(id)
                    .map(|answer| (from, answer))
                    .into_iter()
                    .collect(),
            },
        };
        if let End::Worker(id) = to
            && let Some(worker) = self.workers.get(&id).filter(|worker| worker.given_up)
        {
            // It does not know: blocks that it acknowledges alone are lost.
            self.truth.out(&self.workers, &worker.held());
            self.truth.alone(&self.judge.ledger);
        }
        for (end, letter) in letters {
            self.answer(to, end, letter);
        }
        Ok(())
    }

    /// A worker's message, or that of a failure.
    fn answer(&mut self, from: End, to: End, letter: Letter) {
        let letter = match letter {
            Letter::Have(block) if self.rng.chance(self.rates.copy_fails) => {
                self.tally.add("copy failed");
                Letter::HaveNot(block.meta.id)
            }
            Letter::HaveState {
                partition, copy, ..
            } if self.rng.chance(self.rates.state_copy_fails) => {
                self.tally.add("state copy failed");
                Letter::NoState { partition, copy }
            }
            // Uncommitted changes are never released.
            Letter::HaveChange { partition, change }
                if Some(change.version) <= self.judge.ledger.committed
                    && self.rng.chance(self.rates.released_early) =>
            {
                self.tally.add("change released early");
                Letter::NoChange {
                    partition,
                    version: change.version,
                    silent: false,
                }
            }
            letter => letter,
        };
        self.send(from, to, letter);
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000_000 + self.time)
    }
}
