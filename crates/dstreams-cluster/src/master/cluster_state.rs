//! [`ClusterState`]: the cluster state machine, and the data with which its commands are carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dstreams::Error;
use dstreams::internal::{Block, BlockStore, CheckpointPlan, Durable, Mailbox};
use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, ProducerOffset, StoredBlock, WorkerId,
};
use dstreams_control::{BatchTime, BlockId, Event, ReceiverId};

use super::checkpoint::CheckpointRound;
use super::claims::ProducerClaims;
use super::losses::Losses;
use super::receivers::ReceiverTable;
use super::roster::Roster;
use super::state_versions::StateVersions;
use crate::link::ToWorker;
use crate::retry::retryable;

/// The primary of a partition of state, its standby, and the worker that is receiving the state to become standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    pub primary: WorkerId,
    pub standby: Option<WorkerId>,
    pub next: Option<WorkerId>,
}

/// The cluster state machine, and the data with which its commands are carried out. Each command is a message to a
/// worker or to the master's loop; they are carried out in their order, before the next event.
pub struct ClusterState {
    machine: Cluster,
    pub roster: Roster,
    pub claims: ProducerClaims,
    pub receivers: ReceiverTable,
    pub versions: StateVersions,
    pub round: CheckpointRound,
    pub losses: Losses,
    /// Slow workers, and whether each rests.
    pub slow: BTreeMap<WorkerId, bool>,
    /// Lost workers whose journals are to be read.
    pub adopting: BTreeSet<WorkerId>,
    /// Number of those whose journals were read.
    pub adopted: u64,
    /// The state directory, if there is one.
    pub durable: Option<Arc<Durable>>,
    mailbox: Mailbox,
    /// The messages about the stop of the program, for workers that join later.
    stopping: Vec<ToWorker>,
    /// The program has ended in this process; events no longer change anything.
    ended: bool,
    /// Why it had to end, if it failed.
    broken: Option<Error>,
}

impl ClusterState {
    pub fn new(config: ClusterConfig, mailbox: Mailbox) -> Self {
        ClusterState {
            machine: Cluster::new(config),
            roster: Roster::default(),
            claims: ProducerClaims::default(),
            receivers: ReceiverTable::default(),
            versions: StateVersions::default(),
            round: CheckpointRound::default(),
            losses: Losses::default(),
            slow: BTreeMap::new(),
            adopting: BTreeSet::new(),
            adopted: 0,
            durable: None,
            mailbox,
            stopping: Vec::new(),
            ended: false,
            broken: None,
        }
    }

    /// Replaces the configuration, before any worker joins.
    pub fn configure(&mut self, config: ClusterConfig) {
        self.machine = Cluster::new(config);
    }

    /// The state machine; only [`step`](Self::step) changes it.
    pub fn machine(&self) -> &Cluster {
        &self.machine
    }

    /// Passes an event to the state machine, and carries out its commands.
    pub fn step(&mut self, event: ClusterEvent) {
        if self.ended {
            return;
        }
        for command in self.machine.step(event) {
            self.carry_out(command);
            if self.ended {
                break;
            }
        }
    }

    /// Makes a worker that can run tasks part of the cluster, unless it was lost meanwhile.
    pub fn join(&mut self, worker: WorkerId) {
        if self.roster.join(worker) {
            // Before it receives anything.
            for message in &self.stopping {
                self.roster.send(worker, message);
            }
            self.step(ClusterEvent::Joined { worker });
        }
    }

    /// Tells all workers, also those that join later, something about the stop of the program.
    pub fn stop(&mut self, message: ToWorker) {
        self.roster.broadcast(&message);
        self.stopping.push(message);
    }

    /// Removes a lost worker.
    pub fn lose(&mut self, worker: WorkerId) {
        self.claims.lose(worker);
        self.slow.remove(&worker);
        self.versions.lose(worker);
        self.round.lose(worker);
        let receivers = self.receivers.lose(worker);
        if let Some(durable) = &self.durable {
            durable.worker_ended(worker.0, receivers);
        }
        let address = self.roster.address(worker);
        if self.roster.lose(worker) {
            if let Some(address) = address {
                self.roster.broadcast(&ToWorker::GivenUp { address });
            }
            self.step(ClusterEvent::Lost { worker });
        }
    }

