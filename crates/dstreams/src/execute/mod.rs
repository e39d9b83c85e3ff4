//! Execute: runs the plans of a batch as tasks.
//!
//! **In**: a [`Job`]: a template and the rows of its inputs. **Out**: the datasets of its outputs. **Promise**:
//! tasks are pure: they read datasets and return rows; the same job gives the same rows in the same order, however
//! often and in whatever order its tasks run. State changes only through [`StateInstaller`]. **On failure**: the typed
//! error of the first task that failed; a panic becomes an error that names the operator.

mod engine;
mod local;
mod previous_batch;
mod task;

pub use engine::{Job, StateInstaller};
pub(crate) use local::LocalEngine;
pub use previous_batch::{BatchSequence, PreviousBatch};
pub use task::run_task;
