//! The course of a world: trouble, then fairness, calm, a stop, and the verdict.
//!
//! When all producers are done, the engine pauses: every block must then have all its copies. Then the engine
//! resumes: states must be in place. Then all stops, and nothing may be left.

use dstreams_control::Event;
use dstreams_control::cluster::{ClusterEvent, WorkerId};

use super::{End, Item, Worker, World};
use crate::invariants::Calm;
use crate::judge::Violation;
use crate::plan::{INTERVAL_US, Rates, Turn};

use super::master::Do;

/// No more workers join.
const MAX_WORKERS: usize = 5;

impl World<'_> {
    pub(super) fn live(&mut self) -> Result<(), Violation> {
        let receivers = self
            .truth
            .inputs_of(dstreams_control::cluster::InputKind::Master);
        let receivers = receivers.map(|input| dstreams_control::ReceiverId(u64::from(input)));
        let receivers = receivers.collect();
        self.todo.push_back(Do::Control(Event::Start { receivers }));
        for _ in 0..self.plan.workers {
            self.turn(Turn::Join);
        }
        for client in 0..self.clients.len() {
            let after = self.rng.below(INTERVAL_US);
            self.push(after, Item::Client(client));
        }
        for (after, turn) in self.plan.turns.clone() {
            self.push(after, Item::Turn(turn));
        }
        self.settle()?;
        while self.time < self.plan.chaos_us {
            self.next()?;
        }
        self.become_fair()?;
        self.calm()?;
        self.stop()
    }

    /// Nothing goes wrong from now on, and a worker is there.
    fn become_fair(&mut self) -> Result<(), Violation> {
        self.rates = Rates::default();
        self.master.engine_stands = true;
        let least = 1 + self.rng.below(3);
        // Some, drained ones too, are about to be given up or to leave.
        let stays = |world: &Self, worker: &WorkerId| world.workers[worker].alive;
        while (self
            .judge
            .ledger
            .open()
            .filter(|worker| stays(self, worker))
            .count() as u64)
            < least
        {
            self.join();
            self.settle()?;
        }
        let until = self.time + 200 * INTERVAL_US;
        while !self.clients.iter().all(super::Client::is_done) {
            self.lively(until, "a producer's batches are never all acknowledged")?;
        }
        Ok(())
    }

    fn calm(&mut self) -> Result<(), Violation> {
        self.truth.dry = true;
        self.pass(6)?;
        // Workers that may leave do so once they have given everything away; the others are then asked what they
        // store of them.
        let mut gone = None;
        while gone != Some(self.judge.ledger.gone.len()) || self.anyone_leaves() {
            gone = Some(self.judge.ledger.gone.len());
            self.pass(1)?;
        }
        self.judge_calm(Calm::EngineStands)?;
        if self.machine.state().stored_blocks() > 0 {
            self.tally.add("blocks stored when calm");
        }
        self.master.engine_stands = false;
        self.resume()?;
        let until = self.time + 200 * INTERVAL_US;
        while self.controller.pending() > 1 {
            self.lively(until, "batches are never committed")?;
        }
        self.pass(9)?;
        let until = self.time + 200 * INTERVAL_US;
        // Copies take time, and moves come after them.
        let mut quiet = 0;
        while quiet < 3 && self.time < until {
            self.pass(1)?;
            let ledger = &self.judge.ledger;
            let rests = ledger.next.is_empty() && ledger.draining.is_empty();
            quiet = if rests { quiet + 1 } else { 0 };
        }
        if self.judge.ledger.steady().len() < self.judge.ledger.open().count() {
            self.tally.add("slow worker when calm");
        }
        self.judge_calm(Calm::EngineRuns)
    }

    fn anyone_leaves(&self) -> bool {
        let ledger = &self.judge.ledger;
        !ledger.drained.is_disjoint(&ledger.live)
    }

    fn stop(&mut self) -> Result<(), Violation> {
        let (graceful, deadline) = (true, None);
        self.todo
            .push_back(Do::Control(Event::Stop { graceful, deadline }));
        self.settle()?;
        let until = self.time + 200 * INTERVAL_US;
        while !self.master.stopped {
            self.lively(until, "a stop does not lead to Stopped")?;
        }
        self.pass(4)?;
        let lost = |worker: &Worker| worker.given_up;
        if self.workers.values().any(lost) && self.truth.excused.is_empty() {
            self.tally.add("workers lost but no block");
        }
        self.judge_calm(Calm::Stopped)
    }

    fn judge_calm(&mut self, calm: Calm) -> Result<(), Violation> {
        let machine = self.machine.state();
        let facts = (&self.workers, &self.truth, &self.clients[..]);
        self.judge.calm(calm, facts, machine)
    }

    /// Lets some intervals pass.
    fn pass(&mut self, intervals: u64) -> Result<(), Violation> {
        let until = self.time + intervals * INTERVAL_US;
        while self.time < until {
            self.next()?;
        }
        Ok(())
    }

    fn lively(&mut self, until: u64, complaint: &str) -> Result<(), Violation> {
        if self.time > until {
            let job = self.master.job();
            return self
                .judge
                .rule("liveness", Err(format!("{complaint}: {job}")));
        }
        self.next()
    }

    pub(super) fn turn(&mut self, turn: Turn) {
        let there: Vec<_> = self.judge.ledger.live.iter().copied().collect();
        let pick = |which: u64| {
            let at = which.checked_rem(there.len() as u64)?;
            there.get(usize::try_from(at).unwrap()).copied()
        };
        match turn {
            Turn::Join if there.len() < MAX_WORKERS => self.join(),
            Turn::Join => {}
            Turn::Die(which) => {
                if let Some(worker) = pick(which) {
                    self.tally.add("worker died");
                    self.ends(worker);
                }
            }
            Turn::GiveUp(which) => {
                if let Some(worker) = pick(which) {
                    self.tally.add("given-up worker still ran");
                    self.give_up(worker);
                    let after = self.rng.below(4 * INTERVAL_US);
                    self.push(after, Item::Ends(worker));
                }
            }
            Turn::Drain(which) => {
                if let Some(worker) = pick(which) {
                    self.tell(ClusterEvent::Drain { worker });
                }
            }
            Turn::Slow(which) => {
                let slow = (0..).zip(&there).filter(|(at, _)| which >> at & 1 == 1);
                let workers = slow.map(|(_, worker)| *worker).collect();
                self.tell(ClusterEvent::Slow { workers });
            }
        }
    }

    fn join(&mut self) {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.workers.insert(worker, Worker::new(worker));
        self.tell(ClusterEvent::Joined { worker });
    }

    /// Sends the event to the cluster machine, perhaps twice.
    pub(super) fn tell(&mut self, event: ClusterEvent) {
        if self.rng.chance(self.rates.duplicate) {
            let after = self.rng.below(3 * INTERVAL_US);
            let (from, to) = (End::Master, End::Master);
            let letter = super::Letter::Said(event.clone());
            self.push(after, Item::Deliver { from, to, letter });
        }
        self.todo.push_back(Do::Cluster(event));
    }

    /// The process ends; that is noticed soon.
    pub(super) fn ends(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.alive) else {
            return;
        };
        worker.alive = false;
        let held = worker.held();
        if !worker.given_up {
            self.truth.out(&self.workers, &held);
            let after = self.rng.below(INTERVAL_US);
            self.push(after, Item::Seen(id));
        }
        for client in 0..self.clients.len() {
            if self.clients[client].is_at() == Some(id) {
                let letter = self.clients[client].closed();
                self.send(End::Worker(id), End::Client(client), letter);
            }
        }
    }

    /// The master gives up a worker.
    pub(super) fn give_up(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.given_up) else {
            return;
        };
        worker.given_up = true;
        let (held, alive) = (worker.held(), worker.alive);
        if alive {
            self.truth.out(&self.workers, &held);
        }
        self.tell(ClusterEvent::Lost { worker: id });
    }
}
