//! [`Roster`]: the connected workers, their links, and which of them are to leave.

use std::collections::{BTreeMap, BTreeSet};

use dstreams_control::cluster::WorkerId;
use tonic::Status;

use crate::link::{Sender, ToWorker, WorkerUsage};

/// A connected worker.
#[derive(Clone)]
pub struct Worker {
    pub link: Sender<ToWorker>,
    pub address: String,
    pub pid: u32,
    pub cores: usize,
    pub usage: WorkerUsage,
    /// Whether it can run tasks.
    pub joined: bool,
}

/// The connected workers. Numbers are never reused; what drains or has drained is connected.
#[derive(Default)]
pub struct Roster {
    workers: BTreeMap<WorkerId, Worker>,
    /// The newest worker's number.
    newest: u32,
    draining: BTreeSet<WorkerId>,
    /// Drained workers, which may leave: all their data is also on others.
    drained: BTreeSet<WorkerId>,
}

#[cfg(test)]
impl Worker {
    /// A worker of tests, whose messages nobody reads.
    pub fn unlinked() -> Self {
        Worker {
            link: crate::link::channel().0,
            address: String::new(),
            pid: 0,
            cores: 1,
            usage: WorkerUsage::default(),
            joined: false,
        }
    }
}

impl Roster {
    /// Assigns a number to a new worker.
    pub fn number(&mut self) -> WorkerId {
        self.newest += 1;
        WorkerId(self.newest)
    }

    /// Adds a worker that runs the same program.
    pub fn add(&mut self, id: WorkerId, worker: Worker) {
        self.workers.insert(id, worker);
    }

    /// Marks a worker as able to run tasks. Returns `false` if it was lost meanwhile.
    pub fn join(&mut self, id: WorkerId) -> bool {
        let worker = self.workers.get_mut(&id);
        worker.map(|worker| worker.joined = true).is_some()
    }

    /// Removes a lost worker. Returns whether it had joined.
    pub fn lose(&mut self, id: WorkerId) -> bool {
        self.draining.remove(&id);
        self.drained.remove(&id);
        let worker = self.workers.remove(&id);
        worker.is_some_and(|worker| worker.joined)
    }

    pub fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub fn contains(&self, id: WorkerId) -> bool {
        self.workers.contains_key(&id)
    }

    pub fn address(&self, id: WorkerId) -> Option<String> {
        Some(self.get(id)?.address.clone())
    }

    /// All workers by number, also those that have not joined.
    pub fn all(&self) -> impl ExactSizeIterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    /// The workers that have joined, by number.
    pub fn joined(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.all().filter(|(_, worker)| worker.joined)
    }

    /// Whether so many workers have joined; or all that are connected, since some may have been lost meanwhile.
    pub fn has_enough(&self, wanted: usize) -> bool {
        self.joined().count() >= wanted.min(self.workers.len()).max(1)
    }

    /// Records the counts and sizes of a worker's data.
    pub fn usage(&mut self, id: WorkerId, usage: WorkerUsage) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.usage = usage;
        }
    }

    /// Sends a message to one worker.
    pub fn send(&self, id: WorkerId, message: &ToWorker) {
        if let Some(worker) = self.get(id) {
            worker.link.send(message);
        }
    }

    /// Sends a message to every worker that has joined.
    pub fn broadcast(&self, message: &ToWorker) {
        for (_, worker) in self.joined() {
            worker.link.send(message);
        }
    }

    /// Marks a worker as draining.
    ///
    /// Fails if there is no such worker, or no other one that stays.
    pub fn drain(&mut self, id: WorkerId) -> Result<(), Status> {
        if !self.joined().any(|(worker, _)| worker == id) {
            return Err(Status::not_found(format!("there is no worker {id}")));
        }
        let stays = |worker| worker != id && !self.draining.contains(&worker);
        if !self.joined().any(|(worker, _)| stays(worker)) {
            return Err(Status::failed_precondition(format!(
                "there is no other worker to take over from worker {id}; start one first"
            )));
        }
        self.draining.insert(id);
        Ok(())
    }

    /// All data of a worker is on others too.
    pub fn drained(&mut self, id: WorkerId) {
        self.drained.insert(id);
    }

    /// Whether all data of a worker is on others too, so that it may leave.
    pub fn is_drained(&self, id: WorkerId) -> bool {
        self.drained.contains(&id)
    }

    /// Whether a worker may leave, or has left.
    pub fn may_leave(&self, id: WorkerId) -> bool {
        !self.contains(id) || self.drained.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_starts_with_the_workers_that_are_left() {
        let mut roster = Roster::default();
        assert!(!roster.has_enough(2));
        let [first, second] = [(); 2].map(|()| {
            let id = roster.number();
            roster.add(id, Worker::unlinked());
            id
        });
        assert!(roster.join(first) && !roster.has_enough(2));
        roster.lose(second);
        assert!(roster.has_enough(2));
        roster.lose(first);
        assert!(!roster.has_enough(2));
    }
}
