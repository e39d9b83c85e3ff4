//! Blocks: the store keeps sealed blocks until no batch needs them.
//!
//! **In**: sealed blocks. **Out**: the same blocks, by id, or as bytes for another process. **Promise**: a block
//! stays until it is released (or too old, if an age is set). Its memory is freed then, or when it moves to a
//! file. Bytes decode to the same block, or to an error. **On failure**: asking for a missing block is an error
//! that names it. A block that cannot be written to a file stays in memory.

mod block;
mod encoding;
mod index;
mod memory_budget;
mod spill;
mod store;

pub use block::Block;
pub(crate) use memory_budget::Unfinished;
pub use memory_budget::{Budget, BudgetShare};
pub use store::{BlockStore, Bounds};