    /// Takes what the journal of a lost worker has and the cluster lacks into the store of this process.
    pub fn adopt(&mut self, lost: WorkerId, blocks: Vec<(u32, Arc<Block>)>, store: &BlockStore) {
        self.adopting.remove(&lost);
        self.adopted += 1;
        let mut stored = Vec::new();
        for (input, block) in blocks {
            if !self.machine.wants(block.meta.id) {
                continue;
            }
            let (meta, offsets) = (block.meta, block.offsets.iter());
            if let Some(durable) = &self.durable {
                let offsets = offsets.clone();
                let offsets = offsets.map(|(by, last)| ((input, by.to_string()), *last));
                durable.stored(meta.id, offsets);
            }
            let offsets = offsets.map(|(producer, last)| ProducerOffset {
                input,
                producer: Arc::clone(producer),
                last: *last,
            });
            let offsets = offsets.collect();
            stored.push(StoredBlock { meta, offsets });
            // Before a batch with it can be cut.
            store.insert(block);
        }
        let ids: Vec<BlockId> = stored.iter().map(|block| block.meta.id).collect();
        tracing::info!(worker = %lost, blocks = ids.len(), "the journal of a lost worker was read");
        let blocks = stored;
        self.step(ClusterEvent::Adopted { lost, blocks });
        let unneeded = ids.into_iter().filter(|id| !self.machine.is_adopted(*id));
        store.forget(&unneeded.collect::<Vec<_>>());
    }

    /// From now on these workers are slow, and no others.
    pub fn slow_are(&mut self, slow: BTreeMap<WorkerId, bool>) {
        let before = std::mem::replace(&mut self.slow, slow);
        for worker in self.slow.keys().filter(|id| !before.contains_key(id)) {
            tracing::warn!(%worker, "a worker is slow: others do its work for a while");
        }
        for worker in before.keys().filter(|id| !self.slow.contains_key(id)) {
            tracing::info!(%worker, "a worker is no longer slow");
        }
        let workers = self.slow.keys().copied().collect();
        self.step(ClusterEvent::Slow { workers });
    }

    /// A worker asks for the right to take the records of a producer.
    pub fn claim(&mut self, worker: WorkerId, input: u32, producer: String, token: u64) {
        let token = self.claims.open(worker, token);
        self.step(ClusterEvent::Claim {
            input,
            producer: producer.into(),
            worker,
            token,
        });
    }

    /// A worker has a partition of state as of a batch: see [`StateVersions::install`].
    pub fn installed(
        &mut self,
        worker: WorkerId,
        partition: u32,
        version: BatchTime,
        copy: Option<u64>,
    ) {
        if let Some(copy) = self.versions.install(worker, partition, version, copy) {
            self.step(ClusterEvent::Installed {
                worker,
                partition,
                version,
                copy,
            });
        }
    }

    /// Makes the primaries snapshot their state for a checkpoint: see [`CheckpointRound::begin`].
    pub fn checkpoint(&mut self, plan: &CheckpointPlan, partitions: usize) -> Result<(), Error> {
        if let Some(error) = self.broken() {
            return Err(error);
        }
        let assignments: Option<Vec<_>> = self.assignments(partitions).collect();
        let assignments = assignments.ok_or_else(|| retryable("a partition has no primary"))?;
        self.round
            .begin(plan, &assignments, &self.versions, &self.roster)
    }

    /// The primary and standbys of each partition of state.
    pub fn assignments(&self, partitions: usize) -> impl Iterator<Item = Option<Assignment>> {
        (0..partitions as u32).map(|partition| {
            Some(Assignment {
                primary: self.machine.primary(partition)?,
                standby: self.machine.standby(partition),
                next: self.machine.next(partition),
            })
        })
    }

    /// Whether a worker with a part in a partition of state has all that took effect, and missed no install.
    pub fn is_complete(&self, worker: WorkerId, partition: u32) -> bool {
        self.machine.has_all(partition, worker) && !self.versions.is_behind(worker, partition)
    }

    /// The input of a block, and the addresses of the workers that store it; those of slow workers that rest are last.
    pub fn block(&self, block: BlockId) -> (u32, Vec<String>) {
        let receiver = block.receiver;
        let input = self.receivers.input_of(receiver);
        let input = input
            .or_else(|| self.machine.input_of(receiver))
            .unwrap_or_else(|| u32::try_from(receiver.0).unwrap_or_default());
        let mut stored_on = self.machine.stored_on(block).to_vec();
        if !self.slow.is_empty() {
            stored_on.sort_by_key(|id| self.slow.get(id) == Some(&true));
        }
        let addresses = stored_on
            .iter()
            .filter_map(|id| self.roster.address(*id))
            .collect();
        (input, addresses)
    }

    /// Stops acting on events.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Ends the program in this process with an error.
    pub fn end_with_error(&mut self, error: Error) {
        self.ended = true;
        self.mailbox.stop(false, Some(error.clone()));
        self.broken.get_or_insert(error);
    }

    /// Whether the program has ended in this process.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Why the program cannot continue in this process, if it cannot.
    pub fn broken(&self) -> Option<Error> {
        self.broken.clone()
    }

