//! Worker: receives, holds blocks and state, and runs tasks.
//!
//! **In**: the address of a master. **Out**: blocks that are safe, tasks that have run. **Promise**:
//! what it says it holds it holds until the master says otherwise. **On failure**: when its link
//! breaks it forgets everything and joins again, as another worker.

mod calls;
mod claims;
mod executor;
mod journal;
mod memory;
mod replicas;
mod replicate;
mod run;
mod scratch;
mod session;
mod state;

pub use executor::engine_name;
pub use run::{LEAST_PATIENCE, MOST_PATIENCE, WorkerOptions, run};
