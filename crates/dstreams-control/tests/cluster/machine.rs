//! [`Machine`]: what the world drives.
//!
//! It is the cluster machine, or one that was tampered with.

use dstreams_control::BatchTime;
use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterEvent};

pub trait Machine {
    fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand>;

    /// To ask.
    fn state(&self) -> &Cluster;

    /// Of which partitions changes are needed still, and from which version on.
    fn needs(&self) -> Vec<(u32, BatchTime)> {
        self.state().needs()
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
