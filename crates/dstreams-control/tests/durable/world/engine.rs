//! The model of an engine and its sinks: attempts that install a batch's changes in each partition, and fail;
//! outputs that take effect one after the other.

use std::rc::Rc;

use dstreams_control::durable::Entry;
use dstreams_control::{BatchTime, Event};

use super::{Item, MASTERS, World};
use crate::ledger::{Effect, Fact, States, fold};
use crate::plan::{INTERVAL_US, OUTPUTS, PARTITIONS};
use crate::sabotage::Fault;

/// The state of a partition.
#[derive(Copy, Clone, Default)]
pub struct Partition {
    /// The last batch that was installed.
    pub version: Option<BatchTime>,
    pub state: u64,
}

impl Partition {
    pub fn install(&mut self, at: usize, batch: BatchTime, records: &[(usize, u64)]) {
        self.state = fold(at, self.state, batch, records);
        self.version = Some(batch);
    }
}

/// An install of a task.
#[derive(Clone, Debug)]
pub struct Install {
    partition: usize,
    batch: BatchTime,
    attempt: u32,
    records: Rc<Vec<(usize, u64)>>,
}

impl World {
    /// An attempt runs, when the batch before has taken effect.
    pub(super) fn compute(&mut self, batch: BatchTime, attempt: u32) {
        let Some(master) = &self.master else { return };
        let life = master.life;
        let Some(cut) = master.cuts.get(&batch).filter(|cut| cut.attempt == attempt) else {
            return;
        };
        if master.cuts.keys().next() != Some(&batch) {
            self.tally.add("batch waited for the one before");
            return self.push(INTERVAL_US / 10, Item::Compute(life, batch, attempt));
        }
        let records = match cut.set_aside {
            Some(_) => Vec::new(),
            None => self.judge.ledger.records_of(&cut.blocks),
        };
        // If it may have taken effect, only a sink can fail, and only for a time.
        let for_good = cut.set_aside.is_none()
            && !cut.committing
            && self.rng.chance(self.rates.run_fails_for_good);
        let records = Rc::new(records);
        let fails = for_good || self.rng.chance(self.rates.run_fails);
        for partition in 0..PARTITIONS {
            if fails && self.rng.chance(500) {
                continue;
            }
            let records = Rc::clone(&records);
            let install = Install {
                partition,
                batch,
                attempt,
                records,
            };
            let after = self.takes();
            self.push(after, Item::Install(life, install.clone()));
            if self.rng.chance(self.rates.repeated) {
                let after = self.rng.below(3 * INTERVAL_US);
                self.push(after, Item::Install(life, install));
            }
        }
        if fails {
            self.tally.add("run failed");
            let event = Event::Failed {
                batch,
                attempt,
                retryable: !for_good,
                of_batch: true,
            };
            let after = self.rng.below(INTERVAL_US / 10);
            self.tell_controller(after, event);
        }
    }

    pub(super) fn install(&mut self, install: Install) {
        let Some(master) = &mut self.master else {
            return;
        };
        let Install {
            partition: at,
            batch,
            attempt,
            records,
        } = install;
        let set_aside = master.cuts.get(&batch).and_then(|cut| cut.set_aside);
        if set_aside >= Some(attempt) {
            return self.tally.add("install of what was set aside");
        }
        let partition = &mut master.partitions[at];
        if partition.version < Some(batch) {
            if self.faults.on(Fault::InstallForgotten) {
                partition.version = Some(batch);
            } else {
                partition.install(at, batch, &records);
            }
        } else if partition.version == Some(batch) {
            self.tally.add("install came again");
            if self.faults.on(Fault::InstalledTwice) {
                partition.install(at, batch, &records);
            }
        } else {
            self.tally.add("install came after the next");
        }
        let done = master.partitions.iter().all(|it| it.version >= Some(batch));
        let current = master
            .cuts
            .get(&batch)
            .is_some_and(|cut| cut.attempt == attempt);
        if done && current {
            self.tell_controller(0, Event::Finished { batch, attempt });
        }
    }

    /// The records of a batch are set aside, and the state is as it was before.
    pub(super) fn set_aside(&mut self, batch: BatchTime, attempt: u32) {
        let ledger = &self.judge.ledger;
        let before = ledger.states_before(batch);
        let version = ledger.visible.range(..batch).next_back();
        let version = version.map(|(batch, _)| *batch);
        let Some(cut) = self.master.as_ref().and_then(|it| it.cuts.get(&batch)) else {
            return;
        };
        let records = self.judge.ledger.records_of(&cut.blocks);
        self.append_entry(MASTERS, Entry::SetAside { batch });
        if !self.faults.on(Fault::SetAsideNotSynced) {
            self.sync(MASTERS);
        }
        self.fact(Fact::SetAside { batch, records });
        self.tally.add("batch set aside");
        self.delicate = true;
        let undo = !self.faults.on(Fault::SetAsideNotUndone);
        let Some(master) = &mut self.master else {
            return;
        };
        if let Some(cut) = master.cuts.get_mut(&batch) {
            cut.set_aside = Some(attempt);
        }
        for (at, partition) in master.partitions.iter_mut().enumerate() {
            if undo && partition.version == Some(batch) {
                partition.version = version;
                partition.state = before[at];
                self.tally.add("install undone");
            }
        }
        self.tell_controller(0, Event::SetAside { batch });
    }

    pub(super) fn states(&self) -> States {
        let partitions = self.master.as_ref().map(|master| master.partitions);
        partitions.map_or(States::default(), |of| of.map(|partition| partition.state))
    }

    pub(super) fn effect(&mut self, batch: BatchTime, output: usize) {
        let states = self.states();
        let Some(master) = &self.master else { return };
        let (life, Some(cut)) = (master.life, master.cuts.get(&batch)) else {
            return;
        };
        let failed = Event::CommitFailed {
            batch,
            retryable: true,
        };
        if self.rng.chance(self.rates.commit_fails) {
            self.tally.add("commit failed, without effect");
            return self.tell_controller(0, failed);
        }
        let journal = &self.journals[MASTERS];
        self.delicate = !journal.is_synced(journal.end());
        let blocks = cut.blocks.clone();
        let records = match cut.set_aside {
            Some(_) => Vec::new(),
            None => self.judge.ledger.records_of(&blocks),
        };
        let there = self.judge.ledger.outputs.contains_key(&(output, batch));
        if there {
            self.tally.add("output committed again");
        }
        let differs = self.faults.on(Fault::OutputDiffers);
        let content = states
            .iter()
            .fold(output as u64, |content, state| content ^ state)
            ^ if differs { self.judge.steps } else { 0 };
        let effect = Effect {
            output,
            batch,
            records,
            blocks: &blocks,
            content,
            states,
            put: !there || self.faults.on(Fault::CommittedTwice),
        };
        self.fact(Fact::Effect(effect));
        if self.rng.chance(self.rates.commit_fails) {
            self.tally.add("commit failed, with effect");
            self.tell_controller(0, failed);
        } else if output + 1 < OUTPUTS {
            let after = self.takes();
            self.push(after, Item::Effect(life, batch, output + 1));
        } else {
            let after = self.rng.below(INTERVAL_US / 20);
            self.tell_controller(after, Event::Committed { batch });
        }
    }
}
