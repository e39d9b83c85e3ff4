//! Workers: processes with a journal and receivers, which join, are lost, and perhaps live on after they were given
//! up.

use std::rc::Rc;

use dstreams_control::durable::{CheckpointedBlocks, Entry, JournalRetention};
use dstreams_control::{BatchTime, Event, ReceiverId};

use super::receiver::Receiver;
use super::{Item, MASTERS, World};
use crate::disk::{Block, Journal};
use crate::plan::INTERVAL_US;
use crate::sabotage::Fault;

/// A message of the master to the process of a receiver.
#[derive(Clone, Debug)]
pub enum Told {
    Granted {
        client: usize,
        receiver: ReceiverId,
        connection: u64,
        last: u64,
    },
    Revoke {
        client: usize,
        receiver: ReceiverId,
    },
    Seal {
        receiver: ReceiverId,
        batch: BatchTime,
    },
    /// The master knows the block.
    Safe(Rc<Block>),
    LetGo {
        batch: BatchTime,
        checkpointed_blocks: CheckpointedBlocks,
    },
}

/// A life of a worker.
pub struct Worker {
    pub journal: usize,
    receivers: Vec<ReceiverId>,
    /// The process of the master that it belongs to.
    pub master: u64,
    pub alive: bool,
    /// It receives from the master. Without that its messages may still arrive, until the master gives it up.
    pub linked: bool,
    pub retention: JournalRetention<u64>,
}

impl World {
    pub(super) fn worker_joins(&mut self) {
        let Some(master) = &self.master else { return };
        let life = master.life;
        let there = self
            .workers
            .iter()
            .filter(|it| it.linked && it.master == life);
        if master.controller.is_none() || there.count() >= self.plan.workers {
            return;
        }
        let opened = self.journals[MASTERS].is_synced(master.opened);
        if !opened && !self.faults.on(Fault::OpenedNotAwaited) {
            self.tally.add("worker waited for Opened");
            return self.push(INTERVAL_US / 5, Item::Join);
        }
        let (at, journal) = (self.workers.len(), self.journals.len());
        self.journals.push(Journal::default());
        self.workers.push(Worker {
            journal,
            receivers: Vec::new(),
            master: life,
            alive: true,
            linked: true,
            retention: JournalRetention::default(),
        });
        self.tally.add("worker joined");
        for input in 0..self.plan.inputs {
            let Some(master) = &mut self.master else {
                return;
            };
            let receiver = ReceiverId(master.next_receiver);
            master.next_receiver += 1;
            master.members.insert(receiver);
            self.workers[at].receivers.push(receiver);
            let of = Receiver::new(receiver, input, Some(at), journal);
            self.receivers.insert(receiver, of);
            self.step(Event::Joined { receiver });
        }
    }

    pub(super) fn reaches_worker(&mut self, at: usize, told: Told) {
        if self.workers[at].alive && self.workers[at].linked {
            if let Told::LetGo {
                batch,
                checkpointed_blocks,
            } = told
            {
                return self.worker_lets_go(at, batch, &checkpointed_blocks);
            }
            self.obey(told);
        }
    }

    /// Handles a message of the master to the process of a receiver.
    pub(super) fn obey(&mut self, told: Told) {
        match told {
            Told::Granted {
                client,
                receiver,
                connection,
                last,
            } => {
                self.granted(receiver, client, connection, last);
            }
            Told::Revoke { client, receiver } => self.revoke(receiver, client),
            Told::Seal { receiver, batch } => self.report(receiver, batch),
            Told::Safe(block) => self.is_safe(&block),
            Told::LetGo { .. } => {}
        }
    }

    /// A worker of the cluster, if there is one.
    fn any_worker(&mut self) -> Option<usize> {
        let linked = self.workers.iter().enumerate().filter(|(_, it)| it.linked);
        let linked: Vec<_> = linked.map(|(at, _)| at).collect();
        (!linked.is_empty()).then(|| self.rng.pick(&linked))
    }

    pub(super) fn kill_worker(&mut self, power: bool) {
        if let Some(at) = self.any_worker() {
            self.tally.add("worker killed");
            self.end_worker(at, power);
            self.link_breaks(at);
        }
    }

    pub(super) fn cut_off(&mut self) {
        if let Some(at) = self.any_worker() {
            self.tally.add("worker given up that lives on");
            self.link_breaks(at);
        }
    }

    fn link_breaks(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.linked = false;
        let life = worker.master;
        let after = self.rng.below(INTERVAL_US);
        self.push(after, Item::Seen(life, at));
        let after = after + self.rng.below(2 * INTERVAL_US);
        self.push(after, Item::Join);
    }

    /// Its process ends, and perhaps its machine loses power.
    pub(super) fn end_worker(&mut self, at: usize, power: bool) {
        let worker = &mut self.workers[at];
        (worker.alive, worker.linked) = (false, false);
        let journal = worker.journal;
        self.receivers.retain(|_, it| it.worker != Some(at));
        self.journals[journal].ends();
        if power {
            self.lose_power(journal);
        }
    }

    pub(super) fn lose_power(&mut self, journal: usize) {
        let lost = self.journals[journal].lose_power(&mut self.rng);
        if !lost.is_empty() {
            self.tally.add("entries lost with the power");
        }
        self.judge.ledger.lost(&lost);
    }

    /// The master sees that a worker is lost: the blocks it knew of survive.
    pub(super) fn lost(&mut self, at: usize) {
        let journal = self.workers[at].journal;
        let retention = self.retention_of(journal);
        let Some(master) = &mut self.master else {
            return;
        };
        master.old.push((journal, retention));
        for receiver in self.workers[at].receivers.clone() {
            let Some(master) = &mut self.master else {
                return;
            };
            master.members.remove(&receiver);
            let heard = master
                .heard
                .values()
                .filter(|it| it.id.receiver == receiver);
            let blocks: Vec<_> = heard.copied().collect();
            let ids: Vec<_> = blocks.iter().map(|block| block.id).collect();
            if !ids.is_empty() {
                self.tally.add("blocks survived their worker");
            }
            let entry = Entry::ReceiverLost {
                receiver,
                blocks: ids.clone(),
            };
            let at = self.append_entry(MASTERS, entry);
            let Some(master) = &mut self.master else {
                return;
            };
            master.retention.receiver_lost(receiver, &ids, at);
            master.leaving.push((receiver, at));
            self.step(Event::Left { receiver, blocks });
            if self.faults.on(Fault::GoneNotAwaited) {
                self.release(receiver);
            }
        }
    }

    /// For a journal without a writer.
    pub(super) fn retention_of(&self, journal: usize) -> JournalRetention<u64> {
        let mut retention = JournalRetention::default();
        for (at, line) in self.journals[journal].all().iter().enumerate() {
            if let Entry::Block { meta, .. } = &line.entry {
                retention.block(meta.id, at as u64 + 1);
            }
        }
        retention
    }
}
