//! The state of keyed operators: versioned rows in immutable segments.
//!
//! A [`KeyedPartition`] is one partition of one operator's state. A batch reads it ([`KeyedPartition::latest`],
//! [`KeyedPartition::expired`]), puts its changes into a [`Delta`], and [`KeyedPartition::install`] applies that.
//! A row is visible from the version that wrote it until the one that replaced it: the first is its segment's, and
//! the second is that of its successor. [`KeyedPartition::compact`] releases old versions.
//!
//! | file | what |
//! |---|---|
//! | `shape`, `keys` | the columns; keys as one array, hashed and compared |
//! | `rows`, `times`, `delta` | rows in columns; when their keys had events and are due; the changes of a batch |
//! | `segment`, `index` | immutable rows, and the place of a key's newest row |
//! | `partition`, `lookup`, `read`, `due`, `compact` | the operations |
//! | `spill` | rows in files instead of memory |
//! | `freeze` | a consistent copy for a checkpoint, taken while batches continue |
//! | `cost` | counters of the work done, for tests |
//! | `transfer` | encoding |

mod compact;
mod cost;
mod delta;
mod due;
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
mod times;
mod transfer;

#[cfg(test)]
mod tests;

pub use cost::Work;
pub use delta::Delta;
pub(super) use due::DueRows;
pub use freeze::{Frozen, merged};
pub use lookup::{LookedUpRows, NewestRows};
pub use partition::KeyedPartition;
pub use shape::Shape;
pub(super) use shape::{DueColumns, DueRule};
pub(super) use times::{EventTimes, KeyTimes};
pub use transfer::Versions;
