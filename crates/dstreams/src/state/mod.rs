//! State: what outlives a batch.
//!
//! **In**: the delta of a batch for each partition. **Out**: what a window or a keyed state holds at a batch time.
//! **Promise**: installing is the only mutation, and idempotent: a delta that was installed is
//! ignored. The cost of installing follows the keys of the new and of the expiring batch, not what
//! is held. Exported and imported again, a partition goes on as it would have, bit by bit.
//! [`keyed`] is the state of keyed operators, version by version; beyond a bound on memory ([`Room`]) its rows are in
//! files.
//! **On failure**: a delta after a gap is refused; so are bytes that are damaged or of other states,
//! and then nothing changes.

mod accumulators;
mod capture;
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
pub use memory_budget::Room;
pub use states::States;
