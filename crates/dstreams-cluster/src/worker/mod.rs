//! Worker: receives records, stores blocks and state, and runs tasks.
//!
//! **In**: the address of a master. **Out**: replicated blocks, completed tasks. **Promise**: it stores
//! everything that it has reported as stored until the master releases it. **On failure**: when its
//! link breaks, it discards everything and rejoins as a new worker.

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
pub use run::{MAX_PATIENCE, MIN_PATIENCE, Membership, WorkerOptions, run};
