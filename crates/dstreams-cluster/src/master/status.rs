//! The status of a cluster, for `dstreams status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dstreams::{BatchReport, BatchTime, Error, Listener};
use serde::{Deserialize, Serialize};

use super::cluster_state::Assignment;
use super::hub::Hub;
use super::losses::LostWorker;

/// The status of a cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Whether batches run: not while the master waits for its first workers, or resumes the program.
    #[serde(default)]
    pub runs: bool,
    /// The connected workers.
    pub workers: Vec<WorkerStatus>,
    /// Workers that were lost since the master started.
    #[serde(default)]
    pub losses: u64,
    /// The newest of them, and of those that have left, the last one at the end; at most 16.
    #[serde(default)]
    pub lost: Vec<LostWorker>,
    /// Lost workers whose journals were read, since blocks of theirs were stored nowhere else.
    #[serde(default)]
    pub adopted: u64,
    /// How often state was rebuilt from a checkpoint and the journals: all workers that had a partition were lost,
    /// or a batch was set aside.
    #[serde(default)]
    pub rebuilds: u32,
    /// Partitions of state that were rebuilt, each time counted.
    #[serde(default)]
    pub rebuilt_partitions: u64,
    /// Copies of slow tasks that were started: see [`MasterOptions::speculation`](crate::MasterOptions::speculation).
    #[serde(default)]
    pub task_copies: u64,
    /// Those of them that succeeded before their original.
    #[serde(default)]
    pub task_copies_won: u64,
    /// The input streams.
    pub streams: Vec<StreamStatus>,
    /// Records that operators have rejected and no output reads, by operator.
    pub rejected: BTreeMap<String, u64>,
    /// Running and waiting jobs of the engine.
    pub jobs: usize,
    /// Committed batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// The newest committed batch.
    pub last: Option<BatchReport>,
    /// Failed checkpoints since the last successful one, and the last error.
    #[serde(default)]
    pub checkpoint_failures: (u64, Option<String>),
    /// Records that were set aside: see [`OnFailure::SetAside`](dstreams::OnFailure::SetAside).
    #[serde(default)]
    pub set_aside: u64,
    /// The newest batch that was set aside, and why.
    #[serde(default)]
    pub last_set_aside: Option<(BatchTime, String)>,
}

/// The status of a worker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number; a worker that rejoins gets a new one.
    pub id: u32,
    /// Its process.
    pub pid: u32,
    /// Its address for clients.
    pub ingest: String,
    /// Tasks it runs at once.
    pub cores: usize,
    /// Blocks that it stores, replicas included.
    pub blocks: usize,
    /// Bytes of memory of its blocks.
    pub block_memory: usize,
    /// Cached output partitions of its tasks.
    pub kept: usize,
    /// Partitions of state of which it is the primary.
    pub holds: Vec<u32>,
    /// Partitions of state of which it is the standby.
    pub stands_by: Vec<u32>,
    /// Bytes of memory of its process.
    pub resident_memory: u64,
    /// Whether it is slow: others do its work for a while. Only with
    /// [`MasterOptions::speculation`](crate::MasterOptions::speculation).
    #[serde(default)]
    pub slow: bool,
}

/// The status of an input stream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// The address on which its source listens, if it does; every worker receives streams of clients.
    pub listening: Option<String>,
    /// Pieces of input that are not records.
    pub dead_letters: u64,
}

/// Collects the status from reports of batches.
#[derive(Default)]
pub struct BatchWatch(Mutex<ClusterStatus>);

impl BatchWatch {
    /// The status now.
    pub fn status(&self, hub: &Hub) -> ClusterStatus {
        let mut status = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(durable) = hub.durable() {
            let failed = durable.failures();
            status.checkpoint_failures =
                (failed.tries, failed.error.map(|error| error.to_string()));
        }
        let state = hub.lock();
        status.losses = state.losses.count;
        status.lost = state.losses.newest();
        status.adopted = state.adopted;
        status.rebuilds = state.versions.era();
        status.rebuilt_partitions = state.versions.rebuilt;
        let mut dead_letters: BTreeMap<String, u64> = BTreeMap::new();
        let assignments: Vec<_> = state.assignments(128).collect();
        for (id, worker) in state.roster.all() {
            for (stream, count) in &worker.usage.dead_letters {
                *dead_letters.entry(stream.clone()).or_default() += count;
            }
            for (operator, count) in &worker.usage.rejected {
                *status.rejected.entry(operator.clone()).or_default() += count;
            }
            let of = |is: &dyn Fn(&Assignment) -> bool| {
                let all = (0..).zip(&assignments);
                let of = all.filter(|(_, it)| it.as_ref().is_some_and(is));
                of.map(|(partition, _)| partition).collect()
            };
            status.workers.push(WorkerStatus {
                id: id.0,
                pid: worker.pid,
                ingest: worker.address.clone(),
                cores: worker.cores,
                blocks: worker.usage.blocks,
                block_memory: worker.usage.block_memory,
                kept: worker.usage.kept,
                holds: of(&|it| it.primary == id),
                stands_by: of(&|it| it.standby == Some(id)),
                resident_memory: worker.usage.resident_memory,
                slow: state.slow.contains_key(&id),
            });
        }
        for (at, input) in (0..).zip(&hub.inputs) {
            status.streams.push(StreamStatus {
                name: input.name.clone(),
                listening: state.receivers.listening(at).cloned(),
                dead_letters: dead_letters.get(&input.name).copied().unwrap_or_default(),
            });
        }
        status
    }
}

impl Listener for BatchWatch {
    fn batch_completed(&self, report: &BatchReport) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.batches += 1;
        status.records += report.records;
        status.set_aside += report.set_aside;
        status.last = Some(report.clone());
    }

    fn batch_set_aside(&self, batch: BatchTime, error: &Error) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        status.last_set_aside = Some((batch, error.to_string()));
    }
}
