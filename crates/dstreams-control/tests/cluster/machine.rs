//! [`Machine`]: what the world drives.
//!
//! It is the cluster machine, or one that was tampered with.

use dstreams_control::BatchTime;
use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterEvent, WorkerId};

pub trait Machine {
    fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand>;

    /// To ask.
    fn state(&self) -> &Cluster;

    /// Of which partitions changes are needed still, and from which version on.
    fn needs(&self) -> Vec<(u32, BatchTime)> {
        self.state().needs()
    }

    /// Whether a worker has all that is committed of a partition.
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
