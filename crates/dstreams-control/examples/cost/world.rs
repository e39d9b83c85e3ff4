//! [`World`]: both machines, with workers that answer at once and never fail, so that only decisions take time.
//!
//! Messages are events in a list. Copies of state are answered last, so that a batch can be measured while they are
//! in progress.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use dstreams_control::cluster::{
    Cluster, ClusterCommand, ClusterConfig, ClusterEvent, InputKind, ProducerOffset, StoredBlock,
    WorkerId,
};
use dstreams_control::{
    BatchTime, BlockId, BlockMeta, Command, Config, ConfigError, Controller, Event, ReceiverId,
    Timestamp,
};

use crate::meter::{Cost, held_by};

const INTERVAL_MS: u64 = 1_000;

/// A copy of state in progress.
type StateCopy = (u32, WorkerId, u64);

/// The cost of a batch: as a whole, and of its blocks and its commit.
pub struct Batch {
    pub all: Cost,
    pub stored: Cost,
    pub commit: Cost,
}

pub struct World {
    cluster: Cluster,
    controller: Controller,
    partitions: u32,
    /// Per worker and interval.
    blocks: u64,
    now: Timestamp,
    last_worker: u32,
    receivers: BTreeMap<WorkerId, ReceiverId>,
    peers: BTreeMap<WorkerId, WorkerId>,
    /// The number of blocks that each receiver has made.
    made: BTreeMap<ReceiverId, u64>,
    unreported: BTreeMap<ReceiverId, Vec<BlockMeta>>,
    /// Blocks that are not forgotten.
    held: BTreeMap<BlockId, StoredBlock>,
    /// The workers with a part in a partition, and the number of the copy each began with.
    parts: BTreeMap<u32, BTreeMap<WorkerId, u64>>,
    recovering: BTreeMap<u32, u64>,
    answers: VecDeque<ClusterEvent>,
    copying: VecDeque<StateCopy>,
}

impl World {
    /// Workers that have joined, and a state in every partition.
    pub fn new(workers: usize, partitions: u32, blocks: u64) -> Result<Self, ConfigError> {
        let config = ClusterConfig::new(vec![InputKind::Everywhere], partitions);
        let mut it = Self {
            cluster: Cluster::new(config),
            controller: Controller::new(Config::new(INTERVAL_MS)?),
            partitions,
            blocks,
            now: Timestamp(0),
            last_worker: 0,
            receivers: BTreeMap::new(),
            peers: BTreeMap::new(),
            made: BTreeMap::new(),
            unreported: BTreeMap::new(),
            held: BTreeMap::new(),
            parts: BTreeMap::new(),
            recovering: BTreeMap::new(),
            answers: VecDeque::new(),
            copying: VecDeque::new(),
        };
        let mut ignored = Cost::default();
        let receivers = Vec::new();
        it.control(vec![Event::Start { receivers }], &mut ignored);
        for _ in 0..workers {
            it.join(&mut ignored);
            it.settle(&mut ignored);
        }
        it.batch();
        Ok(it)
    }

    /// A worker joins, with a client: all steps but the copies of state.
    pub fn join(&mut self, cost: &mut Cost) {
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        self.answers.push_back(ClusterEvent::Joined { worker });
        self.answers.push_back(ClusterEvent::Claim {
            input: 0,
            producer: producer(worker),
            worker,
            token: u64::from(worker.0),
        });
        self.answer(cost);
    }

    /// The oldest worker is lost: all steps but the copies of state.
    pub fn lose(&mut self, cost: &mut Cost) {
        let Some((worker, receiver)) = self.receivers.pop_first() else {
            return;
        };
        self.peers.remove(&worker);
        self.unreported.remove(&receiver);
        self.copying.retain(|&(_, to, _)| to != worker);
        self.answers.push_back(ClusterEvent::Lost { worker });
        self.answer(cost);
    }

    /// Ends all copies of state, and the following steps.
    pub fn settle(&mut self, cost: &mut Cost) {
        while let Some((partition, worker, copy)) = self.copying.pop_front() {
            let version = self.cluster.version(partition).unwrap_or(BatchTime(0));
            self.answers.push_back(ClusterEvent::Installed {
                worker,
                partition,
                version,
                copy,
            });
            self.answer(cost);
        }
    }

