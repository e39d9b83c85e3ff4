//! Encoding: columns as bytes, in files and on the wire.
//!
//! **In**: Arrow batches. **Out**: frames with a length and a checksum, or pieces of a file of bounded size.
//! **Promise**: decoding returns what was encoded; sent buffers contain only their own rows. **On failure**: an
//! error names the file and the place in it; damaged bytes are never returned as rows.

mod frame;
mod ipc;
mod pieces;
mod stream;

pub(crate) use frame::FrameFormat;
#[cfg(test)]
pub(crate) use ipc::ENCODED;
pub use ipc::compact;
pub(crate) use ipc::{
    bytes_of, columns, compact_column, dense, each_batch, encode_batches, encode_in_parts,
    length_of, read_batches, write_batches,
};
pub(crate) use pieces::ByteChunks;
pub use stream::{ByteInput, ByteOutput};
#[cfg(test)]
pub(crate) use stream::{PIECE, in_one};
