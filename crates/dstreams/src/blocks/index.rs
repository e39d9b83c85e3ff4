//! The stored blocks and their places: bookkeeping alone, without files.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use dstreams_control::BlockId;

use super::spill::SpillFile;
use crate::blocks::Block;

/// The stored blocks.
#[derive(Default)]
pub(super) struct BlockIndex {
    blocks: HashMap<BlockId, BlockEntry>,
    /// By order of arrival.
    arrived: BTreeMap<u64, BlockId>,
    /// Blocks in memory that are not being written, by last use.
    idle: BTreeMap<u64, BlockId>,
    /// Counts arrivals and uses.
    ticks: u64,
    /// Bytes of all in memory, and of those among them being written.
    memory: u64,
    leaving: u64,
    disk: u64,
    expired: u64,
}

struct BlockEntry {
    number: u64,
    since: Instant,
    place: BlockPlace,
}

enum BlockPlace {
    Memory { block: Arc<Block>, used: u64 },
    Spilling { block: Arc<Block>, used: u64 },
    File(SpilledBlock),
}

/// A block in a file, and in memory while it is in use.
#[derive(Clone)]
pub(super) struct SpilledBlock {
    pub file: Arc<SpillFile>,
    pub schema: SchemaRef,
    read: Weak<Block>,
    number: u64,
}

/// The place of a block.
pub(super) enum BlockLocation {
    Memory(Arc<Block>),
    File(SpilledBlock),
}

/// A block to be written.
pub(super) struct Spilling {
    number: u64,
    pub block: Arc<Block>,
}

impl Spilling {
    /// The columns of the block.
    pub fn schema(&self) -> SchemaRef {
        let first = self.block.batches.first();
        first.map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema)
    }
}

/// Files to be removed by dropping them, outside the lock.
pub(super) type ReleasedFiles = Vec<Arc<SpillFile>>;

/// The contents of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holdings {
    /// Blocks.
    pub blocks: usize,
    /// Bytes of those in memory, as their receivers counted them.
    pub memory_bytes: u64,
    /// Bytes of files.
    pub disk_bytes: u64,
    /// The number of blocks ever released because of their age.
    pub expired: u64,
}

impl BlockIndex {
    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    /// Stores a block, unless it is already stored.
    pub fn insert(&mut self, block: Arc<Block>, now: Instant) {
        let id = block.meta.id;
        if self.blocks.contains_key(&id) {
            return;
        }
        let number = self.tick();
        self.memory += block.meta.bytes;
        self.arrived.insert(number, id);
        self.idle.insert(number, id);
        let place = BlockPlace::Memory {
            block,
            used: number,
        };
        let entry = BlockEntry {
            number,
            since: now,
            place,
        };
        self.blocks.insert(id, entry);
    }

    /// The place of a block; one in memory becomes the most recently used.
    pub fn find(&mut self, id: BlockId) -> Option<BlockLocation> {
        let now = self.tick();
        Some(match &mut self.blocks.get_mut(&id)?.place {
            BlockPlace::Memory { block, used } => {
                self.idle.remove(used);
                self.idle.insert(now, id);
                *used = now;
                BlockLocation::Memory(Arc::clone(block))
            }
            BlockPlace::Spilling { block, .. } => BlockLocation::Memory(Arc::clone(block)),
            BlockPlace::File(filed) => match filed.read.upgrade() {
                Some(block) => BlockLocation::Memory(block),
                None => BlockLocation::File(filed.clone()),
            },
        })
    }

    /// Remembers that a block was read from its file.
    pub fn was_read(&mut self, filed: &SpilledBlock, block: &Arc<Block>) {
        if let Some(entry) = self.blocks.get_mut(&block.meta.id)
            && entry.number == filed.number
            && let BlockPlace::File(filed) = &mut entry.place
        {
            filed.read = Arc::downgrade(block);
        }
    }

    /// Whether more than `bytes` are in memory and not being written.
    pub fn exceeds(&self, bytes: u64) -> bool {
        self.memory - self.leaving > bytes && !self.idle.is_empty()
    }

