//! [`BatchStates`]: state for the run of a batch: up-to-date primaries, and standbys that follow.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dstreams::Error;
use dstreams::internal::{Plans, PreviousBatch, Step, Template};
use dstreams_control::BatchTime;
use dstreams_control::cluster::WorkerId;
use tokio::time::timeout;

use super::cluster_state::{Assignment, ClusterState};
use super::hub::Hub;
use super::state_versions::lost_state;
use crate::execute::ClusterEngine;
use crate::link::ToWorker;
use crate::plan::{Gate, Shape};
use crate::retry::retryable;
use crate::worker::engine_name;

/// How long a batch waits before the log says for what, the first time and later.
const FIRST_WARNING: Duration = Duration::from_secs(10);
const LATER_WARNINGS: Duration = Duration::from_secs(300);

/// The workers at the start of a run.
pub struct Snapshot {
    /// Their names in the engine, by address.
    pub names: HashMap<String, String>,
    /// Their addresses, by name in the engine.
    pub addresses: HashMap<String, String>,
    pub assignments: Vec<Assignment>,
    /// The copies of the state with which the primaries began.
    copies: Vec<u64>,
    /// Number of times that the states had been rebuilt.
    pub era: u32,
}

impl Snapshot {
    /// A primary that has been lost.
    pub fn lost_primary(&self, state: &ClusterState) -> Option<WorkerId> {
        let mut primaries = self.assignments.iter().map(|of| of.primary);
        primaries.find(|primary| !state.roster.contains(*primary))
    }

    /// Whether all partitions are still where they were, and the state was not rebuilt since.
    fn is_current(&self, state: &ClusterState) -> bool {
        let now = state.assignments(self.assignments.len());
        let stays = |(now, then): (Option<Assignment>, &Assignment)| {
            now.is_some_and(|now| now.primary == then.primary)
        };
        state.versions.era() == self.era && now.zip(&self.assignments).all(stays)
    }

    /// Whether what ran on the primaries is in the states that they have: these were neither rebuilt nor copied to them
    /// again since.
    fn is_of_its_states(&self, state: &ClusterState) -> bool {
        let all = (0u32..).zip(&self.assignments);
        let copies = all.map(|(partition, of)| state.versions.copy(of.primary, partition));
        state.versions.era() == self.era && copies.eq(self.copies.iter().copied())
    }

    /// Fails if a partition has moved, or the state was lost or rebuilt since: what was read may be of another version.
    pub fn check(&self, state: &ClusterState) -> Result<(), Error> {
        match self.is_current(state) && !state.versions.recovery.is_lost() {
            true => Ok(()),
            false => Err(retryable(
                "a partition of the state has moved, or was rebuilt",
            )),
        }
    }
}

/// Why no batch can run.
#[derive(Debug)]
enum Missing {
    Worker,
    State,
    Primary(u32),
    Restored(u32),
    Version {
        partition: u32,
        primary: WorkerId,
        version: Option<BatchTime>,
        wanted: Option<BatchTime>,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |batch: &Option<BatchTime>| batch.unwrap_or(BatchTime(0));
        match self {
            Missing::Worker => f.write_str("no worker has joined"),
            Missing::State => f.write_str("lost state is not rebuilt yet"),
            Missing::Primary(partition) => {
                write!(f, "no worker has partition {partition} of the state")
            }
            Missing::Restored(partition) => {
                write!(f, "partition {partition} of the state is not restored yet")
            }
            Missing::Version {
                partition,
                primary,
                version,
                wanted,
            } => write!(
                f,
                "worker {primary} has partition {partition} of the state as of batch {}, not yet as of batch {}",
                time(version),
                time(wanted)
            ),
        }
    }
}

/// The state of the program on the workers, and the newest committed batch.
pub struct BatchStates {
    pub hub: Arc<Hub>,
    pub plans: Arc<Plans>,
    /// The newest committed batch. A later one that was already installed can run again on a state without it.
    committed: Mutex<Option<BatchTime>>,
}

impl BatchStates {
    /// The states as of a committed batch, if there is one.
    pub fn new(hub: &Arc<Hub>, plans: &Arc<Plans>, committed: Option<BatchTime>) -> Self {
        BatchStates {
            hub: Arc::clone(hub),
            plans: Arc::clone(plans),
            committed: Mutex::new(committed),
        }
    }

    /// Whether the program has state.
    pub fn any(&self) -> bool {
        !self.plans.states.is_empty()
    }

