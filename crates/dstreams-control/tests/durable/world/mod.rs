//! [`World`]: time, a queue of events, disks, clients, and processes that are killed and started again.
//!
//! There is a master with a journal and its own receivers; in a cluster there are workers too, each with a journal
//! and receivers. Messages between clients and receivers are lost, late, repeated and reordered; those between
//! workers and master come in order while their link lasts. The master's own dependencies (an engine, sinks, a
//! checkpoint) are late and fail. At first the world is as troublesome as its [`Plan`] says, then it is fair, and
//! everything must be committed.

mod client;
mod engine;
mod keep;
mod life;
mod master;
mod members;
mod receiver;
mod restart;

use std::collections::BTreeMap;

use dstreams_control::durable::Entry;
use dstreams_control::{BatchTime, Event, ReceiverId, Timestamp};

use client::{Answer, Client, Request};
use master::{Letter, Master};
use members::{Told, Worker};
use receiver::Receiver;

use crate::disk::{Checkpoint, Journal, Line};
use crate::judge::{Judge, Violation};
use crate::ledger::Fact;
use crate::plan::{INTERVAL_US, Plan, Rates, Trouble};
use crate::rng::Rng;
use crate::sabotage::{Fault, Faults};
use crate::tally::Tally;

/// The master's journal.
const MASTERS: usize = 0;

/// A future event. Those of a process of the master end with it: `life` says which one.
#[derive(Clone, Debug)]
enum Item {
    /// A client's turn to connect or send.
    Client(usize),
    ToReceiver(ReceiverId, Request),
    ToClient(usize, Answer),
    ToMaster(u64, Letter),
    ToWorker(usize, Told),
    /// A timer of the controller.
    Wake(u64, u64),
    /// Records have lingered long enough.
    Linger(ReceiverId),
    Sync(usize, u64),
    /// A task of an attempt runs; the same, it installs its changes.
    Compute(u64, BatchTime, u32),
    Install(u64, engine::Install),
    /// The records of a batch are to be set aside.
    SetAside(u64, BatchTime, u32),
    /// An output takes effect.
    Effect(u64, BatchTime, usize),
    /// The checkpoint in progress becomes visible; becomes durable.
    CheckpointVisible(u64),
    CheckpointDurable(u64),
    /// A process of the master begins; has one more batch to replay.
    Begin,
    Replay(u64),
    /// A worker joins; the master sees that one is lost.
    Join,
    Seen(u64, usize),
    Trouble(Trouble),
}

pub struct World {
    rng: Rng,
    plan: Plan,
    rates: Rates,
    faults: Faults,
    /// Microseconds since the beginning.
    time: u64,
    queue: BTreeMap<(u64, u64), Item>,
    queued: u64,
    /// When the last message on a worker's link arrives, to it and from it.
    links: BTreeMap<(usize, bool), u64>,
    journals: Vec<Journal>,
    checkpoints: Vec<Checkpoint>,
    master: Option<Master>,
    lives: u64,
    /// A kill now would be especially harmful.
    delicate: bool,
    workers: Vec<Worker>,
    receivers: BTreeMap<ReceiverId, Receiver>,
    clients: Vec<Client>,
    connections: u64,
    judge: Judge,
    tally: Tally,
}

