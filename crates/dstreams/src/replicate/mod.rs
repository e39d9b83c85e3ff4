//! Replicate: sealed blocks are held until no batch needs them.
//!
//! **In**: sealed blocks. **Out**: the same blocks, by id. **Promise**: a block stays until it is
//! forgotten, and its memory is given back then. On one machine there is one copy, in memory.
//! **On failure**: asking for a block that is not held is an error that names it.

mod frame;
mod ipc;
mod store;

pub(crate) use frame::Format;
pub(crate) use ipc::{columns, read_batches, write_batches};
pub use store::BlockStore;
