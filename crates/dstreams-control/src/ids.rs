//! Names of what is received: [`ReceiverId`], [`BlockId`], and [`BlockMeta`], the little that the controller knows
//! about a block. Records never come here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The receiver of one input stream. Unique in a program, across its processes: ids of the n-th process (from 0)
/// start at n·2³².
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct ReceiverId(pub u64);

impl fmt::Display for ReceiverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 >> 32, self.0 & u64::from(u32::MAX)) {
            (0, number) => write!(f, "{number}"),
            (process, number) => write!(f, "{process}:{number}"),
        }
    }
}

impl ReceiverId {
    /// The first id of the n-th process, from 0.
    #[must_use]
    pub const fn first_of(process: u32) -> Self {
        Self((process as u64) << 32)
    }
}

/// Name of a block. Its order (receiver, then number) is the order of blocks inside a batch, regardless of arrival.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct BlockId {
    /// The receiver.
    pub receiver: ReceiverId,
    /// Its number among the receiver's blocks. Number them consecutively, from 0: the controller remembers every
    /// number as ranges, and each lasting gap costs a few bytes permanently.
    pub seq: u64,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.receiver, self.seq)
    }
}

/// The controller's knowledge of a block.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Serialize, Deserialize)]
pub struct BlockMeta {
    /// Its name.
    pub id: BlockId,
    /// Number of records in it.
    pub rows: u64,
    /// Its size in memory, in bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_receiver_then_number() {
        let id = |receiver, seq| BlockId {
            receiver: ReceiverId(receiver),
            seq,
        };
        assert!(id(0, 9) < id(1, 0));
        assert!(id(1, 0) < id(1, 1));
        assert_eq!(id(1, 7).to_string(), "1/7");
        let of_third = BlockId {
            receiver: ReceiverId(ReceiverId::first_of(2).0 + 1),
            seq: 7,
        };
        assert_eq!(of_third.to_string(), "2:1/7");
    }
}
