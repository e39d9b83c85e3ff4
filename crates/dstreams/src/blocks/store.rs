//! The block store: blocks in memory up to a limit, and the rest in files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dstreams_control::BlockId;
use tokio::runtime::Handle;

use super::index::{BlockIndex, BlockLocation, Holdings, ReleasedFiles, SpilledBlock, Spilling};
use super::spill::{SpillDir, SpillFile};
use crate::blocks::Block;
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// Limits of a block store; unlimited by default.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// The directory for blocks beyond the memory limit, created if missing; no other store, of this or another
    /// process, may use it at the same time. Without one, all blocks are in memory.
    pub spill: Option<PathBuf>,
    /// The most bytes of blocks in memory, given a directory for others. Blocks being received, written or read
    /// are not counted.
    pub memory: u64,
    /// The longest time a block is stored; an older one is released, needed or not, and counted. A batch that
    /// still needs it fails with [`Error::LostBlock`].
    pub age: Option<Duration>,
}

/// Blocks by id.
#[derive(Default)]
pub struct BlockStore(Arc<StoreInner>);

debug_as!(BlockStore);

#[derive(Default)]
struct StoreInner {
    // Lock order L4 in ARCHITECTURE.md: last.
    index: Mutex<BlockIndex>,
    spill: Option<SpillDir>,
    memory: u64,
    age: Option<Duration>,
}

impl BlockStore {
    /// A store with limits. Files of an earlier process in the directory are removed.
    pub fn open(bounds: Bounds) -> Result<Self> {
        Ok(BlockStore(Arc::new(StoreInner {
            index: Mutex::default(),
            spill: bounds.spill.map(SpillDir::open).transpose()?,
            memory: bounds.memory,
            age: bounds.age,
        })))
    }

    /// Stores a block in memory; one that is already stored stays unchanged. Never fails and never waits;
    /// [`BlockStore::make_room`] bounds the memory.
    pub fn insert(&self, block: Arc<Block>) {
        self.insert_at(block, Instant::now());
    }

    fn insert_at(&self, block: Arc<Block>, now: Instant) {
        let mut index = self.0.lock();
        index.insert(block, now);
        let (expired, files) = match self.0.age {
            Some(age) => index.expire(age, now),
            None => (0, ReleasedFiles::new()),
        };
        drop(index);
        if expired > 0 {
            tracing::warn!(blocks = expired, "released blocks because of their age");
        }
        remove(files);
    }

    /// Stores a block, and spills others if memory is full.
    ///
    /// After an error the block is stored nonetheless, and memory may exceed its limit.
    pub async fn insert_and_spill(&self, block: Arc<Block>) -> Result<()> {
        self.insert(block);
        self.make_room().await
    }

    /// Writes the least recently used blocks to files until memory is within its limit.
    ///
    /// A block leaves memory once its file is complete. An error (a full disk) names the path; the block stays in
    /// memory, and the next call retries. Dropping the future does not stop it.
    pub async fn make_room(&self) -> Result<()> {
        if self.0.spill.is_none() || !self.0.lock().exceeds(self.0.memory) {
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        on_blocking_thread(move || shared.make_room()).await
    }

    /// The block, if it is in memory.
    pub fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        match self.0.lock().find(id)? {
            BlockLocation::Memory(block) => Some(block),
            BlockLocation::File(_) => None,
        }
    }

    /// The block, if it is stored; read from its file, unless it is in memory.
    ///
    /// A block that was read is in memory while it is in use, and no budget counts it: the caller's concurrency
    /// bounds it.
    pub async fn fetch(&self, id: BlockId) -> Result<Option<Arc<Block>>> {
        let found = self.0.lock().find(id);
        match found {
            None => Ok(None),
            Some(BlockLocation::Memory(block)) => Ok(Some(block)),
            Some(BlockLocation::File(filed)) => {
                let shared = Arc::clone(&self.0);
                let read = on_blocking_thread(move || shared.read(id, &filed));
                read.await.map(Some)
            }
        }
    }

    /// Releases blocks.
    pub fn forget(&self, ids: &[BlockId]) {
        let files = self.0.lock().remove(ids.iter().copied());
        remove(files);
    }

    /// Releases all blocks.
    pub fn clear(&self) {
        let files = self.0.lock().clear();
        remove(files);
    }

    /// The number of stored blocks.
    pub fn len(&self) -> usize {
        self.holdings().blocks
    }

    /// Whether the store is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stored blocks, by place.
    pub fn holdings(&self) -> Holdings {
        self.0.lock().holdings()
    }
}

/// No lock is held during file operations.
impl StoreInner {
    fn lock(&self) -> MutexGuard<'_, BlockIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room(&self) -> Result<()> {
        let Some(spill) = &self.spill else {
            return Ok(());
        };
        loop {
            let next = self.lock().next_to_spill(self.memory);
            let Some(leaving) = next else {
                return Ok(());
            };
            match write(spill, &leaving) {
                Ok(file) => {
                    let files = self.lock().left(&leaving, file);
                    drop(files);
                }
                Err(error) => {
                    self.lock().stays(&leaving);
                    return Err(error);
                }
            }
        }
    }

    fn read(&self, id: BlockId, filed: &SpilledBlock) -> Result<Arc<Block>> {
        let bytes = filed.file.read()?;
        let block = Block::from_bytes(&bytes, &filed.schema, Vec::new())?;
        if block.meta.id != id {
            return Err(Error::LostBlock { block: id });
        }
        let block = Arc::new(block);
        self.lock().was_read(filed, &block);
        Ok(block)
    }
}

fn write(spill: &SpillDir, leaving: &Spilling) -> Result<SpillFile> {
    let block = &leaving.block;
    spill.write(block.meta.id, &block.to_bytes(&leaving.schema())?)
}

/// Removes files, outside the runtime's threads if there is a runtime.
fn remove(files: ReleasedFiles) {
    if files.is_empty() {
        return;
    }
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(files))),
        Err(_) => drop(files),
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => Err(Error::NotRunning),
        },
    }
}

#[cfg(test)]
mod tests;