    /// The number of partitions of state; 0 without state.
    pub fn partitions(&self) -> usize {
        if self.any() { self.plans.tasks } else { 0 }
    }

    pub fn committed(&self) -> Option<BatchTime> {
        *self.lock()
    }

    /// Sets the newest committed batch, and returns the one before. Those who wait for it are not woken.
    pub fn commit(&self, batch: Option<BatchTime>) -> Option<BatchTime> {
        std::mem::replace(&mut *self.lock(), batch)
    }

    fn lock(&self) -> MutexGuard<'_, Option<BatchTime>> {
        let committed = self.committed.lock();
        committed.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for at least one worker, and for a primary of each partition with all committed batches and the state as
    /// of `batch`.
    pub async fn snapshot(&self, batch: Option<BatchTime>) -> Snapshot {
        let (began, mut patience) = (Instant::now(), FIRST_WARNING);
        let mut there = pin!(self.hub.until(|state| self.try_snapshot(state, batch).ok()));
        loop {
            if let Ok(snapshot) = timeout(patience, &mut there).await {
                return snapshot;
            }
            patience = (patience * 2).min(LATER_WARNINGS);
            if let Err(missing) = self.try_snapshot(&self.hub.lock(), batch) {
                let waited = began.elapsed();
                tracing::warn!(%missing, ?waited, "batches wait");
            }
        }
    }

    fn try_snapshot(
        &self,
        state: &ClusterState,
        batch: Option<BatchTime>,
    ) -> Result<Snapshot, Missing> {
        // What a worker reported before may be released: all of it is void.
        if state.versions.recovery.is_lost() {
            return Err(Missing::State);
        }
        if state.roster.joined().next().is_none() {
            return Err(Missing::Worker);
        }
        // A standby that took over must have all committed batches first. Before the first batch there is none.
        let wanted = self.committed().max(batch);
        let wanted = wanted.filter(|batch| batch.millis() > 0);
        let mut assignments = Vec::with_capacity(self.partitions());
        let mut copies = Vec::with_capacity(self.partitions());
        for (partition, assignment) in (0..).zip(state.assignments(self.partitions())) {
            let of = assignment.ok_or(Missing::Primary(partition))?;
            if state.versions.is_restoring(partition) {
                return Err(Missing::Restored(partition));
            }
            let version = state.versions.version(of.primary, partition);
            if version < wanted {
                return Err(Missing::Version {
                    partition,
                    primary: of.primary,
                    version,
                    wanted,
                });
            }
            copies.push(state.versions.copy(of.primary, partition));
            assignments.push(of);
        }
        let joined = state.roster.joined();
        let joined = joined.map(|(id, w)| (engine_name(id.0), w.address.clone()));
        let addresses: HashMap<_, _> = joined.collect();
        let names = addresses
            .iter()
            .map(|(name, at)| (at.clone(), name.clone()));
        Ok(Snapshot {
            names: names.collect(),
            assignments,
            copies,
            addresses,
            era: state.versions.era(),
        })
    }

    /// Opens the gate once the previous batch has committed and its deltas are on the primaries. Not sooner:
    /// a retry of that batch would find a state that this one has changed. Returns `false` if a primary has
    /// changed, so that the old one may never have the deltas, or if the states were rebuilt since.
    pub async fn open_gate(
        &self,
        (gate, engine): (&Gate, &ClusterEngine),
        after: Option<BatchTime>,
        snapshot: &Snapshot,
    ) -> bool {
        let assignments = &snapshot.assignments;
        let all_there = |state: &ClusterState| {
            let mut all = (0..).zip(assignments);
            // A checkpoint must see the state as of the previous batch, and no later one.
            let stays = !state.round.is_taking();
            stays
                && self.committed() >= after
                && all.all(|(p, of)| state.versions.version(of.primary, p) >= after)
        };
        if all_there(&self.hub.lock()) {
            gate.open();
            return true;
        }
        let there = self.hub.until(|state| {
            if all_there(state) {
                return Some(true);
            }
            (!snapshot.is_current(state)).then_some(false)
        });
        let there = there.await;
        if there {
            gate.open();
            engine.wake().await;
        }
        there
    }

