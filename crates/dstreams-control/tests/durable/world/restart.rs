//! Processes of the master: how one ends, and how the next resumes, which may end too at any moment of that.

use std::collections::{BTreeMap, BTreeSet};

use dstreams_control::durable::{Entry, JournalRetention, Restart};
use dstreams_control::{BatchTime, Controller, Event, ReceiverId};

use super::engine::Partition;
use super::master::{Cut, Master};
use super::receiver::Receiver;
use super::{Item, MASTERS, World};
use crate::disk::{Journal, decide};
use crate::ledger::Fact;
use crate::plan::{INTERVAL_MS, INTERVAL_US, OUTPUTS, PARTITIONS};
use crate::sabotage::Fault;

impl World {
    /// The process of the master ends; perhaps with the power of all machines.
    pub(super) fn end_master(&mut self, power: bool) {
        let Some(master) = self.master.take() else {
            return;
        };
        self.tally.add("master killed");
        if master.controller.is_none() {
            self.tally.add("master killed before it went on");
            if !master.replaying.is_empty() {
                self.tally.add("master killed while it replayed");
            }
        }
        if master.writing.is_some() {
            self.tally.add("master killed with a checkpoint under way");
        }
        if !master.leaving.is_empty() {
            self.tally
                .add("master killed with a ReceiverLost not synced");
        }
        let outputs = &self.judge.ledger.outputs;
        let half = |batch| {
            let there = (0..OUTPUTS).filter(|output| outputs.contains_key(&(*output, batch)));
            (1..OUTPUTS).contains(&there.count())
        };
        if master.cuts.keys().any(|batch| half(*batch)) {
            self.tally.add("master killed between two outputs");
        }
        self.master_is_gone();
        if power {
            self.tally.add("power lost");
            for worker in 0..self.workers.len() {
                if self.workers[worker].alive {
                    self.end_worker(worker, false);
                }
            }
            for journal in 0..self.journals.len() {
                self.lose_power(journal);
            }
            while self.checkpoints.last().is_some_and(|it| !it.durable) && self.rng.chance(500) {
                self.checkpoints.pop();
                self.tally.add("checkpoint lost with the power");
            }
        }
    }

    /// A graceful stop has ended: everything appended is synced.
    pub(super) fn stopped(&mut self) {
        self.tally.add("master stopped");
        self.sync(MASTERS);
        self.master = None;
        self.master_is_gone();
    }

    fn master_is_gone(&mut self) {
        self.journals[MASTERS].ends();
        self.receivers
            .retain(|_, receiver| receiver.worker.is_some());
        for worker in &mut self.workers {
            worker.linked = false;
        }
        let mut after = self.rng.below(INTERVAL_US);
        let skips = self.plan.control.skip_missed.is_some();
        if skips && self.rng.chance(self.rates.long_down) {
            let down = self.rng.below(30 * INTERVAL_US);
            after += down;
            // No less happens before and after it.
            self.plan.chaos_us += down;
            self.tally.add("master was down for long");
        }
        self.push(after, Item::Begin);
    }

    /// A process begins and reads the disks. No other process writes to journals any more: they are locked.
    pub(super) fn begin(&mut self) {
        if self.master.is_some() {
            return;
        }
        for worker in 0..self.workers.len() {
            if self.workers[worker].alive {
                self.tally.add("worker lived until its journal was read");
                if self.faults.on(Fault::WrittenWhenRead) {
                    continue;
                }
                self.end_worker(worker, false);
            }
        }
        if !self.faults.on(Fault::ReadNotSynced) {
            for journal in &mut self.journals {
                self.judge.ledger.synced(journal.sync());
            }
        }
        let blind = self.faults.on(Fault::GoneNotRead);
        let lines = self.journals.iter().flat_map(Journal::kept);
        let lines =
            lines.filter(|line| !(blind && matches!(line.entry, Entry::ReceiverLost { .. })));
        let decided = decide(self.checkpoints.last(), lines);
        self.fact(Fact::Restart(&decided));
        let Ok(restart) = decided else { return };
        self.note(&restart);
        let retention = JournalRetention::after(&restart, 0);
        let restart = self.spoil(restart);
        let master = self.process(restart, retention);
        let (life, incarnation) = (master.life, master.incarnation);
        self.master = Some(master);
        let opened = self.append_entry(MASTERS, Entry::Opened { incarnation });
        for input in 0..self.plan.inputs {
            let Some(master) = &mut self.master else {
                return;
            };
            master.opened = opened;
            let id = ReceiverId(master.next_receiver);
            master.next_receiver += 1;
            master.members.insert(id);
            self.receivers
                .insert(id, Receiver::new(id, input, None, MASTERS));
        }
        let after = self.takes();
        self.push(after, Item::Replay(life));
    }

    fn note(&mut self, restart: &Restart) {
        let happened = [
            ("restart from a checkpoint", !self.checkpoints.is_empty()),
            (
                "restart with batches to replay",
                !restart.committed.is_empty(),
            ),
            (
                "restart with pending batches",
                !restart.controller.pending.is_empty(),
            ),
            (
                "restart with uncut blocks",
                !restart.controller.uncut.is_empty(),
            ),
            (
                "restart with a batch that was set aside",
                !restart.controller.set_aside.is_empty(),
            ),
            (
                "restart with a ReceiverLost",
                !restart.lost_receivers.is_empty(),
            ),
            ("restart with a skip", !restart.skipped.is_empty()),
        ];
        for (what, _) in happened.into_iter().filter(|(_, happened)| *happened) {
            self.tally.add(what);
        }
        let pending = &restart.controller.pending;
        let outputs = &self.judge.ledger.outputs;
        if pending
            .iter()
            .any(|(batch, _)| outputs.contains_key(&(0, *batch)))
        {
            self.tally
                .add("restart with a batch that took effect unknown to it");
        }
    }

