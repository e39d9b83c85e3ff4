//! The bound on memory held by received records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that received records may hold together; waiting for some is how a fast producer is
/// slowed down.
#[derive(Clone)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    total: usize,
    lifted: Arc<AtomicBool>,
}

/// Bytes more than any program takes.
const ENDLESS: usize = Semaphore::MAX_PERMITS / 2;

/// Bytes taken from the budget; given back when dropped.
pub(crate) struct Share(#[allow(dead_code)] OwnedSemaphorePermit);

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let total = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Budget {
            free: Arc::new(Semaphore::new(total)),
            total,
            lifted: Arc::default(),
        }
    }

    /// Lifts the bound, for the end of a program: what was received must go through, and the memory
    /// it waits for may be held by records that no batch takes before the end.
    pub fn lift(&self) {
        if !self.lifted.swap(true, Ordering::Relaxed) {
            self.free.add_permits(ENDLESS);
        }
    }

    /// Waits for `bytes`; first come, first served. More than the whole budget counts as the whole:
    /// such a record goes through alone.
    pub async fn take(&self, bytes: usize) -> Share {
        let bytes = bytes.clamp(1, self.total) as u32;
        let permit = Arc::clone(&self.free).acquire_many_owned(bytes).await;
        match permit {
            Ok(permit) => Share(permit),
            // Nothing closes the semaphore.
            Err(closed) => unreachable!("budget closed: {closed}"),
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        let free = self.free.available_permits();
        let lifted = self.lifted.load(Ordering::Relaxed);
        let total = self.total + if lifted { ENDLESS } else { 0 };
        total.saturating_sub(free)
    }
}

impl Share {
    /// Splits `bytes` off, as far as there are that many.
    pub fn split(&mut self, bytes: usize) -> Option<Share> {
        self.0.split(bytes.min(self.0.num_permits())).map(Share)
    }
}
