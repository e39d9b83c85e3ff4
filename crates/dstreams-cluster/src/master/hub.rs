//! [`Hub`]: the workers of a cluster, and the messages to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dstreams::internal::{Description, Durable, Mailbox, PartAt, Restored, Ticket};
use dstreams::{Error, Listener};
use dstreams_control::cluster::{Cluster, ClusterEvent, WorkerId};
use dstreams_control::{BatchTime, ReceiverId};
use tokio::sync::watch;

use super::checkpoint::Checkpoints;
use super::inputs::{InputOf, config, inputs_of};
use crate::link::{Holds, Sender, ToWorker};

/// The workers of a cluster, and the links over which the master sends messages to them.
pub struct Hub {
    pub mailbox: Mailbox,
    pub inputs: Vec<InputOf>,
    /// Listeners for the ends of sources.
    pub(super) listeners: Vec<Arc<dyn Listener>>,
    /// Number of workers that store each block.
    pub copies: usize,
    /// The most disconnected producers to remember, of all streams together.
    producers: usize,
    // Lock order L1 in ARCHITECTURE.md: before any lock of `Durable`.
    state: Mutex<HubState>,
    /// Counts changes of workers, assignments and installed versions.
    changes: watch::Sender<u64>,
    /// The state directory, if there is one.
    pub(super) durable: OnceLock<Arc<Durable>>,
    pub checkpoints: Checkpoints,
}

pub(super) struct HubState {
    pub(super) cluster: Cluster,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) next_worker: u32,
    pub(super) claims: HashMap<u64, (WorkerId, u64)>,
    pub(super) next_claim: u64,
    /// The newest version of a partition that a worker has reported, and the copy it started from.
    pub(super) installed: HashMap<(WorkerId, u32), (BatchTime, u64)>,
    /// Standbys that missed an install, and the batch.
    pub(super) behind: HashMap<(WorkerId, u32), BatchTime>,
    pub(super) listening: BTreeMap<u32, String>,
    /// The program has ended: no more decisions are made.
    pub(super) ended: bool,
    /// Why it has to end, if it failed.
    broken: Option<Error>,
    /// Inputs of receivers that belong to no worker, but to this or an earlier process.
    pub(super) own: HashMap<ReceiverId, u32>,
    /// Drained workers, which may leave: all their data is also on others.
    pub(super) drained: BTreeSet<WorkerId>,
    pub(super) draining: BTreeSet<WorkerId>,
    /// Receivers of each worker.
    pub(super) receivers: HashMap<WorkerId, BTreeSet<ReceiverId>>,
    /// Partitions that are not restored from the checkpoint yet.
    pub(super) restoring: BTreeMap<u32, Restoring>,
    /// Number of times that the state was rebuilt after a batch was set aside.
    pub(super) era: u32,
    /// `Some` while the state is being rebuilt: whether a primary that had rebuilt it was lost.
    pub(super) remaking: Option<bool>,
    /// The journal entry of the newest lost receivers: producers must not resume elsewhere before it is durable.
    pub(super) gone: Option<Ticket>,
}

/// The parts of a checkpoint from which a partition is restored.
pub(super) struct Restoring {
    pub(super) batch: BatchTime,
    pub(super) sources: Vec<Vec<PartAt>>,
    pub(super) copy: u64,
}

/// A connected worker.
#[derive(Clone)]
pub struct Worker {
    pub link: Sender<ToWorker>,
    pub address: String,
    pub pid: u32,
    pub cores: usize,
    pub holds: Holds,
    /// Whether it can run tasks.
    pub joined: bool,
}

/// The primary of a partition of state, its standby, and the worker that is receiving the state to become standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holders {
    pub holder: WorkerId,
    pub standby: Option<WorkerId>,
    pub next: Option<WorkerId>,
}

impl Hub {
    pub fn new(parts: &Description, copies: usize, mailbox: Mailbox) -> Self {
        let inputs = inputs_of(parts);
        let config = config(&inputs, copies, 0);
        Hub {
            mailbox,
            inputs,
            listeners: parts.listeners.clone(),
            copies,
            producers: parts.config.producers,
            state: Mutex::new(HubState {
                cluster: Cluster::new(config),
                workers: BTreeMap::new(),
                next_worker: 0,
                claims: HashMap::new(),
                next_claim: 0,
                installed: HashMap::new(),
                behind: HashMap::new(),
                listening: BTreeMap::new(),
                ended: false,
                broken: None,
                own: HashMap::new(),
                drained: BTreeSet::new(),
                draining: BTreeSet::new(),
                receivers: HashMap::new(),
                restoring: BTreeMap::new(),
                era: 0,
                remaking: None,
                gone: None,
            }),
            changes: watch::Sender::new(0),
            durable: OnceLock::new(),
            checkpoints: Checkpoints::default(),
        }
    }