    /// Whether primaries are spread as evenly as possible, and every partition has a standby where possible.
    pub fn is_settled(&self) -> bool {
        let mut load: BTreeMap<_, usize> = self.receivers.keys().map(|&it| (it, 0)).collect();
        let mut standbys = true;
        for partition in 0..self.partitions {
            let primary = self.cluster.primary(partition);
            if let Some(count) = primary.and_then(|primary| load.get_mut(&primary)) {
                *count += 1;
            }
            standbys &= self.cluster.standby(partition).is_some() == (load.len() > 1);
        }
        let (least, most) = (load.values().min(), load.values().max());
        let even = least
            .zip(most)
            .is_none_or(|(&least, &most)| most - least < 2);
        let counted = load.values().sum::<usize>() == self.partitions as usize;
        standbys && even && counted && self.copying.is_empty()
    }

    /// Every worker receives its blocks; each is reported by its copy first.
    pub fn store(&mut self) -> Cost {
        let mut events = Vec::new();
        for (&worker, &receiver) in &self.receivers {
            let made = self.made.entry(receiver).or_default();
            for seq in *made..*made + self.blocks {
                let id = BlockId { receiver, seq };
                let (rows, bytes) = (100, 6_400);
                let meta = BlockMeta { id, rows, bytes };
                let offsets = vec![ProducerOffset {
                    input: 0,
                    producer: producer(worker),
                    last: seq + 1,
                }];
                let block = StoredBlock { meta, offsets };
                self.unreported.entry(receiver).or_default().push(meta);
                self.held.insert(id, block.clone());
                for worker in self.peers.get(&worker).copied().into_iter().chain([worker]) {
                    let blocks = vec![block.clone()];
                    events.push(ClusterEvent::Stored { worker, blocks });
                }
            }
            *made += self.blocks;
        }
        let mut cost = Cost::default();
        self.tell(events, &mut cost);
        cost
    }

    /// Blocks come in, and their batch runs to its end.
    pub fn batch(&mut self) -> Batch {
        let stored = self.store();
        let mut all = stored.clone();
        let (batch, commit) = self.seal_to_commit(&mut all);
        debug_assert!(batch.is_some());
        all.add(&commit);
        Batch {
            all,
            stored,
            commit,
        }
    }

    fn seal_to_commit(&mut self, cost: &mut Cost) -> (Option<BatchTime>, Cost) {
        let mut commit = Cost::default();
        self.now = Timestamp(self.now.0 + INTERVAL_MS * 1_000);
        let sealed = self.control(vec![Event::Tick], cost);
        let seal = |command: &Command| match command {
            Command::Seal { batch } => Some(*batch),
            _ => None,
        };
        let Some(batch) = sealed.iter().find_map(seal) else {
            return (None, commit);
        };
        let mut reports = Vec::new();
        for (&worker, &receiver) in &self.receivers {
            cost.message(worker);
            let blocks = self.unreported.remove(&receiver).unwrap_or_default();
            reports.push(Event::Reported {
                batch,
                receiver,
                blocks,
            });
        }
        self.control(reports, cost);
        // The tasks run, and every partition changes.
        let under_way: BTreeSet<_> = self.copying.iter().map(|&(it, to, _)| (it, to)).collect();
        let mut installs = Vec::new();
        for (&partition, parts) in &self.parts {
            let there = parts
                .iter()
                .filter(|&(&worker, _)| !under_way.contains(&(partition, worker)));
            installs.extend(there.map(|(&worker, &copy)| ClusterEvent::Installed {
                worker,
                partition,
                version: batch,
                copy,
            }));
        }
        self.tell(installs, cost);
        let attempt = 1;
        self.control(vec![Event::Finished { batch, attempt }], cost);
        self.tell(vec![ClusterEvent::Committed { batch }], &mut commit);
        let done = self.control(vec![Event::Committed { batch }], &mut commit);
        for command in done {
            if let Command::Forget { blocks, .. } = command {
                for block in &blocks {
                    self.held.remove(block);
                }
                self.tell(vec![ClusterEvent::Forgotten { blocks }], &mut commit);
            }
        }
        (Some(batch), commit)
    }

    /// The bytes that both machines hold.
    pub fn held_bytes(self) -> (usize, usize) {
        (held_by(self.cluster), held_by(self.controller))
    }

    /// Steps measured as one piece.
    fn control(&mut self, events: Vec<Event>, cost: &mut Cost) -> Vec<Command> {
        let mut commands = Vec::with_capacity(8 * events.len());
        let (controller, now) = (&mut self.controller, self.now);
        cost.measure(events.len(), || {
            for event in events {
                commands.extend(controller.step(event, now));
            }
        });
        cost.commands += commands.len();
        commands
    }

