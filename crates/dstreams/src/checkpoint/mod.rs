//! Checkpoint: a program in a directory, so that it can be killed and restarted.
//!
//! **In**: received blocks, the cut of each batch, its commit, the state as of a batch. **Out**: after a restart,
//! the newest checkpoint, the batches after it that took effect (replayed for their state alone), and those that
//! did not. **Promise**: everything acknowledged is in the journal or in a checkpoint; only the program that wrote
//! a directory, or one with compatible states, reads it ([`recover`]). **On failure**: a checkpoint that cannot be
//! written is retried with the next batch, and the journal retains what it needs; damage is an error that names
//! the file.

pub(crate) mod block_journal;
pub(crate) mod compatibility;
mod durable;
pub(super) mod inspect;
pub(super) mod lineage;
pub(crate) mod location;
pub(crate) mod manifest;
pub(crate) mod offsets;
mod publisher;
#[allow(missing_docs)] // public to `internal` only
pub(crate) mod recover;
mod retained_journal;
mod schedule;
#[allow(missing_docs)] // public to `internal` only
pub(crate) mod set_aside;
#[cfg(test)]
mod tests;
#[allow(missing_docs)] // public to `internal` only
pub(crate) mod writer;

pub use block_journal::{BlockJournal, dir_of};
pub use durable::Durable;
pub use inspect::{CheckpointInfo, Inspection, JournalInfo, inspect};
pub use lineage::{BatchLineage, Lineage};
pub use location::Store;
pub use manifest::state_file;
pub use recover::Restored;
pub use schedule::CheckpointFailures;
pub use set_aside::{RecoveryBatch, RecoverySource};
pub use writer::{
    CONCURRENT_READS, CheckpointPlan, PartAt, Writing, WrittenFile, blocking, load, on_disk, write,
};

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