    /// Sets the number of partitions of state and the restored data of an earlier process, before any worker joins.
    pub fn begin(&self, partitions: usize, kept: Option<(&Arc<Durable>, &Restored)>) {
        let mut config = config(&self.inputs, self.copies, partitions as u32);
        let mut state = self.lock();
        config.max_producers = self.producers;
        if let Some((durable, restored)) = kept {
            let _ = self.durable.set(Arc::clone(durable));
            config.first_receiver = restored.first_receiver() + self.inputs.len() as u64;
            config.known = restored.known().collect();
            config.restored = restored.batch();
            state.own = restored.receivers().collect();
            if let Some(batch) = restored.batch() {
                let restoring = |partition| Restoring {
                    batch,
                    sources: restored.sources(partition as usize),
                    copy: 1,
                };
                let partitions = 0..partitions as u32;
                state.restoring = partitions.map(|at| (at, restoring(at))).collect();
            }
        }
        state.cluster = Cluster::new(config);
    }

    /// Registers a receiver of the master itself.
    pub fn receives(&self, receiver: ReceiverId, input: u32) {
        self.lock().own.insert(receiver, input);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all waiters, since something has changed.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until `what` returns a value.
    pub async fn until<T>(&self, mut what: impl FnMut(&Self) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = what(self) {
                return found;
            }
            // Cannot fail: `self` owns the sender.
            let _ = changes.changed().await;
        }
    }

    /// Assigns a number to a new worker; numbers are never reused.
    pub fn number(&self) -> WorkerId {
        let mut state = self.lock();
        state.next_worker += 1;
        WorkerId(state.next_worker)
    }

    /// Adds a worker that runs the same program.
    pub fn add(&self, id: WorkerId, worker: Worker) {
        self.lock().workers.insert(id, worker);
        self.changed();
    }

    /// Makes a worker that can run tasks part of the cluster, unless it was lost meanwhile.
    pub fn join(&self, id: WorkerId) {
        let mut state = self.lock();
        let Some(worker) = state.workers.get_mut(&id) else {
            return;
        };
        worker.joined = true;
        self.step_in(&mut state, ClusterEvent::Joined { worker: id });
        drop(state);
        self.changed();
    }

    /// Removes a lost worker.
    pub fn lose(&self, id: WorkerId) {
        let joined = {
            let mut state = self.lock();
            state.claims.retain(|_, (worker, _)| *worker != id);
            state.installed.retain(|(worker, _), _| *worker != id);
            state.behind.retain(|(worker, _), _| *worker != id);
            state.drained.remove(&id);
            state.draining.remove(&id);
            if let Some(durable) = self.durable.get() {
                let receivers = state.receivers.remove(&id).unwrap_or_default();
                durable.worker_ended(id.0, receivers);
            }
            state
                .workers
                .remove(&id)
                .is_some_and(|worker| worker.joined)
        };
        self.checkpoints.lost(id);
        if joined {
            self.step(ClusterEvent::Lost { worker: id });
        }
        self.changed();
    }

    /// Passes an event to the cluster state machine, and carries out its commands.
    pub fn step(&self, event: ClusterEvent) {
        self.step_in(&mut self.lock(), event);
        self.changed();
    }

    /// The same, if the caller has the lock.
    pub(super) fn step_in(&self, state: &mut HubState, event: ClusterEvent) {
        if state.ended {
            return;
        }
        for command in state.cluster.step(event) {
            self.carry_out(state, command);
            if state.ended {
                break;
            }
        }
    }

    /// The newest version of a partition that a worker has reported.
    pub fn version(&self, id: WorkerId, partition: u32) -> Option<BatchTime> {
        let state = self.lock();
        state
            .installed
            .get(&(id, partition))
            .map(|(version, _)| *version)
    }

    /// Partitions of state whose committed deltas some worker still lacks, and the version after which.
    pub fn needs(&self) -> Vec<(u32, BatchTime)> {
        self.lock().cluster.needs()
    }

    /// Whether a worker with a part in a partition of state has all that took effect.
    pub fn has_all(&self, id: WorkerId, partition: u32) -> bool {
        self.lock().cluster.has_all(partition, id)
    }

    /// Whether a standby missed an install.
    pub fn is_behind(&self, id: WorkerId, partition: u32) -> bool {
        self.lock().behind.contains_key(&(id, partition))
    }

    /// The connected workers.
    pub fn workers(&self) -> BTreeMap<WorkerId, Worker> {
        self.lock().workers.clone()
    }

    /// The primary and standbys of each partition of state.
    pub fn holders(&self, partitions: usize) -> Vec<Option<Holders>> {
        let state = self.lock();
        let of = |partition| {
            let holder = state.cluster.holder(partition)?;
            Some(Holders {
                holder,
                standby: state.cluster.standby(partition),
                next: state.cluster.next(partition),
            })
        };
        (0..partitions as u32).map(of).collect()
    }

    /// The input of a block, and the addresses of the workers that store it.
    pub fn block(&self, block: dstreams_control::BlockId) -> (u32, Vec<String>) {
        let state = self.lock();
        let holders = state.cluster.holders(block).iter();
        let addresses = holders.filter_map(|id| state.address(*id));
        (state.input_of(block.receiver), addresses.collect())
    }

    /// Whether a worker is connected.
    pub fn has(&self, id: WorkerId) -> bool {
        self.lock().workers.contains_key(&id)
    }

