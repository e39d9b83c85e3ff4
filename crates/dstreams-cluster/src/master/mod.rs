//! Master: decides, and has workers do it.
//!
//! **In**: a program, workers that join. **Out**: its outputs, committed in this process. **Promise**:
//! what the two machines of `dstreams-control` decide is carried out in their order. **On failure**:
//! a worker whose link breaks is given up at once; a batch that needed it runs again.

mod calls;
mod checkpoint;
mod commands;
mod drain;
mod hear;
mod hub;
mod inputs;
mod options;
mod own;
mod remake;
mod rows;
mod run;
mod start;
mod state;
mod status;

pub use options::{MasterOptions, check_exposed};
pub use start::{Master, RunningCluster};
pub use status::{ClusterStatus, StreamStatus, WorkerStatus};
