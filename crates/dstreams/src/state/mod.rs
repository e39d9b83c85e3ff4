//! State: data that outlives a batch.
//!
//! **In**: the delta of a batch for each partition. **Out**: the contents of a window or a keyed state at a batch
//! time. **Promise**: installing is the only mutation, and idempotent: a delta that is already installed is
//! ignored. The cost of installing depends on the keys of the new and of the expiring batch, not on the size of
//! the state. An exported and imported partition behaves identically, bit by bit. [`keyed`] is the versioned state
//! of keyed operators; beyond a memory limit ([`StateMemoryBudget`]) its rows are in files. **On failure**: a delta after a gap
//! is refused, as are bytes that are damaged or of other states; nothing changes then.

mod accumulators;
mod capture;
mod history;
mod key_slots;
mod keyed;
mod memory_budget;
mod since_checkpoint;
mod states;
pub mod versioned;
mod window;

pub(crate) mod encoding;
#[cfg(test)]
mod tests;

pub use capture::Captured;
pub use memory_budget::StateMemoryBudget;
pub use states::States;
