//! State for the run of a batch: up-to-date primaries, and standbys that follow.

use std::collections::{BTreeSet, HashMap};

use dstreams::internal::{Step, Template};
use dstreams_control::BatchTime;
use dstreams_control::cluster::WorkerId;

use super::batch::Remote;
use super::hub::{Holders, Hub};
use crate::link::ToWorker;
use crate::plan::{Gate, Shape};
use crate::worker::engine_name;

/// The workers at the start of a run.
pub struct Snapshot {
    /// Their names in the engine, by address.
    pub names: HashMap<String, String>,
    /// Their addresses, by name in the engine.
    pub addresses: HashMap<String, String>,
    pub holders: Vec<Holders>,
    /// Number of times that the states had been rebuilt.
    pub era: u32,
}

impl Snapshot {
    /// A primary that has been lost.
    pub fn lost_holder(&self, hub: &Hub) -> Option<WorkerId> {
        let mut holders = self.holders.iter().map(|of| of.holder);
        holders.find(|holder| !hub.has(*holder))
    }
}

impl Remote {
    /// Waits for at least one worker, and for a primary of each partition with all committed batches and the state as
    /// of `batch`.
    pub async fn snapshot(&self, batch: Option<BatchTime>) -> Snapshot {
        // Before the first batch there is none.
        let batch = batch.filter(|batch| batch.millis() > 0);
        let partitions = if self.has_state() {
            self.plans.tasks
        } else {
            0
        };
        self.hub
            .until(|hub| {
                let era = hub.era();
                let workers = hub.workers();
                let joined = workers.iter().filter(|(_, worker)| worker.joined);
                let joined = joined.map(|(id, w)| (engine_name(id.0), w.address.clone()));
                let addresses: HashMap<_, _> = joined.collect();
                let holders: Option<Vec<_>> = hub.holders(partitions).into_iter().collect();
                let holders = holders?;
                // A standby that took over must have all committed batches first.
                let wanted = self.committed().max(batch);
                let up_to_date =
                    |(partition, of): (u32, &Holders)| hub.version(of.holder, partition) >= wanted;
                if addresses.is_empty() || !(0..).zip(&holders).all(up_to_date) {
                    return None;
                }
                let names = addresses
                    .iter()
                    .map(|(name, at)| (at.clone(), name.clone()));
                Some(Snapshot {
                    names: names.collect(),
                    holders,
                    addresses,
                    era,
                })
            })
            .await
    }

    /// Opens the gate once the previous batch has committed and its deltas are on the primaries. Not sooner:
    /// a retry of that batch would find a state that this one has changed. Returns `false` if a primary has
    /// changed, so that the old one may never have the deltas, or if the states were rebuilt since.
    pub async fn open_gate(
        &self,
        gate: &Gate,
        after: Option<BatchTime>,
        snapshot: &Snapshot,
    ) -> bool {
        let holders = &snapshot.holders;
        let all_there = |hub: &Hub| {
            let mut all = (0..).zip(holders);
            // A checkpoint must see the state as of the previous batch, and no later one.
            let stays = !hub.checkpoints.is_taking();
            stays
                && self.committed() >= after
                && all.all(|(p, of)| hub.version(of.holder, p) >= after)
        };
        if all_there(&self.hub) {
            gate.open();
            return true;
        }
        let there = self.hub.until(|hub| {
            if all_there(hub) {
                return Some(true);
            }
            let now = hub.holders(holders.len());
            let stays = |(now, then): (&Option<Holders>, &Holders)| {
                now.is_some_and(|now| now.holder == then.holder)
            };
            let all_stay = now.iter().zip(holders).all(stays) && hub.era() == snapshot.era;
            (!all_stay).then_some(false)
        });
        let there = there.await;
        if there {
            gate.open();
            self.engine.wake().await;
        }
        there
    }

