//! Program: what a user describes before it starts.
//!
//! **In**: operators, sources, outputs and settings. **Out**: a [`StreamContext`], and its [`Description`] once the
//! graph is complete. **Promise**: a description has no side effects; everything that can be checked without
//! running is checked here. **On failure**: an error names the setting or the operator, and what to change.

mod clock;
mod context;
mod description;
mod explain;
mod functions;
mod listener;
mod queries;
mod sources_end;
mod union;

pub use clock::{Clock, ManualClock};
pub use context::StreamContext;
pub use description::Description;
pub use listener::Listener;
pub(crate) use listener::notify;
pub use queries::SqlInput;
