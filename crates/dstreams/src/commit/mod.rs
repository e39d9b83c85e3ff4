//! Commit: a batch takes effect outside.
//!
//! **In**: the output partitions of a batch. **Out**: effects. **Promise**: each batch takes effect
//! in batch order; once, where the sink is exactly-once, at least once otherwise (closures, prints
//! and channels are). **On failure**: the commit is repeated a bounded number of times, then the
//! context stops and names the output.

mod files;
mod opened;
mod outputs;
mod prepare;

pub use files::FileSink;
pub use opened::OpenSinks;
pub use outputs::RddReceiver;
pub use prepare::{Dataset, Outputs};
pub(crate) use prepare::{PreparedBatch, commit};