    /// Records that the primaries have installed the batch, and makes the standbys install it.
    pub async fn install(
        &self,
        batch: BatchTime,
        attempt: u32,
        states: &[(usize, usize)],
        snapshot: &Snapshot,
    ) {
        for (partition, ran) in (0u32..).zip(&snapshot.holders) {
            self.hub.installed(ran.holder, partition, batch, None);
        }
        // By what is committed, and not by what the holder had: when the batch runs again, that has it already.
        let complete = |hub: &Hub, worker, partition: u32| {
            hub.has_all(worker, partition) && !hub.is_behind(worker, partition)
        };
        let mut told = BTreeSet::new();
        let mut waiting = BTreeSet::new();
        // A standby that is still receiving the whole state catches up by itself; a lost one never will.
        self.hub
            .until(|hub| {
                let now = hub.holders(snapshot.holders.len());
                // Not only those of the snapshot, or of the first look: a primary that took over meanwhile does not
                // have the batch yet, and sends its state to new standbys without it.
                let others: BTreeSet<_> = others(&snapshot.holders, &now).collect();
                for &(partition, other) in others.difference(&told) {
                    let ran = snapshot.holders[partition as usize].holder;
                    let Some(from) = snapshot.addresses.get(&engine_name(ran.0)) else {
                        continue;
                    };
                    let install = ToWorker::Install {
                        batch,
                        attempt,
                        partition,
                        states: states.to_vec(),
                        from: from.clone(),
                    };
                    let complete = complete(hub, other, partition);
                    hub.say(other, &install);
                    let holder = now[partition as usize].as_ref().map(|now| now.holder);
                    if complete || holder == Some(other) {
                        waiting.insert((partition, other));
                    }
                }
                told = others;
                let workers = hub.workers();
                let lacks = |worker, partition| {
                    hub.version(worker, partition) < Some(batch)
                        && workers.contains_key(&worker)
                        && !hub.is_behind(worker, partition)
                };
                let done = waiting
                    .iter()
                    .all(|(partition, other)| !lacks(*other, *partition));
                // One that has become standby since, with all up to the batch before, is needed with this one: the
                // standby before may be gone.
                let standbys = now.iter().map(|of| of.as_ref().and_then(|of| of.standby));
                let followed = (0u32..).zip(standbys).all(|(partition, standby)| {
                    standby.is_none_or(|standby| {
                        !complete(hub, standby, partition) || !lacks(standby, partition)
                    })
                });
                (done && followed).then_some(())
            })
            .await;
    }

    /// The slots of deltas of states, in both templates.
    pub fn changes(&self) -> Vec<usize> {
        let templates = [false, true].map(|many| self.plans.of(many));
        let steps = templates.into_iter().flat_map(|it| &it.steps);
        let slots = steps.filter_map(|step| match step {
            Step::State(step) => Some(step.from.0),
            Step::Run(_) => None,
        });
        slots.collect()
    }

    /// A partition whose primary will never have all committed batches.
    pub fn stuck(&self, hub: &Hub) -> Option<u32> {
        let committed = self.committed();
        let holders = hub.holders(self.plans.tasks);
        let mut all = (0..).zip(holders);
        let stuck = all.find(|(partition, of)| {
            of.is_some_and(|of| {
                hub.is_behind(of.holder, *partition)
                    && hub.version(of.holder, *partition) < committed
            })
        });
        stuck.map(|(partition, _)| partition)
    }
}

/// The workers with a role in each partition now, except for the one that was the primary at the start.
fn others<'a>(
    ran: &'a [Holders],
    now: &'a [Option<Holders>],
) -> impl Iterator<Item = (u32, WorkerId)> + 'a {
    let both = (0u32..).zip(ran).zip(now);
    both.flat_map(|((partition, ran), now)| {
        let now = now.iter().flat_map(|now| {
            let others = [now.standby, now.next].into_iter().flatten();
            others.chain([now.holder])
        });
        let others = now.filter(|other| *other != ran.holder);
        others.map(move |other| (partition, other))
    })
}

/// The states that a batch changes, and the slots of the deltas.
pub fn states(template: &Template, shape: &Shape) -> Vec<(usize, usize)> {
    let states = template.steps.iter().filter_map(|step| match step {
        Step::State(step) => Some((step.state, step.from.0)),
        Step::Run(_) => None,
    });
    states
        .filter(|(_, from)| shape.makers[*from].is_some())
        .collect()
}
