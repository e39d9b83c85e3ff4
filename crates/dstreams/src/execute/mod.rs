//! Execute: the plans of a batch run as tasks.
//!
//! **In**: a [`Job`]: a template and the rows of its inputs. **Out**: the datasets of its outputs.
//! **Promise**: tasks are pure: they read datasets and return rows; the same job gives the same
//! rows in the same order whatever the order in which its tasks run, and however often. State is
//! changed through [`Installs`] only. **On failure**: the typed error of the first task that
//! failed; a panic becomes an error that names the operator.

mod engine;
mod local;
mod task;

pub use engine::{Installs, Job};
pub(crate) use local::LocalEngine;
pub use task::run_task;
