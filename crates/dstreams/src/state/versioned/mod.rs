//! The state of keyed operators: rows with lifetimes in immutable segments.
//!
//! A [`KeyedPartition`] is one partition of one operator's state. A batch reads it
//! ([`KeyedPartition::latest`], [`KeyedPartition::expired`]), makes a [`Delta`] of what it changes,
//! and [`KeyedPartition::install`] takes that in. A row is visible at the versions from the batch
//! that wrote it to before the batch that replaced it; the first is its segment's, and the second is
//! known from the row that took its place. [`KeyedPartition::compact`] lets old versions go.
//!
//! | file | what |
//! |---|---|
//! | `shape`, `keys` | the columns; keys as one array, hashed and compared |
//! | `rows`, `delta` | rows in columns; what a batch changed |
//! | `segment`, `index` | rows that never change, and where a key's newest row is |
//! | `partition`, `lookup`, `read`, `compact` | what can be done with them |
//! | `spill` | rows in files instead of memory |
//! | `freeze` | a consistent copy for a checkpoint, taken while batches continue |
//! | `cost` | counters of the work done, for tests |
//! | `transfer` | bytes |

mod compact;
mod cost;
mod delta;
mod freeze;
mod index;
mod keys;
mod lookup;
mod partition;
mod read;
mod rows;
mod segment;
mod shape;
mod spill;
mod transfer;

#[cfg(test)]
mod tests;

pub use cost::Work;
pub use delta::Delta;
pub use freeze::{Frozen, merged};
pub use lookup::{LookedUpRows, NewestRows};
pub use partition::KeyedPartition;
pub use shape::Shape;
pub use transfer::Versions;
