//! How a worker divides its memory for records.

use dstreams::Config;
use dstreams::internal::Budget;

use crate::data::CLIENT_MESSAGE;

/// Half is for what is received here, half for copies of what others receive: workers that wait for
/// each other to take copies would wait for ever if what they receive could take all of it.
pub struct Memory {
    pub received: Budget,
    pub copies: Budget,
}

impl Memory {
    pub fn new(config: &Config) -> Self {
        let half = config.block_memory / 2;
        Memory {
            received: Budget::new(half),
            copies: Budget::new(half),
        }
    }

    /// Bytes of blocks in memory, beyond which they go to files. So few that the largest block still
    /// fits beside them into the memory for copies: a copy then never waits for a batch, which may
    /// wait for the copy.
    pub fn stored(config: &Config) -> u64 {
        let largest = config.block_bytes + CLIENT_MESSAGE;
        let quarter = config.block_memory / 4;
        let beside = (config.block_memory / 2).saturating_sub(largest);
        quarter.min(beside) as u64
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.received.used() + self.copies.used()
    }

    /// Lifts the bounds, for the end of the program.
    pub fn lift(&self) {
        self.received.lift();
        self.copies.lift();
    }
}
