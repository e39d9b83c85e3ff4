//! Master: decides, and makes workers carry out its decisions.
//!
//! **In**: a program, workers that join. **Out**: its outputs, committed in this process. **Promise**:
//! commands of the two state machines of `dstreams-control` are carried out in their order. **On failure**:
//! a worker whose link breaks is given up at once; batches that needed it are retried.

mod batch;
mod batch_state;
mod calls;
mod checkpoint;
mod claims;
mod cluster_state;
mod cluster_workers;
mod datasets;
mod hub;
mod inputs;
mod link_watch;
mod local_inputs;
mod losses;
mod options;
mod rebuild;
mod receivers;
mod roster;
mod start;
mod state_versions;
mod status;
mod takeover;

pub use losses::{LossReason, LostWorker};
pub use options::MasterOptions;
pub use start::{Master, RunningCluster};
pub use status::{ClusterStatus, StreamStatus, WorkerStatus};
