//! A block as bytes, and back.
//!
//! The receiver (`u64`; `u32` in format 1), the block's number, its number of records and its bytes of memory
//! (`u64` each); the offsets: how many (`u32`), and for each its name's length (`u32`), its name and its number
//! (`u64`); then an Arrow IPC stream to the end. The frame is that of [`FrameFormat`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, TryGetError};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::{BlockId, ReceiverId};

use crate::blocks::{Block, BudgetShare};
use crate::encoding::ByteChunks;
use crate::encoding::FrameFormat;
use crate::encoding::{encode_batches, read_batches};
use crate::error::Result;

const BLOCK: FrameFormat = FrameFormat {
    what: "a block",
    magic: *b"dstr-blk",
    version: 2,
};
/// The format of earlier programs.
const BLOCK_1: FrameFormat = FrameFormat {
    version: 1,
    ..BLOCK
};

/// Bytes before the offsets.
const HEAD: usize = 4 * 8 + 4;
/// The largest credible size of a block: more than any machine's memory.
const MAX_BLOCK_BYTES: u64 = 1 << 48;

impl Block {
    /// The bytes of a block of a stream with columns `schema`. Of the string buffers they contain little more than
    /// the strings in use.
    pub fn to_bytes(&self, schema: &SchemaRef) -> Result<Vec<u8>> {
        Ok(BLOCK.seal_pieces(&self.to_pieces(schema)?))
    }

    /// The same as chunks, without copying and without a checksum.
    pub(crate) fn to_pieces(&self, schema: &SchemaRef) -> Result<ByteChunks> {
        let mut bytes = BLOCK.begin(HEAD);
        let BlockId { receiver, seq } = self.meta.id;
        for number in [receiver.0, seq, self.meta.rows, self.meta.bytes] {
            bytes.put_u64_le(number);
        }
        bytes.put_u32_le(self.offsets.len() as u32);
        for (producer, last) in &self.offsets {
            bytes.put_u32_le(producer.len() as u32);
            bytes.put_slice(producer.as_bytes());
            bytes.put_u64_le(*last);
        }
        let mut pieces = ByteChunks::from(bytes);
        encode_batches(&mut pieces, schema, &self.batches)?;
        Ok(pieces)
    }

    /// Decodes a block, which must have the columns of `schema`; it holds `memory` from then on.
    ///
    /// Any other bytes are an error: damaged, of another format, made up.
    pub fn from_bytes(bytes: &[u8], schema: &SchemaRef, memory: Vec<BudgetShare>) -> Result<Block> {
        let (is_wide, body) = match BLOCK_1.open_unsealed(bytes) {
            Ok(_) => (false, BLOCK_1.open(bytes)?),
            Err(_) => (true, BLOCK.open(bytes)?),
        };
        Block::from_body(is_wide, body, schema, memory)
    }

    /// Decodes a block without a checksum; the caller has verified the bytes.
    pub(crate) fn from_unsealed(bytes: &[u8], schema: &SchemaRef) -> Result<Block> {
        let (is_wide, body) = match BLOCK_1.open_unsealed(bytes) {
            Ok(body) => (false, body),
            Err(_) => (true, BLOCK.open_unsealed(bytes)?),
        };
        Block::from_body(is_wide, body, schema, Vec::new())
    }

    fn from_body(
        is_wide: bool,
        mut from: &[u8],
        schema: &SchemaRef,
        memory: Vec<BudgetShare>,
    ) -> Result<Block> {
        let (id, rows, size, offsets) = head(is_wide, &mut from)?;
        if size > MAX_BLOCK_BYTES {
            return Err(BLOCK.wrong(format!("a block claims {size} bytes of memory")));
        }
        let batches = read_batches("a block's records", from, schema)?;
        let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if found as u64 != rows {
            return Err(BLOCK.wrong(format!("{found} records where {rows} belong")));
        }
        Ok(Block::new(id, batches, size as usize, memory).with_offsets(offsets))
    }
}

type OffsetMap = BTreeMap<Arc<str>, u64>;

/// The fields before the records: id, number of records, bytes of memory, offsets.
fn head(is_wide: bool, from: &mut &[u8]) -> Result<(BlockId, u64, u64, OffsetMap)> {
    let short = |error: TryGetError| BLOCK.wrong(error.to_string());
    let receiver = match is_wide {
        true => from.try_get_u64_le(),
        false => from.try_get_u32_le().map(u64::from),
    };
    let receiver = ReceiverId(receiver.map_err(short)?);
    let seq = from.try_get_u64_le().map_err(short)?;
    let rows = from.try_get_u64_le().map_err(short)?;
    let size = from.try_get_u64_le().map_err(short)?;
    let mut offsets = OffsetMap::new();
    for _ in 0..from.try_get_u32_le().map_err(short)? {
        let length = from.try_get_u32_le().map_err(short)? as usize;
        let name = from.split_at_checked(length);
        let (name, rest) = name.ok_or_else(|| BLOCK.wrong("a name exceeds the bytes"))?;
        *from = rest;
        let name = str::from_utf8(name).map_err(|error| BLOCK.wrong(error.to_string()))?;
        offsets.insert(Arc::from(name), from.try_get_u64_le().map_err(short)?);
    }
    Ok((BlockId { receiver, seq }, rows, size, offsets))
}

#[cfg(test)]
mod tests;
