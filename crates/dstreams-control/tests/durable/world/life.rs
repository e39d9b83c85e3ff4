//! A world's life: its trouble, then a time in which everything must be committed, then calm.

use std::collections::BTreeSet;

use dstreams_control::Event;

use super::client::Client;
use super::{Item, World};
use crate::judge::Violation;
use crate::ledger::Fact;
use crate::plan::{INTERVAL_US, Rates, Trouble};

impl World {
    pub(super) fn live(&mut self) -> Result<(), Violation> {
        self.push(0, Item::Begin);
        for client in 0..self.clients.len() {
            let after = self.rng.below(INTERVAL_US);
            self.push(after, Item::Client(client));
        }
        for (after, trouble) in self.plan.troubles.clone() {
            self.push(after, Item::Trouble(trouble));
        }
        while self.time < self.plan.chaos_us {
            self.next()?;
        }
        self.rates = Rates::default();
        let until = self.time + 200 * INTERVAL_US;
        while !self.is_done() && self.time < until {
            self.next()?;
        }
        if !self.is_done() {
            self.fact(Fact::Calm { needed: 0 });
            let missing = self.missing();
            let text = format!("in no batch, or not acknowledged: {missing:?}");
            self.judge.broken("liveness", text);
            return self.judge.broken.take().map_or(Ok(()), Err);
        }
        self.calm()
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::KillMaster => self.end_master(false),
            Trouble::PowerLoss => self.end_master(true),
            Trouble::KillWorker { power } => self.kill_worker(power),
            Trouble::CutOff => self.cut_off(),
            Trouble::Stop => {
                let (graceful, deadline) = (true, None);
                self.step(Event::Stop { graceful, deadline });
            }
        }
    }

    /// Every client knows that all its records are safe, and all are in a batch that took effect.
    fn is_done(&self) -> bool {
        let told = self
            .clients
            .iter()
            .all(|client| client.safe == client.total);
        let total: u64 = self.clients.iter().map(|client| client.total).sum();
        told && self.judge.ledger.records.len() as u64 == total
    }

    /// Records for which that does not hold.
    fn missing(&self) -> Vec<(usize, u64)> {
        let of = |(at, client): (usize, &Client)| {
            let (safe, total) = (client.safe, client.total);
            (1..=total).map(move |number| (at, number, number <= safe))
        };
        let all = self.clients.iter().enumerate().flat_map(of);
        let records = &self.judge.ledger.records;
        let done = |(at, number, safe): &(usize, u64, bool)| {
            *safe && records.contains_key(&(*at, *number))
        };
        let missing = all.filter(|record| !done(record));
        missing.map(|(at, number, _)| (at, number)).collect()
    }

    /// Until there is a checkpoint of everything, and every worker knows it.
    fn calm(&mut self) -> Result<(), Violation> {
        let places: Vec<_> = self.journals.iter().map(|journal| journal.end()).collect();
        // Old records may arrive again; they are in no block.
        let begun = self.now().0 / 1_000;
        let until = self.time + 200 * INTERVAL_US;
        let later = |world: &World| {
            let newest = world.checkpoints.last();
            newest.is_some_and(|it| it.durable && it.point.batch.0 > begun)
        };
        while !later(self) {
            if self.time > until {
                let text = "no checkpoint is written".to_owned();
                self.judge.broken("liveness", text);
                return self.judge.broken.take().map_or(Ok(()), Err);
            }
            self.next()?;
        }
        let told = self.time + 2 * INTERVAL_US;
        while self.time < told {
            self.next()?;
        }
        let needed = self.needed(places[0]);
        self.tally.add("world survived");
        self.fact(Fact::Calm { needed });
        self.judge.broken.take().map_or(Ok(()), Err)
    }

    /// The number of journals that need more than the master's has after a place; and of ended receivers that the
    /// checkpoint does not close.
    fn needed(&self, place: u64) -> usize {
        let Some(master) = &self.master else { return 0 };
        let own = master.retention.first().is_some_and(|first| first <= place);
        let old = master.old.iter().map(|(_, retention)| retention);
        let workers = self.workers.iter().filter(|worker| worker.linked);
        let others = old.chain(workers.map(|worker| &worker.retention));
        let needed = others
            .filter(|retention| retention.first().is_some())
            .count();
        let newest = self.checkpoints.last().filter(|_| self.plan.cluster);
        let blocks = self.judge.ledger.blocks.keys().map(|id| id.receiver);
        let left: BTreeSet<_> = blocks.filter(|it| !master.members.contains(it)).collect();
        let open = left.iter().filter(|receiver| {
            newest.is_some_and(|newest| !newest.point.checkpointed_blocks.is_closed(**receiver))
        });
        needed + usize::from(own) + open.count()
    }
}