    /// The same.
    fn tell(&mut self, events: Vec<ClusterEvent>, cost: &mut Cost) {
        let mut commands = Vec::with_capacity(8 * events.len() + 2 * self.receivers.len());
        let cluster = &mut self.cluster;
        cost.measure(events.len(), || {
            for event in events {
                commands.extend(cluster.step(event));
            }
        });
        cost.commands += commands.len();
        for command in commands {
            self.carry_out(command, cost);
        }
    }

    /// Step after step, until the only answers left are those to copies of state.
    fn answer(&mut self, cost: &mut Cost) {
        while let Some(event) = self.answers.pop_front() {
            self.tell(vec![event], cost);
        }
    }

    fn carry_out(&mut self, command: ClusterCommand, cost: &mut Cost) {
        match command {
            ClusterCommand::Receive {
                worker, receiver, ..
            } => {
                cost.message(worker);
                self.receivers.insert(worker, receiver);
                self.control(vec![Event::Joined { receiver }], cost);
            }
            ClusterCommand::Peer { worker, to } => {
                cost.message(worker);
                match to {
                    Some(to) => self.peers.insert(worker, to),
                    None => self.peers.remove(&worker),
                };
            }
            ClusterCommand::Fence { at, lost } => {
                cost.message(at);
                let from_lost = |id: &BlockId| self.cluster.worker_of(id.receiver) == Some(lost);
                let has = |id: &BlockId| self.cluster.stored_on(*id).contains(&at);
                let held = self.held.iter().filter(|&(id, _)| from_lost(id) && has(id));
                let blocks = held.map(|(_, block)| block.clone()).collect();
                self.answers.push_back(ClusterEvent::Fenced {
                    worker: at,
                    lost,
                    blocks,
                });
            }
            ClusterCommand::Retire { worker } => {
                cost.message(worker);
                let blocks = Vec::new();
                self.answers
                    .push_back(ClusterEvent::Retired { worker, blocks });
            }
            ClusterCommand::ReceiverLost { receiver, blocks } => {
                drop(self.control(vec![Event::Left { receiver, blocks }], cost));
            }
            ClusterCommand::Copy { block, to, .. } => {
                cost.message(to);
                let blocks = self.held.get(&block).cloned().into_iter().collect();
                let worker = to;
                self.answers
                    .push_back(ClusterEvent::Stored { worker, blocks });
            }
            ClusterCommand::Assign {
                partition,
                primary,
                standby,
                next,
            } => {
                let parts = [Some(primary), standby, next].into_iter().flatten();
                self.assign(partition, primary, parts.collect(), cost);
            }
            ClusterCommand::CopyState {
                partition,
                to,
                copy,
                ..
            } => {
                cost.message(to);
                self.parts.entry(partition).or_default().insert(to, copy);
                self.copying.push_back((partition, to, copy));
            }
            ClusterCommand::StateLost { partition, copy } => {
                self.recovering.insert(partition, copy);
            }
            ClusterCommand::Drop { worker, .. }
            | ClusterCommand::Grant { worker, .. }
            | ClusterCommand::Refuse { worker, .. }
            | ClusterCommand::Revoke { worker, .. }
            | ClusterCommand::Drained { worker } => cost.message(worker),
            ClusterCommand::SurvivorsUnknown { .. }
            | ClusterCommand::BlockLost { .. }
            | ClusterCommand::Adopt { .. } => {}
        }
    }

    /// Assigns the partition to the workers that have, or had, a part in it.
    fn assign(
        &mut self,
        partition: u32,
        primary: WorkerId,
        assigned: Vec<WorkerId>,
        cost: &mut Cost,
    ) {
        let parts = self.parts.entry(partition).or_default();
        parts.keys().for_each(|&worker| cost.message(worker));
        parts.retain(|worker, _| assigned.contains(worker));
        self.copying
            .retain(|(copied, to, _)| *copied != partition || parts.contains_key(to));
        for worker in assigned {
            if parts
                .insert(worker, parts.get(&worker).copied().unwrap_or(0))
                .is_none()
            {
                cost.message(worker);
            }
        }
        if let Some(copy) = self.recovering.remove(&partition) {
            parts.insert(primary, copy);
            let version = BatchTime(self.now.0 / 1_000);
            self.answers.push_back(ClusterEvent::Installed {
                worker: primary,
                partition,
                version,
                copy,
            });
        }
    }
}

fn producer(worker: WorkerId) -> Arc<str> {
    Arc::from(format!("client of {worker}"))
}
