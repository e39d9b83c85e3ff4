//! The block store: blocks in memory up to a bound, and the rest in files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dstreams_control::BlockId;
use tokio::runtime::Handle;

use super::index::{BlockIndex, BlockLocation, Filed, Holdings, Leaving, ReleasedFiles};
use super::spill::{SpillDir, SpillFile};
use crate::blocks::Block;
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// Bounds of a block store. None of them is set by default.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// The directory for blocks beyond the memory, made where it is missing; no other store may
    /// use it at the same time, of this process or of another. Without one, all blocks are in memory.
    pub spill: Option<PathBuf>,
    /// Bytes of blocks in memory, where there is a directory for others. What is being taken in,
    /// written or read is beyond it.
    pub memory: u64,
    /// How long a block is held; an older one is let go, wanted or not, and counted. A batch that
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
    held: Mutex<BlockIndex>,
    spill: Option<SpillDir>,
    memory: u64,
    age: Option<Duration>,
}

impl BlockStore {
    /// A store with bounds. What an earlier process left in the directory is removed.
    pub fn open(bounds: Bounds) -> Result<Self> {
        Ok(BlockStore(Arc::new(StoreInner {
            held: Mutex::default(),
            spill: bounds.spill.map(SpillDir::open).transpose()?,
            memory: bounds.memory,
            age: bounds.age,
        })))
    }

    /// Holds a block in memory; one that is held already stays as it is. Never fails and never
    /// waits; [`BlockStore::make_room`] is what keeps memory bounded.
    pub fn insert(&self, block: Arc<Block>) {
        self.insert_at(block, Instant::now());
    }

    fn insert_at(&self, block: Arc<Block>, now: Instant) {
        let mut held = self.0.lock();
        held.insert(block, now);
        let (expired, files) = match self.0.age {
            Some(age) => held.expire(age, now),
            None => (0, ReleasedFiles::new()),
        };
        drop(held);
        if expired > 0 {
            tracing::warn!(blocks = expired, "blocks were let go because of their age");
        }
        remove(files);
    }

    /// Holds a block, and moves others out of memory where it is full.
    ///
    /// After an error the block is held none the less, and memory may be beyond its bound.
    pub async fn hold(&self, block: Arc<Block>) -> Result<()> {
        self.insert(block);
        self.make_room().await
    }

    /// Writes blocks to files until memory is within its bound, those first that were not used for
    /// longest.
    ///
    /// A block leaves memory when it is in its file as a whole. An error (a full disk) names the
    /// path; the block stays in memory, and is tried again the next time. Goes on to the end if
    /// the future is dropped.
    pub async fn make_room(&self) -> Result<()> {
        if self.0.spill.is_none() || !self.0.lock().exceeds(self.0.memory) {
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        on_a_thread_that_may_block(move || shared.make_room()).await
    }

    /// The block, if it is in memory.
    pub fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        match self.0.lock().find(id)? {
            BlockLocation::Memory(block) => Some(block),
            BlockLocation::File(_) => None,
        }
    }

    /// The block, if it is held; read from its file, unless it is in memory.
    ///
    /// A block that was read is in memory for as long as somebody has it, and is then counted by
    /// no budget: the bound is what the caller asks for at once.
    pub async fn fetch(&self, id: BlockId) -> Result<Option<Arc<Block>>> {
        let found = self.0.lock().find(id);
        match found {
            None => Ok(None),
            Some(BlockLocation::Memory(block)) => Ok(Some(block)),
            Some(BlockLocation::File(filed)) => {
                let shared = Arc::clone(&self.0);
                let read = on_a_thread_that_may_block(move || shared.read(id, &filed));
                read.await.map(Some)
            }
        }
    }

    /// Lets blocks go.
    pub fn forget(&self, ids: &[BlockId]) {
        let files = self.0.lock().remove(ids.iter().copied());
        remove(files);
    }

    /// Lets all blocks go.
    pub fn clear(&self) {
        let files = self.0.lock().clear();
        remove(files);
    }

    /// Number of blocks held.
    pub fn len(&self) -> usize {
        self.holdings().blocks
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is held, and where.
    pub fn holdings(&self) -> Holdings {
        self.0.lock().holdings()
    }
}

/// No lock is held across what is done with files.
impl StoreInner {
    fn lock(&self) -> MutexGuard<'_, BlockIndex> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room(&self) -> Result<()> {
        let Some(spill) = &self.spill else {
            return Ok(());
        };
        loop {
            let next = self.lock().next_to_leave(self.memory);
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

    fn read(&self, id: BlockId, filed: &Filed) -> Result<Arc<Block>> {
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

fn write(spill: &SpillDir, leaving: &Leaving) -> Result<SpillFile> {
    let block = &leaving.block;
    spill.write(block.meta.id, &block.to_bytes(&leaving.schema())?)
}

/// Removes files; not on a thread of the runtime, where there is one.
fn remove(files: ReleasedFiles) {
    if files.is_empty() {
        return;
    }
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(files))),
        Err(_) => drop(files),
    }
}

async fn on_a_thread_that_may_block<T: Send + 'static>(
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
