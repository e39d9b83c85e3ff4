//! [`ReceiverTable`]: the receivers of this process, of earlier ones and of each worker.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dstreams_control::ReceiverId;
use dstreams_control::cluster::WorkerId;

/// The receivers, beyond what the cluster machine knows of them.
#[derive(Default)]
pub struct ReceiverTable {
    /// Inputs of receivers that belong to no worker, but to this or an earlier process.
    of_masters: HashMap<ReceiverId, u32>,
    of_workers: HashMap<WorkerId, BTreeSet<ReceiverId>>,
    /// Addresses at which sources listen, by input.
    listening: BTreeMap<u32, String>,
}

impl ReceiverTable {
    /// Adds receivers of this or an earlier process, with their inputs.
    pub fn add_of_masters(&mut self, receivers: impl IntoIterator<Item = (ReceiverId, u32)>) {
        self.of_masters.extend(receivers);
    }

    /// Adds a receiver of a worker.
    pub fn add(&mut self, worker: WorkerId, receiver: ReceiverId) {
        self.of_workers.entry(worker).or_default().insert(receiver);
    }

    /// Removes a lost worker's receivers, and returns them.
    pub fn lose(&mut self, worker: WorkerId) -> BTreeSet<ReceiverId> {
        self.of_workers.remove(&worker).unwrap_or_default()
    }

    /// The input of a receiver that belongs to no worker.
    pub fn input_of(&self, receiver: ReceiverId) -> Option<u32> {
        self.of_masters.get(&receiver).copied()
    }

    /// The source of an input listens at this address.
    pub fn listens(&mut self, input: u32, address: String) {
        self.listening.insert(input, address);
    }

    /// The address at which the source of an input listens.
    pub fn listening(&self, input: u32) -> Option<&String> {
        self.listening.get(&input)
    }
}
