//! [`Machine`]: the machine that the world drives.
//!
//! The cluster machine itself, or one with an injected fault.

use dstreams_control::BatchTime;
use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterEvent, WorkerId};

pub trait Machine {
    fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand>;

    /// For queries.
    fn state(&self) -> &Cluster;

    /// The partitions whose changes are still needed, and after which version.
    fn missing_changes(&self) -> Vec<(u32, BatchTime)> {
        self.state().missing_changes()
    }

    /// Whether a worker has all committed state of a partition.
    fn has_all(&self, partition: u32, worker: WorkerId) -> bool {
        self.state().has_all(partition, worker)
    }
}

impl Machine for Cluster {
    fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand> {
        Cluster::step(self, event)
    }

    fn state(&self) -> &Cluster {
        self
    }
}
