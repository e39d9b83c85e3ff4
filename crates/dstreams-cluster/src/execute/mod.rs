//! Execute: the jobs of a batch on the engine, and the tasks of a worker.
//!
//! **In**: plans of [`StepExec`](crate::plan::StepExec)s. **Out**: datasets that are kept by workers.
//! **Promise**: tasks give the same rows wherever, whenever and however often they run. **On
//! failure**: what a machine or the engine did not manage is worth another try; what a closure did
//! wrong arrives with its operator, and is not. A report or a task that was lost is found.

mod dataset_cache;
mod engine;
mod front;
mod launch;
mod placement;
mod pool;
mod task_error;
mod task_runner;
mod tasks;
#[cfg(test)]
mod tests;
mod watch;

pub use engine::{ClusterEngine, session_config};
pub use launch::MESSAGE;
pub use task_runner::TaskRunner;
pub use tasks::Tasks;
