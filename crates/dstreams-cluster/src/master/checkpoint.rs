//! [`Checkpoints`]: the checkpoint that workers are writing.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dstreams::Result;
use dstreams::internal::{CheckpointPlan, WrittenFile, state_file};
use dstreams_control::cluster::WorkerId;

use super::hub::{Holders, Hub};
use crate::link::ToWorker;
use crate::retry::retryable;

/// The checkpoint that workers are writing now; there is at most one.
#[derive(Default)]
pub struct Checkpoints(Mutex<CheckpointState>);

#[derive(Default)]
struct CheckpointState {
    number: u64,
    /// Workers without a snapshot yet: nothing may be installed until they have one.
    taking: BTreeSet<WorkerId>,
    /// Workers that have not written their part.
    writing: BTreeSet<WorkerId>,
    written: Vec<WrittenFile>,
    failure: Option<String>,
}

impl Checkpoints {
    fn lock(&self) -> MutexGuard<'_, CheckpointState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, number: u64, workers: impl Iterator<Item = WorkerId> + Clone) {
        *self.lock() = CheckpointState {
            number,
            taking: workers.clone().collect(),
            writing: workers.collect(),
            ..CheckpointState::default()
        };
    }

    /// A worker has a snapshot of its part of the state.
    pub fn taken(&self, worker: WorkerId, number: u64) {
        let mut state = self.lock();
        if state.number == number {
            state.taking.remove(&worker);
        }
    }

    /// A worker has written its part, or failed to.
    pub fn written(
        &self,
        worker: WorkerId,
        number: u64,
        written: Result<Vec<WrittenFile>, String>,
    ) {
        let mut state = self.lock();
        if state.number != number || !state.writing.remove(&worker) {
            return;
        }
        match written {
            Ok(written) => state.written.extend(written),
            Err(error) => state.failure = Some(format!("worker {worker}: {error}")),
        }
    }

    /// A worker was lost.
    pub fn lost(&self, worker: WorkerId) {
        let mut state = self.lock();
        state.taking.remove(&worker);
        if state.writing.remove(&worker) {
            state.failure = Some(format!("worker {worker} was lost"));
        }
    }

    /// Whether snapshots are being taken; until they are complete, the state must not change.
    pub fn is_taking(&self) -> bool {
        !self.lock().taking.is_empty()
    }

    /// The written files once all workers are done; an error as soon as one has failed.
    fn done(&self) -> Option<Result<Vec<WrittenFile>>> {
        let state = self.lock();
        match &state.failure {
            Some(failure) => Some(Err(retryable(failure.clone()))),
            None => (state.writing.is_empty()).then(|| Ok(state.written.clone())),
        }
    }
}

impl Hub {
    /// Makes the primaries snapshot their state for a checkpoint. Fails if one has a version other than the
    /// checkpoint's, because it has just received or recovered the partition.
    pub fn checkpoint(&self, plan: &CheckpointPlan, partitions: usize) -> Result<()> {
        if let Some(error) = self.broken() {
            return Err(error);
        }
        let holders: Option<Vec<_>> = self.holders(partitions).into_iter().collect();
        let holders = holders.ok_or_else(|| retryable("a partition has no primary"))?;
        for (partition, Holders { holder, .. }) in (0u32..).zip(&holders) {
            let version = self.version(*holder, partition);
            if version != Some(plan.batch) {
                let batch = plan.batch;
                return Err(retryable(format!(
                    "worker {holder} has partition {partition} as of {version:?}, not of {batch} yet"
                )));
            }
        }
        let workers: BTreeSet<WorkerId> = holders.iter().map(|of| of.holder).collect();
        self.checkpoints.begin(plan.tried, workers.iter().copied());
        for worker in workers {
            let held = (0u32..).zip(&holders).zip(&plan.since);
            let held = held.filter(|((_, of), _)| of.holder == worker);
            let process = format!("{}-{}", plan.incarnation, worker.0);
            let order = ToWorker::Checkpoint {
                checkpoint: plan.tried,
                file: state_file(plan.tried, &process),
                since: held
                    .map(|((partition, _), since)| (partition, since.clone()))
                    .collect(),
            };
            self.say(worker, &order);
            if !self.workers().contains_key(&worker) {
                self.checkpoints.lost(worker);
            }
        }
        Ok(())
    }

    /// Waits until the current checkpoint is written.
    pub async fn checkpointed(&self) -> Result<Vec<WrittenFile>> {
        self.until(|hub| hub.checkpoints.done()).await
    }
}
