//! Discretized Streams on many machines: master and workers on Apache DataFusion Ballista.

pub mod app;
mod data;
mod execute;
mod link;
pub mod logs;
mod master;
mod plan;
mod retry;
mod worker;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/when-a-batch-fails.md")]
struct WhenABatchFails;

pub use app::main;
pub use dstreams_control::cluster::SpeculationConfig;
pub use master::{
    ClusterStatus, LossReason, LostWorker, Master, MasterOptions, RunningCluster, StreamStatus,
    WorkerStatus,
};
pub use worker::{Membership, WorkerOptions, run as run_worker};