    /// Records that the primaries have installed the batch, makes the standbys install it, and waits for those that
    /// had all batches before. Fails if the states were rebuilt since the snapshot: what this run has changed is gone; or if
    /// a worker that has become a primary since did not get the batch: it must run there.
    pub async fn install(
        &self,
        (batch, before, attempt): (BatchTime, Option<PreviousBatch>, u32),
        states: &[(usize, usize)],
        snapshot: &Snapshot,
    ) -> Result<(), Error> {
        self.ran(batch, snapshot, |_| true)?;
        let (mut told, mut waiting) = (BTreeSet::new(), Vec::new());
        // A standby that is still receiving the whole state catches up by itself; a lost one never will.
        self.hub
            .until(|state| {
                if !snapshot.is_of_its_states(state) {
                    return Some(Err(other_states(batch)));
                }
                waiting.extend(send_installs(
                    state,
                    (batch, before, attempt),
                    states,
                    snapshot,
                    &mut told,
                ));
                let lacks = |worker, partition| {
                    state.versions.version(worker, partition) < Some(batch)
                        && state.roster.contains(worker)
                        && !state.versions.is_behind(worker, partition)
                };
                let done = waiting
                    .iter()
                    .all(|(partition, other)| !lacks(*other, *partition));
                let now = state.assignments(snapshot.assignments.len());
                let mut followed = true;
                for (partition, of) in (0u32..).zip(now) {
                    let Some(of) = of else { continue };
                    let missed = state.versions.is_behind(of.primary, partition);
                    if missed && state.versions.version(of.primary, partition) < Some(batch) {
                        return Some(Err(missed_by_primary(partition, batch)));
                    }
                    // One that has become standby since, with all up to the batch before, is needed with this one: the
                    // standby before may be gone.
                    followed &= of.standby.is_none_or(|standby| {
                        !state.is_complete(standby, partition) || !lacks(standby, partition)
                    });
                }
                (done && followed).then_some(Ok(()))
            })
            .await
    }

    /// Records that the primaries of lost partitions have a batch again. No standby needs its changes: it gets a copy of the
    /// state once that is rebuilt.
    pub fn rebuilt(&self, batch: BatchTime, snapshot: &Snapshot) -> Result<(), Error> {
        self.ran(batch, snapshot, |version| version < Some(batch))
    }

    /// Records that the primaries have a batch, those whose version is `behind`. Fails if the states were rebuilt since the
    /// snapshot, or a primary has got another copy of the state: what this run has changed is gone.
    fn ran(
        &self,
        batch: BatchTime,
        snapshot: &Snapshot,
        behind: impl Fn(Option<BatchTime>) -> bool,
    ) -> Result<(), Error> {
        let current = self.hub.change(|state| {
            let current = snapshot.is_of_its_states(state);
            for (partition, of) in (0u32..).zip(&snapshot.assignments).filter(|_| current) {
                if behind(state.versions.version(of.primary, partition)) {
                    state.installed(of.primary, partition, batch, None);
                }
            }
            current
        });
        current.then_some(()).ok_or_else(|| other_states(batch))
    }

    /// Has workers release what a committed batch has left, but for the changes that standbys still need.
    pub fn forget(&self, batch: BatchTime) {
        let but = self.hub.lock().machine().missing_changes();
        let slots = match but.is_empty() {
            true => Vec::new(),
            false => self.changes(),
        };
        self.hub.broadcast(&ToWorker::Forget { batch, but, slots });
    }

    /// The slots of deltas of states, in both templates.
    fn changes(&self) -> Vec<usize> {
        let templates = [false, true].map(|many| self.plans.of(many));
        let steps = templates.into_iter().flat_map(|it| &it.steps);
        let slots = steps.filter_map(|step| match step {
            Step::State(step) => Some(step.from.0),
            Step::Run(_) | Step::Probe(_) => None,
        });
        slots.collect()
    }

    /// Why lost state ends the program, if it does: nothing can make up for it.
    pub fn lost_for_good(&self, state: &ClusterState) -> Option<Error> {
        let lost = self.stuck(state).filter(|_| !state.versions.recoverable);
        lost.map(lost_state)
    }

    /// A partition whose primary will never have all committed batches.
    pub fn stuck(&self, state: &ClusterState) -> Option<u32> {
        let committed = self.committed();
        let assignments = state.assignments(self.partitions());
        let mut all = (0..).zip(assignments);
        let stuck = all.find(|(partition, of)| {
            of.is_some_and(|of| {
                state.versions.is_behind(of.primary, *partition)
                    && state.versions.version(of.primary, *partition) < committed
            })
        });
        stuck.map(|(partition, _)| partition)
    }
}

fn other_states(batch: BatchTime) -> Error {
    retryable(format!(
        "states were rebuilt or moved since this run of batch {batch} began"
    ))
}

