//! Execute: the jobs of a batch on the engine, and the tasks of a worker.
//!
//! **In**: plans of [`StepExec`](crate::plan::StepExec)s. **Out**: datasets that are kept by workers.
//! **Promise**: tasks give the same rows wherever, whenever and however often they run. **On
//! failure**: rows that cannot be fetched are worth another try; what a closure did wrong is told
//! with its operator, and is not.

mod engine;
mod kept;
mod policy;
mod site;
mod told;

pub use engine::{Engine, retryable, session_config};
pub use site::Site;
