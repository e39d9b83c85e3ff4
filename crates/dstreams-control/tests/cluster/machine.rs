//! [`Machine`]: what the world drives.
//!
//! It is the cluster machine, or one that was tampered with.

use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterEvent};

pub trait Machine {
    fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand>;

    /// To ask.
    fn state(&self) -> &Cluster;
}

impl Machine for Cluster {
    fn step(&mut self, event: ClusterEvent) -> Vec<ClusterCommand> {
        Cluster::step(self, event)
    }

    fn state(&self) -> &Cluster {
        self
    }
}
