//! Replicate: sealed blocks are held until no batch needs them.
//!
//! **In**: sealed blocks. **Out**: the same blocks, by id, or as bytes for another process.
//! **Promise**: a block stays until it is forgotten (or too old, where an age is set), and its memory
//! is given back then, or when it moves to a file. Bytes make the same block again, or an error.
//! **On failure**: asking for a block that is not held is an error that names it. A block that
//! cannot be written to a file stays in memory.

mod bytes;
mod frame;
mod held;
mod ipc;
mod pieces;
mod spill;
mod store;
mod stream;

pub(crate) use frame::Format;
pub use ipc::compact;
pub(crate) use ipc::{
    columns, compact_column, each_batch, encode_in_parts, length_of, write_batches,
};
pub(crate) use pieces::Pieces;
pub use store::{BlockStore, Bounds};
pub use stream::{Input, Output};
#[cfg(test)]
pub(crate) use {
    ipc::ENCODED,
    stream::{PIECE, in_one},
};
