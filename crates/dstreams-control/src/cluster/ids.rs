//! Names of who is there and of what is held: [`WorkerId`], [`StoredBlock`], [`Mark`].
//!
//! As everywhere in this crate, the records themselves never come here.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::BlockMeta;

/// A worker, from when it joins until it is lost. Given by the master and never used again: a worker that comes back
/// has a new one, so the id is its epoch too.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A block that a worker holds, and how far it takes its producers.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct StoredBlock {
    /// The block.
    pub meta: BlockMeta,
    /// One for each producer with records in it.
    pub marks: Vec<Mark>,
}

/// A block contains records of a producer up to a number.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct Mark {
    /// The input.
    pub input: u32,
    /// The producer's name, unique within the input.
    pub producer: Arc<str>,
    /// The greatest number of the producer's in the block. Numbers start at 1.
    pub last: u64,
}
