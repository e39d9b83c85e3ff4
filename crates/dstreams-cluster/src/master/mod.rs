//! Master: decides, and has workers do it.
//!
//! **In**: a program, workers that join. **Out**: its outputs, committed in this process. **Promise**:
//! what the two machines of `dstreams-control` decide is carried out in their order. **On failure**:
//! a worker whose link breaks is given up at once; a batch that needed it runs again.

mod batch;
mod batch_state;
mod calls;
mod checkpoint;
mod commands;
mod datasets;
mod drain;
mod hub;
mod inputs;
mod local_inputs;
mod messages;
mod options;
mod remake;
mod start;
mod status;

pub use options::MasterOptions;
pub use start::{Master, RunningCluster};
pub use status::{ClusterStatus, StreamStatus, WorkerStatus};
