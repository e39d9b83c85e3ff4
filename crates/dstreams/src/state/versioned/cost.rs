//! Exact counts of work done, so that tests can check costs without a clock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Rows and bytes of state that were read and written since the partition was created.
///
/// A row counts as read when its key is compared, hashed, or its values are copied out (each time), and as written
/// when it is put into a segment. Bytes are those of the columns visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Rows read.
    pub rows_read: u64,
    /// Bytes of their columns.
    pub bytes_read: u64,
    /// Rows written: those of deltas, and those that compaction copies.
    pub rows_written: u64,
    /// Bytes of their columns.
    pub bytes_written: u64,
    /// Rows whose key was hashed again because the index grew (also counted as read).
    pub rehashed: u64,
}

impl std::ops::Sub for Work {
    type Output = Work;

    fn sub(self, before: Work) -> Work {
        Work {
            rows_read: self.rows_read - before.rows_read,
            bytes_read: self.bytes_read - before.bytes_read,
            rows_written: self.rows_written - before.rows_written,
            bytes_written: self.bytes_written - before.bytes_written,
            rehashed: self.rehashed - before.rehashed,
        }
    }
}

/// The counters of a partition. Reading it counts too.
#[derive(Debug, Default)]
pub(super) struct Counters {
    rows_read: AtomicU64,
    bytes_read: AtomicU64,
    rows_written: AtomicU64,
    bytes_written: AtomicU64,
    rehashed: AtomicU64,
}

impl Counters {
    pub fn read(&self, rows: usize, bytes: usize) {
        self.rows_read.fetch_add(rows as u64, Relaxed);
        self.bytes_read.fetch_add(bytes as u64, Relaxed);
    }

    pub fn wrote(&self, rows: usize, bytes: usize) {
        self.rows_written.fetch_add(rows as u64, Relaxed);
        self.bytes_written.fetch_add(bytes as u64, Relaxed);
    }

    pub fn rehashed(&self, rows: usize, bytes: usize) {
        self.read(rows, bytes);
        self.rehashed.fetch_add(rows as u64, Relaxed);
    }

    pub fn total(&self) -> Work {
        Work {
            rows_read: self.rows_read.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            rows_written: self.rows_written.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            rehashed: self.rehashed.load(Relaxed),
        }
    }
}
