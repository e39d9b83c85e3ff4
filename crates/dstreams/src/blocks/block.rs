//! A block: an immutable run of records.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use dstreams_control::{BlockId, BlockMeta};

use super::memory_budget::BudgetShare;
use crate::debug::debug_as;

/// Batches with fewer rows on average are merged: each costs about as much as this many rows.
const MIN_ROWS_PER_BATCH: usize = 256;

/// An immutable run of records received by one receiver.
pub struct Block {
    /// Its id and size.
    pub meta: BlockMeta,
    /// Its records.
    pub batches: Vec<RecordBatch>,
    /// The last number of each named producer of these records.
    pub offsets: BTreeMap<Arc<str>, u64>,
    /// The memory reserved for it until it is dropped.
    _memory: Vec<BudgetShare>,
}

debug_as!(Block { meta });

impl Block {
    /// A block without offsets.
    pub fn new(
        id: BlockId,
        batches: Vec<RecordBatch>,
        bytes: usize,
        memory: Vec<BudgetShare>,
    ) -> Self {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let joined = match batches.first() {
            Some(first) if batches.len() > 1 && rows < MIN_ROWS_PER_BATCH * batches.len() => {
                concat_batches(&first.schema(), &batches).ok()
            }
            _ => None,
        };
        let batches = joined.map_or(batches, |joined| vec![joined]);
        let meta = BlockMeta {
            id,
            rows: rows as u64,
            bytes: bytes as u64,
        };
        Block {
            meta,
            batches,
            offsets: BTreeMap::new(),
            _memory: memory,
        }
    }

    /// The same with offsets.
    pub fn with_offsets(mut self, offsets: BTreeMap<Arc<str>, u64>) -> Self {
        self.offsets = offsets;
        self
    }
}
