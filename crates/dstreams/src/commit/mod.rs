//! Commit: makes a batch take effect outside.
//!
//! **In**: the output partitions of a batch. **Out**: effects. **Promise**: batches take effect in order: once if
//! the sink is exactly-once, else at least once (closures, prints and channels). **On failure**: the commit is
//! retried a bounded number of times, then the context stops and names the output.

mod files;
mod opened;
mod outputs;
mod prepare;

pub use files::FileSink;
pub use opened::OpenSinks;
pub use outputs::RddReceiver;
pub use prepare::{Dataset, Outputs};
pub(crate) use prepare::{PreparedBatch, commit};