/// Runs the world of `seed` to its end, judged by all invariants or `only` by one; returns what happened, the
/// number of steps, and how often `fault` was injected.
pub fn run(
    seed: u64,
    plan: Plan,
    fault: Option<Fault>,
    (trace, only): (bool, Option<&'static str>),
    fired: &mut u64,
) -> Result<(Tally, u64), Violation> {
    let inputs = u64::from(plan.inputs);
    let client = |(at, &total): (usize, &u64)| {
        Client::new(total, u32::try_from(at as u64 % inputs).unwrap())
    };
    let mut world = World {
        rng: Rng::new(seed.wrapping_mul(31)),
        rates: plan.rates.clone(),
        faults: Faults::new(fault),
        time: 0,
        queue: BTreeMap::new(),
        queued: 0,
        links: BTreeMap::new(),
        journals: vec![Journal::default()],
        checkpoints: Vec::new(),
        master: None,
        lives: 0,
        delicate: false,
        workers: Vec::new(),
        receivers: BTreeMap::new(),
        clients: plan.clients.iter().enumerate().map(client).collect(),
        connections: 0,
        judge: Judge::new(plan.clients.len(), trace, only),
        tally: Tally::default(),
        plan,
    };
    world.judge.ledger.skips = world.plan.control.skip_missed.is_some();
    let lived = world.live();
    *fired += world.faults.fired;
    lived?;
    Ok((world.tally, world.judge.steps))
}

impl World {
    /// Processes the next event.
    fn next(&mut self) -> Result<(), Violation> {
        let Some(((at, _), item)) = self.queue.pop_first() else {
            self.judge
                .broken("liveness", "nothing will happen".to_owned());
            return self.judge.broken.take().map_or(Ok(()), Err);
        };
        self.time = self.time.max(at);
        self.judge.steps += 1;
        let delicate = std::mem::take(&mut self.delicate);
        let killed = self.rates.killed * if delicate { 8 } else { 1 };
        if self.master.is_some() && self.rng.chance(killed) {
            let power = self.rng.chance(self.rates.power);
            self.end_master(power);
        }
        if self.judge.trace {
            println!("{:>5} {:>8} {item:?}", self.judge.steps, self.time);
        }
        self.happen(item);
        self.judge.broken.take().map_or(Ok(()), Err)
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Client(client) => self.client_turn(client),
            Item::ToReceiver(receiver, request) => self.request(receiver, request),
            Item::ToClient(client, answer) => self.clients[client].take(answer),
            Item::ToMaster(life, letter) if self.lives(life) => self.reaches_master(letter),
            Item::ToWorker(worker, told) => self.reaches_worker(worker, told),
            Item::Wake(life, number) if self.lives(life) => self.wake(number),
            Item::Linger(receiver) => self.seal(receiver),
            Item::Sync(journal, writer) => self.end_sync(journal, writer),
            Item::Compute(life, batch, attempt) if self.lives(life) => self.compute(batch, attempt),
            Item::Install(life, install) if self.lives(life) => self.install(install),
            Item::SetAside(life, batch, attempt) if self.lives(life) => {
                self.set_aside(batch, attempt)
            }
            Item::Effect(life, batch, output) if self.lives(life) => self.effect(batch, output),
            Item::CheckpointVisible(life) if self.lives(life) => self.checkpoint_visible(),
            Item::CheckpointDurable(life) if self.lives(life) => self.checkpoint_durable(),
            Item::Begin => self.begin(),
            Item::Replay(life) if self.lives(life) => self.replay(),
            Item::Join => self.worker_joins(),
            Item::Seen(life, worker) if self.lives(life) => self.lost(worker),
            Item::Trouble(trouble) => self.trouble(trouble),
            _ => {}
        }
    }

    /// Whether that process is the master.
    fn lives(&self, life: u64) -> bool {
        self.master
            .as_ref()
            .is_some_and(|master| master.life == life)
    }

    fn push(&mut self, after: u64, item: Item) {
        self.queued += 1;
        self.queue.insert((self.time + after, self.queued), item);
    }

    /// How long something takes.
    fn takes(&mut self) -> u64 {
        self.at_times_slow(self.rates.slow, 2)
    }

    fn at_times_slow(&mut self, slow: u64, intervals: u64) -> u64 {
        let most = if self.rng.chance(slow) {
            intervals * INTERVAL_US
        } else {
            INTERVAL_US / 20
        };
        1 + self.rng.below(most)
    }

    /// A message that may be lost or repeated.
    fn send(&mut self, item: Item) {
        if self.rng.chance(self.rates.repeated) {
            let later = self.takes() + self.rng.below(3 * INTERVAL_US);
            self.push(later, item.clone());
            self.tally.add("message delivered twice");
        }
        if self.rng.chance(self.rates.lost) {
            self.tally.add("message lost");
            return;
        }
        let after = self.takes();
        self.push(after, item);
    }

    /// A message on a worker's link: in order.
    fn link(&mut self, worker: usize, to_master: bool, item: Item) {
        let after = self.takes();
        let last = self.links.entry((worker, to_master)).or_default();
        *last = (*last).max(self.time + after);
        let after = *last - self.time;
        self.push(after, item);
    }

    /// Appends to a journal, which is synced soon; returns the place.
    fn append(&mut self, journal: usize, line: Line) -> u64 {
        let place = self.journals[journal].append(line);
        self.begin_sync(journal);
        place
    }

    fn append_entry(&mut self, journal: usize, entry: Entry) -> u64 {
        self.append(journal, Line { entry, block: None })
    }

    fn begin_sync(&mut self, journal: usize) {
        if let Some(writer) = self.journals[journal].begin_sync() {
            let slow = match journal {
                MASTERS => self.rates.slow_master,
                _ => self.rates.slow_sync,
            };
            let after = self.at_times_slow(slow, 4);
            self.push(after, Item::Sync(journal, writer));
        }
    }

    /// A sync ends; lines appended meanwhile are in the next.
    fn end_sync(&mut self, journal: usize, writer: u64) {
        if let Some(lines) = self.journals[journal].end_sync(writer) {
            self.judge.ledger.synced(lines);
            self.is_synced(journal);
            self.begin_sync(journal);
        }
    }

    /// Syncs all of a journal at once.
    fn sync(&mut self, journal: usize) {
        self.judge.ledger.synced(self.journals[journal].sync());
        self.is_synced(journal);
    }

    fn is_synced(&mut self, journal: usize) {
        self.blocks_synced(journal);
        if journal == MASTERS {
            self.master_synced();
        }
    }

    fn fact(&mut self, fact: Fact) {
        self.judge.fact(fact, &self.journals, &self.checkpoints);
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000_000 + self.time)
    }

    /// A message of the master to itself, or from one of its dependencies.
    fn tell_controller(&mut self, after: u64, event: Event) {
        if let Some(master) = &self.master {
            self.push(after, Item::ToMaster(master.life, Letter::Event(event)));
        }
    }
}
