//! [`Memory`]: a worker's memory budgets for records.

use dstreams::Config;
use dstreams::internal::Budget;

use crate::data::CLIENT_MESSAGE;

/// Half is for records received here, half for copies of others' records: if received records could take
/// all of it, workers that wait for each other to accept copies would deadlock.
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

    /// Bytes of blocks in memory, beyond which blocks are spilled. Small enough that the largest block still
    /// fits beside them into the memory for copies: so a copy never waits for a batch, which may itself
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

    /// Lifts the bounds, at the end of the program.
    pub fn lift(&self) {
        self.received.lift();
        self.copies.lift();
    }
}