    fn carry_out(&mut self, command: ClusterCommand) {
        match command {
            ClusterCommand::Receive {
                worker,
                input,
                receiver,
                offsets,
            } => self.receive(worker, (input, receiver), &offsets),
            ClusterCommand::Peer { worker, to } => {
                let to = to.and_then(|to| Some((to.0, self.roster.address(to)?)));
                self.roster.send(worker, &ToWorker::Peer { to });
            }
            ClusterCommand::Fence { at, lost } => {
                self.roster.send(at, &ToWorker::Fence { lost: lost.0 });
            }
            ClusterCommand::ReceiverLost { receiver, blocks } => {
                if let Some(durable) = &self.durable {
                    self.claims
                        .receiver_lost(durable.receiver_lost(receiver, &blocks));
                }
                self.mailbox.send(Event::Left { receiver, blocks });
            }
            ClusterCommand::Adopt { lost } => drop(self.adopting.insert(lost)),
            ClusterCommand::Copy { block, from, to } => {
                let address = self.roster.address(to).unwrap_or_default();
                let to = to.0;
                let copy = ToWorker::Copy { block, to, address };
                self.roster.send(from, &copy);
            }
            ClusterCommand::Drop { worker, blocks } => {
                self.roster.send(worker, &ToWorker::Drop { blocks });
            }
            ClusterCommand::BlockLost { block } => {
                tracing::error!(%block, "all replicas of a block are lost");
                self.blocks_lost(|| format!("block {block} is"));
            }
            ClusterCommand::SurvivorsUnknown { lost } => {
                self.blocks_lost(|| format!("blocks of worker {lost} may be"));
            }
            ClusterCommand::Grant {
                token,
                worker,
                last,
            } => self.grant(token, worker, last),
            ClusterCommand::Refuse { token, worker } => {
                if let Some(token) = self.claims.close(token) {
                    self.roster.send(worker, &ToWorker::Refuse { token });
                }
            }
            ClusterCommand::Revoke {
                worker,
                input,
                producer,
                token,
            } => {
                let revoke = ToWorker::Revoke {
                    input,
                    producer: producer.to_string(),
                    grant: token,
                };
                self.roster.send(worker, &revoke);
            }
            ClusterCommand::Assign {
                partition,
                primary,
                standby,
                next,
            } => {
                tracing::debug!(partition, %primary, ?standby, ?next, "partition assigned");
                if let Some(restore) = self.versions.restore_message(partition) {
                    self.roster.send(primary, &restore);
                }
            }
            ClusterCommand::CopyState {
                partition,
                from,
                to,
                copy,
            } => {
                let from = self.roster.address(from).unwrap_or_default();
                let copy_state = ToWorker::CopyState {
                    partition,
                    from,
                    copy,
                };
                self.roster.send(to, &copy_state);
            }
            ClusterCommand::StateLost { partition, copy } => {
                if let Err(error) = self.versions.lose_partition(partition, copy) {
                    self.end_with_error(error);
                }
            }
            ClusterCommand::Retire { worker } => self.roster.send(worker, &ToWorker::Retire),
            ClusterCommand::Drained { worker } => {
                tracing::info!(%worker, "drained");
                self.roster.drained(worker);
                self.roster.send(worker, &ToWorker::End);
            }
        }
    }

    /// Grants a claim, unless its worker was lost.
    fn grant(&mut self, claim: u64, worker: WorkerId, last: u64) {
        let token = self.claims.close(claim);
        if let (Some(token), Some(worker)) = (token, self.roster.get(worker)) {
            let grant = ToWorker::Grant { token, last };
            let durable = self.durable.as_ref();
            self.claims.grant(durable, &worker.link, grant);
        }
    }

    /// Has a worker run the receiver of an input.
    fn receive(
        &mut self,
        worker: WorkerId,
        (input, receiver): (u32, ReceiverId),
        positions: &[(Arc<str>, u64)],
    ) {
        let positions = positions.iter().map(|(part, at)| (part.to_string(), *at));
        let receive = ToWorker::Receive {
            input,
            receiver,
            positions: positions.collect(),
        };
        self.roster.send(worker, &receive);
        self.receivers.add(worker, receiver);
        self.mailbox.send(Event::Joined { receiver });
    }

    /// All replicas of blocks are lost. With a state directory, the journals of the lost workers should have had them. The
    /// next process reads these again: so this one ends, and must not report or record blocks as lost.
    fn blocks_lost(&mut self, what: impl FnOnce() -> String) {
        if self.durable.is_some() {
            let what = what();
            self.end_with_error(Error::LostState {
                message: format!(
                    "{what} gone with the workers that held them: more were lost at once than the copies allow; \
                     start the master again, it resumes from the directory of the program"
                ),
            });
        }
    }
}
