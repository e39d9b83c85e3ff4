//! Who is there, who receives, who holds which block, who holds which partition of state, and which worker takes a
//! producer's records: the decisions of a cluster's master beside those of the [`Controller`](crate::Controller).
//!
//! [`Cluster`] is a pure state machine too: [`step`](Cluster::step) takes a [`ClusterEvent`] and returns a list of
//! [`ClusterCommand`]s. It has no clock: who is lost, and how long to wait before a failure is told, the node decides.

mod blocks;
mod command;
mod config;
mod copies;
mod event;
mod fences;
mod ids;
mod machine;
mod partitions;
mod producers;
mod receivers;
mod roster;
mod spread;

pub use command::ClusterCommand;
pub use config::{ClusterConfig, InputKind};
pub use event::ClusterEvent;
pub use ids::{Mark, StoredBlock, WorkerId};
pub use machine::Cluster;
