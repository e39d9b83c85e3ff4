//! State: what outlives a batch.
//!
//! **In**: the delta of a batch for each partition. **Out**: what a window holds at a batch time.
//! **Promise**: installing is the only mutation, and idempotent: a delta that was installed is
//! ignored. The cost of installing follows the keys of the new and of the expiring batch, not what
//! is held. **On failure**: a delta older than what is installed, or after a gap, is refused.

mod columns;
mod keys;
mod stacks;
mod window;
mod windows;

pub use windows::Windows;
