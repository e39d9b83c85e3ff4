//! The bound on memory held by received records.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that received records may hold together; waiting for some is how a fast producer is
/// slowed down.
#[derive(Clone)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    total: usize,
}

/// Bytes taken from the budget; given back when dropped.
pub(crate) struct Share(#[allow(dead_code)] OwnedSemaphorePermit);

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let total = bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Budget {
            free: Arc::new(Semaphore::new(total)),
            total,
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
        self.total - self.free.available_permits()
    }
}

impl Share {
    /// Splits `bytes` off, as far as there are that many.
    pub fn split(&mut self, bytes: usize) -> Option<Share> {
        self.0.split(bytes.min(self.0.num_permits())).map(Share)
    }
}
