//! A worker that is to leave: what it has goes to the others first.

use dstreams_control::cluster::{ClusterEvent, WorkerId};
use tonic::Status;

use super::hub::Hub;
use crate::link::ToWorker;

impl Hub {
    /// Gives away what a worker has, and then has it end. Returns when that is so; by then it may be lost too.
    ///
    /// Fails where there is no such worker, or no other one that stays, or each block is on one worker only: then what it
    /// acknowledges last would go with it.
    pub async fn drain(&self, worker: WorkerId) -> Result<(), Status> {
        if self.copies < 2 {
            return Err(Status::failed_precondition(
                "this cluster keeps one copy of each block, and those that a worker takes in last would go with it; \
                 stop the program, or begin it with two copies",
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
                    "no other worker stays that could take what worker {worker} has; start one first"
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
