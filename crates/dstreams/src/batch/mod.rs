//! Batch: the blocks of an interval become the tasks' input.
//!
//! **In**: sealed blocks, the clock. **Out**: for each input stream, the rows of each task.
//! **Promise**: which rows a task gets depends on the blocks of the batch and the number of tasks
//! alone. **On failure**: nothing here can fail; a cut that waits for a receiver is bounded by the
//! controller.

mod assemble;
mod clock;

pub use assemble::{split, tasks_for};
pub use clock::{Clock, ManualClock};