    /// Why the program cannot continue in this process, if it cannot.
    pub fn broken(&self) -> Option<Error> {
        self.lock().broken.clone()
    }

    /// Ends the program in this process with an error.
    pub(super) fn end_with_error(&self, state: &mut HubState, error: Error) {
        state.ended = true;
        self.mailbox.stop(false, Some(error.clone()));
        state.broken.get_or_insert(error);
    }

    /// All replicas of blocks are lost. With a state directory, they are in the journals of the lost workers, and the
    /// next process reads them: so this one ends, and must not report or record them as lost.
    pub(super) fn blocks_lost(&self, state: &mut HubState, what: impl FnOnce() -> String) {
        if self.durable.get().is_some() {
            let what = what();
            let error = Error::LostState {
                message: format!(
                    "{what} gone with the workers that held them: more were lost at once than the copies allow; \
                     start the master again, it resumes from the directory of the program"
                ),
            };
            self.end_with_error(state, error);
        }
    }

    /// Addresses at which sources listen, by input.
    pub fn listening(&self) -> BTreeMap<u32, String> {
        self.lock().listening.clone()
    }

    /// Sends a message to every worker that has joined.
    pub fn broadcast(&self, message: &ToWorker) {
        let state = self.lock();
        for worker in state.workers.values().filter(|worker| worker.joined) {
            worker.link.say(message);
        }
    }

    /// Makes no more decisions. Workers end too, unless another process `resumes` the program.
    pub fn end(&self, resumes: bool) {
        let mut state = self.lock();
        state.ended = true;
        self.changed();
        if resumes {
            return;
        }
        for worker in state.workers.values() {
            worker.link.say(&ToWorker::End);
        }
    }

    /// Whether the program has ended in this process.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Sends a message to one worker.
    pub fn say(&self, id: WorkerId, message: &ToWorker) {
        self.lock().say(id, message);
    }
}

impl HubState {
    pub(super) fn say(&self, id: WorkerId, message: &ToWorker) {
        if let Some(worker) = self.workers.get(&id) {
            worker.link.say(message);
        }
    }

    pub(super) fn address(&self, id: WorkerId) -> Option<String> {
        Some(self.workers.get(&id)?.address.clone())
    }

    fn input_of(&self, receiver: ReceiverId) -> u32 {
        let own = self.own.get(&receiver).copied();
        own.or_else(|| self.cluster.input_of(receiver))
            .unwrap_or_else(|| u32::try_from(receiver.0).unwrap_or_default())
    }
}

pub(super) fn lost_state(partition: u32) -> Error {
    Error::LostState {
        message: format!(
            "the state of partition {partition} is gone with the workers that held it: \
             the primary and its standby were lost before another worker had a copy"
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use dstreams::StreamContext;
    use dstreams::internal::Inbox;

    use super::*;
    use crate::link::{ToMaster, channel};

    fn hub() -> (Hub, Inbox) {
        let mut ctx = StreamContext::new(Duration::from_secs(1)).unwrap();
        let (_, lines) = ctx.queue::<String>("lines");
        lines.for_each_rdd(|_| ());
        let inbox = Inbox::new();
        let hub = Hub::new(&Description::of(ctx).unwrap(), 2, inbox.mailbox());
        (hub, inbox)
    }

    fn worker() -> Worker {
        Worker {
            link: channel().0,
            address: String::new(),
            pid: 0,
            cores: 1,
            holds: Holds::default(),
            joined: false,
        }
    }

    #[test]
    fn a_lost_worker_does_not_join() {
        let (hub, _inbox) = hub();
        let [gone, there] = [hub.number(), hub.number()];
        hub.add(gone, worker());
        hub.lose(gone);
        hub.join(gone);
        assert_eq!(hub.lock().cluster.workers().count(), 0);
        hub.add(there, worker());
        hub.join(there);
        assert_eq!(hub.lock().cluster.workers().collect::<Vec<_>>(), [there]);
        hub.lose(there);
        assert_eq!(hub.lock().cluster.workers().count(), 0);
    }

    /// A standby that got the batch at its next attempt lacks nothing: batches wait for it again.
    #[test]
    fn a_standby_is_behind_until_it_has_what_it_missed() {
        let (hub, _inbox) = hub();
        let standby = hub.number();
        hub.add(standby, worker());
        hub.join(standby);
        let installed = |batch, copy| hub.installed(standby, 0, BatchTime(batch), Some(copy));
        let failed = |batch| {
            let batch = BatchTime(batch);
            let partition = 0;
            hub.hear(standby, ToMaster::InstallFailed { partition, batch });
        };
        installed(100, 1);
        failed(200);
        assert!(hub.is_behind(standby, 0));
        // Only the missed batch or a later one repairs that.
        installed(100, 1);
        assert!(hub.is_behind(standby, 0));
        installed(200, 1);
        assert!(!hub.is_behind(standby, 0));
        // So does the whole state, even as of an older batch.
        failed(300);
        assert!(hub.is_behind(standby, 0));
        installed(200, 2);
        assert!(!hub.is_behind(standby, 0));
        // A late failure of a batch that it has is ignored.
        failed(200);
        assert!(!hub.is_behind(standby, 0));
    }
}
