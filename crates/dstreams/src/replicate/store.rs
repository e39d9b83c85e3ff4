//! The block store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dstreams_control::BlockId;

use crate::receive::Block;

/// Blocks by id.
#[derive(Default)]
pub struct BlockStore(Mutex<HashMap<BlockId, Arc<Block>>>);

impl BlockStore {
    fn lock(&self) -> MutexGuard<'_, HashMap<BlockId, Arc<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a block.
    pub fn insert(&self, block: Arc<Block>) {
        self.lock().insert(block.meta.id, block);
    }

    /// The block, if it is held.
    pub fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        self.lock().get(&id).cloned()
    }

    /// Lets blocks go.
    pub fn forget(&self, ids: &[BlockId]) {
        let mut blocks = self.lock();
        for id in ids {
            blocks.remove(id);
        }
    }

    /// Lets all blocks go.
    pub fn clear(&self) {
        self.lock().clear()
    }

    /// Number of blocks held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }
}
