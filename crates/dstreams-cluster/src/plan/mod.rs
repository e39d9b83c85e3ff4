//! Plan: a batch as jobs of the engine.
//!
//! **In**: a template, the blocks of a batch, the locations of data. **Out**: plans whose nodes name steps
//! of the template ([`StepExec`]), to be submitted one after the other, with places for their tasks.
//! **Promise**: the rows that a task reads follow from the blocks alone, as on one machine. **On
//! failure**: an error that names the step, before anything is submitted.

mod codec;
mod due_rows;
pub mod exchange;
mod job;
mod shape;
mod step;
mod task;
mod verify;

pub use codec::Codec;
pub use due_rows::{due_of, due_rows};
pub use job::{Binding, Job};
pub use shape::{Delivery, Shape, Shapes, into, states_are_chained};
pub use step::{Exit, Gate, Place, RunStep, StepExec, StepHeader, TaskWork, Wire};
pub use task::{CachedId, Part, Slice, Source, TaskName, TaskSpec, TaskState};
pub use verify::check;
