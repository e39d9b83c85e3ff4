//! Node: wires the stages of one process together.
//!
//! **In**: a described program. **Out**: a [`Running`] one. **Promise**: what the controller decides
//! is carried out in its order; whatever takes time runs beside it. **On failure**: a batch that
//! cannot be run or committed stops the context, with the batch, the operator and the cause.

mod context;
mod job;
mod listener;
mod master;
mod running;
mod start;

pub use context::{Named, StreamContext};
pub use listener::Listener;
pub use running::{Running, Status, Summary};
