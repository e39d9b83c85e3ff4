//! [`StateMemoryBudget`]: the memory limit of keyed states, and the directory for rows beyond it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::versioned::KeyedPartition;
use crate::config::Config;
use crate::error::{Error, Result};

/// The room of all keyed states of a process, where it is bounded.
#[derive(Debug)]
pub struct StateMemoryBudget {
    memory: usize,
    dir: PathBuf,
    used: AtomicUsize,
    /// Whether the last spill failed, which has been logged.
    failing: AtomicBool,
}

impl StateMemoryBudget {
    /// The limit from a program's settings, if any; rows beyond it go to files in `dir`, which is created if
    /// missing.
    pub fn of(config: &Config, dir: PathBuf) -> Result<Option<Arc<Self>>> {
        let Some(memory) = config.state_memory else {
            return Ok(None);
        };
        std::fs::create_dir_all(&dir)
            .map_err(|error| Error::file("make the directory", &dir, error))?;
        Ok(Some(Arc::new(StateMemoryBudget {
            memory,
            dir,
            used: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
        })))
    }
}

/// The memory of one partition; returned when dropped.
pub(super) struct MemoryShare {
    room: Arc<StateMemoryBudget>,
    bytes: usize,
}

impl MemoryShare {
    pub fn of(room: &Arc<StateMemoryBudget>) -> Self {
        let (room, bytes) = (Arc::clone(room), 0);
        MemoryShare { room, bytes }
    }

    /// Counts the partition after a change, and spills as many rows as exceed the limit. If that fails they stay
    /// in memory, and the next change retries.
    pub fn fit(&mut self, partition: &mut KeyedPartition) {
        self.count(partition.memory());
        let over = self
            .room
            .used
            .load(Relaxed)
            .saturating_sub(self.room.memory);
        if over == 0 {
            return;
        }
        let spilled = partition.spill(&self.room.dir, over);
        self.count(partition.memory());
        let failed = self.room.failing.swap(spilled.is_err(), Relaxed);
        if let Err(error) = spilled
            && !failed
        {
            tracing::error!(%error, "cannot spill state to disk; memory limit exceeded");
        }
    }

    fn count(&mut self, bytes: usize) {
        self.room.used.fetch_add(bytes, Relaxed);
        self.room.used.fetch_sub(self.bytes, Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.count(0);
    }
}