    /// The least recently used block if more than `bytes` are in memory. Write it, then call [`BlockIndex::left`]
    /// or [`BlockIndex::stays`].
    pub fn next_to_spill(&mut self, bytes: u64) -> Option<Spilling> {
        if !self.exceeds(bytes) {
            return None;
        }
        let (_, id) = self.idle.pop_first()?;
        let entry = self.blocks.get_mut(&id)?;
        let BlockPlace::Memory { block, used } = &entry.place else {
            return None;
        };
        let (block, used) = (Arc::clone(block), *used);
        self.leaving += block.meta.bytes;
        entry.place = BlockPlace::Spilling {
            block: Arc::clone(&block),
            used,
        };
        let number = entry.number;
        Some(Spilling { number, block })
    }

    /// The block is in a file; returns the file if the block was released meanwhile.
    pub fn left(&mut self, leaving: &Spilling, file: SpillFile) -> ReleasedFiles {
        let file = Arc::new(file);
        let Some(entry) = self.blocks.get_mut(&leaving.block.meta.id) else {
            return vec![file];
        };
        if entry.number != leaving.number {
            return vec![file];
        }
        self.memory -= leaving.block.meta.bytes;
        self.leaving -= leaving.block.meta.bytes;
        self.disk += file.bytes;
        entry.place = BlockPlace::File(SpilledBlock {
            file,
            schema: leaving.schema(),
            read: Arc::downgrade(&leaving.block),
            number: entry.number,
        });
        Vec::new()
    }

    /// The block could not be written.
    pub fn stays(&mut self, leaving: &Spilling) {
        let id = leaving.block.meta.id;
        let Some(entry) = self.blocks.get_mut(&id) else {
            return;
        };
        if let BlockPlace::Spilling { block, used } = &entry.place
            && entry.number == leaving.number
        {
            let (block, used) = (Arc::clone(block), *used);
            self.leaving -= block.meta.bytes;
            self.idle.insert(used, id);
            entry.place = BlockPlace::Memory { block, used };
        }
    }

    /// Releases blocks.
    pub fn remove(&mut self, ids: impl IntoIterator<Item = BlockId>) -> ReleasedFiles {
        let mut files = Vec::new();
        for id in ids {
            let Some(entry) = self.blocks.remove(&id) else {
                continue;
            };
            self.arrived.remove(&entry.number);
            match entry.place {
                BlockPlace::Memory { block, used } => {
                    self.memory -= block.meta.bytes;
                    self.idle.remove(&used);
                }
                BlockPlace::Spilling { block, .. } => {
                    self.memory -= block.meta.bytes;
                    self.leaving -= block.meta.bytes;
                }
                BlockPlace::File(filed) => {
                    self.disk -= filed.file.bytes;
                    files.push(filed.file);
                }
            }
        }
        files
    }

    /// Releases all blocks.
    pub fn clear(&mut self) -> ReleasedFiles {
        let ids: Vec<_> = self.blocks.keys().copied().collect();
        self.remove(ids)
    }

    /// Releases blocks stored for longer than `age`; returns how many.
    pub fn expire(&mut self, age: Duration, now: Instant) -> (usize, ReleasedFiles) {
        let old = self.arrived.values().copied().take_while(|id| {
            let entry = self.blocks.get(id);
            entry.is_some_and(|entry| now.saturating_duration_since(entry.since) > age)
        });
        let old: Vec<_> = old.collect();
        self.expired += old.len() as u64;
        (old.len(), self.remove(old))
    }

    #[cfg(test)]
    pub fn in_memory(&self, id: BlockId) -> bool {
        let entry = self.blocks.get(&id);
        entry.is_some_and(|entry| !matches!(entry.place, BlockPlace::File(_)))
    }

    pub fn holdings(&self) -> Holdings {
        Holdings {
            blocks: self.blocks.len(),
            memory_bytes: self.memory,
            disk_bytes: self.disk,
            expired: self.expired,
        }
    }
}
