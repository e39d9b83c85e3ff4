//! Blocks: sealed blocks are stored until no batch needs them.
//!
//! **In**: sealed blocks. **Out**: the same blocks, by id, or as bytes for another process.
//! **Promise**: a block stays until it is forgotten (or too old, where an age is set), and its memory
//! is given back then, or when it moves to a file. Bytes make the same block again, or an error.
//! **On failure**: asking for a block that is not held is an error that names it. A block that
//! cannot be written to a file stays in memory.

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