    /// Errors that a restart may make.
    fn spoil(&mut self, mut restart: Restart) -> Restart {
        let controller = &mut restart.controller;
        if self.faults.on(Fault::MarksForgotten) {
            restart.offsets.clear();
        }
        if self.faults.on(Fault::UncutForgotten) {
            controller.uncut.clear();
        }
        if self.faults.on(Fault::PendingForgotten) {
            controller.pending.clear();
        }
        if self.faults.on(Fault::PendingCutAgain) {
            let pending = std::mem::take(&mut controller.pending);
            controller
                .uncut
                .extend(pending.into_iter().flat_map(|(_, blocks)| blocks));
            controller.last_cut = controller.last_committed;
        }
        if self.faults.on(Fault::LastCutForgotten) {
            controller.last_cut = None;
        }
        if self.faults.on(Fault::SetAsideForgotten) {
            controller.set_aside.clear();
        }
        if !restart.skipped.is_empty() && self.faults.on(Fault::SkipForgotten) {
            restart.skipped.clear();
        }
        if !restart.committed.is_empty() && self.faults.on(Fault::BatchNotReplayed) {
            restart.committed.remove(0);
        }
        restart
    }

    fn process(&mut self, restart: Restart, retention: JournalRetention<u64>) -> Master {
        self.lives += 1;
        let newest = self.checkpoints.last();
        let version = newest.map(|checkpoint| checkpoint.point.batch);
        let state = |at: usize| newest.map_or(0, |checkpoint| checkpoint.states[at]);
        let partition = |at| Partition {
            version,
            state: state(at),
        };
        let incarnation = u32::try_from(restart.incarnation).unwrap();
        let inputs = if self.plan.cluster {
            1_000
        } else {
            self.plan.inputs
        };
        let known = restart.offsets.iter();
        let old = 1..self.journals.len();
        Master {
            life: self.lives,
            incarnation: restart.incarnation,
            opened: 0,
            controller: None,
            wakes: 0,
            retention,
            old: old
                .map(|journal| (journal, self.retention_of(journal)))
                .collect(),
            last_cut: restart.controller.last_cut,
            skipped: restart.skipped,
            restored: restart.controller,
            replaying: restart.committed.into(),
            partitions: std::array::from_fn::<_, PARTITIONS, _>(partition),
            cuts: BTreeMap::new(),
            checkpoint_offsets: restart.checkpoint_offsets,
            known: known
                .map(|((_, name), last)| (name.parse().unwrap(), *last))
                .collect(),
            heard: BTreeMap::new(),
            members: BTreeSet::new(),
            next_receiver: u64::from(incarnation * inputs),
            owners: BTreeMap::new(),
            revoking: BTreeSet::new(),
            claims: BTreeMap::new(),
            leaving: Vec::new(),
            since: 0,
            writing: None,
        }
    }

    /// One more committed batch runs for its state alone; after the last the program resumes.
    pub(super) fn replay(&mut self) {
        let Some(master) = &mut self.master else {
            return;
        };
        let life = master.life;
        let Some((batch, blocks)) = master.replaying.pop_front() else {
            return self.go_on();
        };
        let records = match master.restored.set_aside.contains(&batch) {
            true => Vec::new(),
            false => self.judge.ledger.records_of(&blocks),
        };
        let after = master.skipped.get(&batch).copied();
        let after = after.unwrap_or(BatchTime(batch.0 - INTERVAL_MS));
        let version = master.partitions[0].version;
        self.fact(Fact::Follows { after, version });
        let Some(master) = &mut self.master else {
            return;
        };
        let times = if self.faults.on(Fault::BatchReplayedTwice) {
            2
        } else {
            1
        };
        for (at, partition) in master.partitions.iter_mut().enumerate() {
            (0..times).for_each(|_| partition.install(at, batch, &records));
        }
        let ids: Vec<_> = blocks.iter().map(|block| block.id).collect();
        self.mark(&ids);
        let after = self.takes();
        self.push(after, Item::Replay(life));
    }

    fn go_on(&mut self) {
        let states = self.states();
        let Some(master) = &mut self.master else {
            return;
        };
        let restored = std::mem::take(&mut master.restored);
        let batch = restored.last_committed;
        for (batch, blocks) in &restored.pending {
            let blocks = blocks.clone();
            let cut = Cut {
                blocks,
                at: None,
                attempt: 0,
                waits: false,
                set_aside: restored.set_aside.contains(batch).then_some(0),
                committing: restored.committing.contains(batch),
            };
            master.cuts.insert(*batch, cut);
        }
        master.controller = Some(Controller::restored(self.plan.control.clone(), restored));
        let receivers = master.members.iter().copied().collect();
        self.fact(Fact::Replayed { batch, states });
        self.step(Event::Start { receivers });
        for _ in 0..self.plan.workers {
            let after = self.takes();
            self.push(after, Item::Join);
        }
    }
}