fn missed_by_primary(partition: u32, batch: BatchTime) -> Error {
    retryable(format!(
        "the new primary of partition {partition} of the state did not get the changes of batch {batch}"
    ))
}

/// The states that a batch changes, and the slots of the deltas.
pub fn states(template: &Template, shape: &Shape) -> Vec<(usize, usize)> {
    let states = template.steps.iter().filter_map(|step| match step {
        Step::State(step) => Some((step.state, step.from.0)),
        Step::Run(_) | Step::Probe(_) => None,
    });
    states
        .filter(|(_, from)| shape.makers[*from].is_some())
        .collect()
}

/// Makes the others with a part in the state install a batch from its primaries, where `told` does not contain them.
/// Returns those that must.
fn send_installs(
    state: &ClusterState,
    (batch, before, attempt): (BatchTime, Option<PreviousBatch>, u32),
    states: &[(usize, usize)],
    snapshot: &Snapshot,
    told: &mut BTreeSet<(u32, WorkerId)>,
) -> Vec<(u32, WorkerId)> {
    let (mut waiting, known) = (Vec::new(), std::mem::take(told));
    // Not only those of the snapshot, or of the first look: a primary that took over meanwhile does not have the batch
    // yet, and sends its state to new standbys without it.
    let now = state.assignments(snapshot.assignments.len());
    for ((partition, ran), now) in (0u32..).zip(&snapshot.assignments).zip(now) {
        let name = engine_name(ran.primary.0);
        let (Some(now), Some(from)) = (now, snapshot.addresses.get(&name)) else {
            continue;
        };
        let others = [Some(now.primary), now.standby, now.next];
        let others = others.into_iter().flatten();
        for other in others.filter(|other| *other != ran.primary) {
            told.insert((partition, other));
            if known.contains(&(partition, other)) {
                continue;
            }
            let install = ToWorker::Install {
                batch,
                before,
                attempt,
                partition,
                states: states.to_vec(),
                from: from.clone(),
            };
            state.roster.send(other, &install);
            // By what is committed, and not by what the primary had: when the batch runs again, that has it already.
            if state.is_complete(other, partition) || other == now.primary {
                waiting.push((partition, other));
            }
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use dstreams::StreamContext;
    use dstreams::agg::count;
    use dstreams::internal::{Description, Inbox};

    use super::*;
    use crate::master::roster::Worker;

    #[test]
    fn what_batches_wait_for_has_a_name() {
        let mut ctx = StreamContext::new(Duration::from_secs(1)).unwrap();
        let (_, numbers) = ctx.queue::<(u64, i64)>("numbers");
        let counts = numbers.by_key().running_agg("counts", count()).unwrap();
        counts.changes().for_each_rdd(|_| ());
        let parts = Description::of(ctx).unwrap();
        let plans = Arc::new(parts.plans(1).unwrap());
        let inbox = Inbox::new();
        let hub = Arc::new(Hub::new(&parts, (2, 1), inbox.mailbox()));
        hub.begin(1, None);
        let states = BatchStates::new(&hub, &plans, None);
        let missing = || {
            let missing = states.try_snapshot(&hub.lock(), None).err();
            missing.map(|missing| missing.to_string())
        };
        assert_eq!(missing().unwrap(), "no worker has joined");
        let id = hub.change(|state| {
            let id = state.roster.number();
            state.roster.add(id, Worker::unlinked());
            state.join(id);
            id
        });
        assert_eq!(missing(), None);
        // State was lost before anything was committed.
        states.commit(Some(BatchTime(0)));
        assert_eq!(missing(), None);
        hub.change(|state| {
            state
                .versions
                .restore([(0, 7)], BatchTime(0), |_| Vec::new());
        });
        assert_eq!(
            missing().unwrap(),
            "partition 0 of the state is not restored yet"
        );
        hub.change(|state| state.installed(id, 0, BatchTime(0), Some(7)));
        assert_eq!(missing(), None);
        hub.change(|state| state.installed(id, 0, BatchTime(1_000), None));
        states.commit(Some(BatchTime(2_000)));
        let behind = "worker 1 has partition 0 of the state as of batch 1000 ms, not yet as of batch 2000 ms";
        assert_eq!(missing().unwrap(), behind);
        hub.change(|state| state.versions.recovery.lost());
        assert_eq!(missing().unwrap(), "lost state is not rebuilt yet");
    }
}
