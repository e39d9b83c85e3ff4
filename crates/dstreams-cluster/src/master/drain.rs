//! Drains a worker: it hands over its blocks and state, then leaves.

use dstreams_control::cluster::{ClusterEvent, WorkerId};
use tonic::Status;

use super::hub::Hub;
use crate::link::ToWorker;

impl Hub {
    /// Moves a worker's blocks and state to others, then ends it. Returns when it is drained, or lost meanwhile.
    ///
    /// Fails if there is no such worker or no other one that stays, or if blocks have one copy only: the records that
    /// it acknowledges last would be lost.
    pub async fn drain(&self, worker: WorkerId) -> Result<(), Status> {
        if self.copies < 2 {
            return Err(Status::failed_precondition(
                "this cluster stores one copy of each block, so the last blocks of the worker would be lost with it; \
                 stop the program, or start it with two copies",
            ));
        }
        {
            let mut state = self.lock();
            let there = |id: &WorkerId| state.workers.get(id).is_some_and(|it| it.joined);
            if !there(&worker) {
                return Err(Status::not_found(format!("there is no worker {worker}")));
            }
            let mut others = state
                .workers
                .keys()
                .filter(|id| **id != worker && there(id));
            if others.all(|id| state.draining.contains(id)) {
                return Err(Status::failed_precondition(format!(
                    "there is no other worker to take over from worker {worker}; start one first"
                )));
            }
            state.draining.insert(worker);
        }
        self.step(ClusterEvent::Drain { worker });
        self.until(|hub| {
            let state = hub.lock();
            let gone = !state.workers.contains_key(&worker);
            (gone || state.drained.contains(&worker)).then_some(())
        })
        .await;
        self.say(worker, &ToWorker::End);
        Ok(())
    }
}
