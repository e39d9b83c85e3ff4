//! [`CheckpointRound`]: the checkpoint that workers are writing.

use std::collections::BTreeSet;

use dstreams::Result;
use dstreams::internal::{CheckpointPlan, WrittenFile, state_file};
use dstreams_control::cluster::WorkerId;

use super::cluster_state::Assignment;
use super::roster::Roster;
use super::state_versions::StateVersions;
use crate::link::ToWorker;
use crate::retry::retryable;

/// The checkpoint that workers are writing now; there is at most one.
#[derive(Default)]
pub struct CheckpointRound {
    number: u64,
    /// Workers without a snapshot yet: nothing may be installed until they have one.
    taking: BTreeSet<WorkerId>,
    /// Workers that have not written their part.
    writing: BTreeSet<WorkerId>,
    written: Vec<WrittenFile>,
    failure: Option<String>,
}

impl CheckpointRound {
    /// Makes the primaries snapshot their state. Fails if one has a version other than the checkpoint's, because it
    /// has just received or recovered the partition.
    pub fn begin(
        &mut self,
        plan: &CheckpointPlan,
        assignments: &[Assignment],
        versions: &StateVersions,
        roster: &Roster,
    ) -> Result<()> {
        for (partition, Assignment { primary, .. }) in (0u32..).zip(assignments) {
            let version = versions.version(*primary, partition);
            if version != Some(plan.batch) {
                let batch = plan.batch;
                return Err(retryable(format!(
                    "worker {primary} has partition {partition} as of {version:?}, not of {batch} yet"
                )));
            }
        }
        let workers: BTreeSet<WorkerId> = assignments.iter().map(|of| of.primary).collect();
        *self = CheckpointRound {
            number: plan.tried,
            taking: workers.clone(),
            writing: workers.clone(),
            ..CheckpointRound::default()
        };
        for worker in workers {
            let held = (0u32..).zip(assignments).zip(&plan.since);
            let held = held.filter(|((_, of), _)| of.primary == worker);
            let process = format!("{}-{}", plan.incarnation, worker.0);
            let order = ToWorker::Checkpoint {
                checkpoint: plan.tried,
                file: state_file(plan.tried, &process),
                since: held
                    .map(|((partition, _), since)| (partition, since.clone()))
                    .collect(),
            };
            roster.send(worker, &order);
            if !roster.contains(worker) {
                self.lose(worker);
            }
        }
        Ok(())
    }

    /// A worker has a snapshot of its part of the state.
    pub fn taken(&mut self, worker: WorkerId, number: u64) {
        if self.number == number {
            self.taking.remove(&worker);
        }
    }

    /// A worker has written its part, or failed to.
    pub fn written(
        &mut self,
        worker: WorkerId,
        number: u64,
        written: Result<Vec<WrittenFile>, String>,
    ) {
        if self.number != number || !self.writing.remove(&worker) {
            return;
        }
        match written {
            Ok(written) => self.written.extend(written),
            Err(error) => self.failure = Some(format!("worker {worker}: {error}")),
        }
    }

    /// A worker was lost.
    pub fn lose(&mut self, worker: WorkerId) {
        self.taking.remove(&worker);
        if self.writing.remove(&worker) {
            self.failure = Some(format!("worker {worker} was lost"));
        }
    }

    /// Whether snapshots are being taken; until they are complete, the state must not change.
    pub fn is_taking(&self) -> bool {
        !self.taking.is_empty()
    }

    /// The written files once all workers are done; an error as soon as one has failed.
    pub fn done(&self) -> Option<Result<Vec<WrittenFile>>> {
        match &self.failure {
            Some(failure) => Some(Err(retryable(failure.clone()))),
            None => (self.writing.is_empty()).then(|| Ok(self.written.clone())),
        }
    }
}
