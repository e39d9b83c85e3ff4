//! Names of workers and of what they store: [`WorkerId`], [`StoredBlock`], [`ProducerOffset`].
//!
//! Records never come here, as everywhere in this crate.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::BlockMeta;

/// A worker, from when it joins until it is lost. Assigned by the master and never reused: a worker that returns
/// gets a new one, so the id is also its epoch.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A block that a worker stores, and the offsets of its producers after it.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct StoredBlock {
    /// The block.
    pub meta: BlockMeta,
    /// One for each producer with records in it.
    pub offsets: Vec<ProducerOffset>,
}

/// A block contains records of a producer up to an offset.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct ProducerOffset {
    /// The input.
    pub input: u32,
    /// The producer's name, unique within the input.
    pub producer: Arc<str>,
    /// The producer's greatest sequence number in the block. Numbers start at 1.
    pub last: u64,
}
