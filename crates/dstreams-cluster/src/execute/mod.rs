//! Execute: the jobs of a batch in the engine, and the tasks of a worker.
//!
//! **In**: plans of [`StepExec`](crate::plan::StepExec)s. **Out**: datasets cached by workers.
//! **Promise**: tasks return the same rows wherever, whenever and however often they run. **On
//! failure**: errors of a machine or the engine are retryable; errors of a closure are not, and arrive
//! with their operator. Lost reports and lost tasks are detected.

mod dataset_cache;
mod engine;
mod era;
mod graph;
mod launch;
mod placement;
mod pool;
mod scheduler_proxy;
mod speculate;
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
