//! [`Entry`] and [`Point`]: what journals and checkpoints say, without records and state.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Covered;
use crate::{BatchTime, BlockId, BlockMeta, ReceiverId};

/// By input and producer (or part of a source): its last number.
pub type Marks = BTreeMap<(u32, String), u64>;

/// An entry of a journal.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Entry {
    /// A process began to write.
    Opened {
        /// It is the n-th, from 0.
        incarnation: u64,
    },
    /// A block was received. The same block may be in several journals.
    Block {
        /// The input it is of.
        input: u32,
        /// Its name and size.
        meta: BlockMeta,
        /// Of each producer with records in it, the last number.
        marks: Vec<(Arc<str>, u64)>,
    },
    /// A batch has these blocks, and no others ever.
    Cut {
        /// The batch.
        batch: BatchTime,
        /// Its blocks.
        blocks: Vec<BlockId>,
    },
    /// The records of a batch that failed for good were set aside: it takes effect without them, now and whenever it is
    /// run again. The offsets of its blocks count.
    SetAside {
        /// The batch.
        batch: BatchTime,
    },
    /// A batch is about to take effect: from here on its records may be visible, and are not set aside any more. Needed
    /// only where batches may be set aside.
    Committing {
        /// The batch.
        batch: BatchTime,
    },
    /// A batch has taken effect, and so have all before it.
    Committed {
        /// The batch.
        batch: BatchTime,
    },
    /// A receiver was lost with its worker. Of what no cut names, `blocks` count and nothing else, whatever its journals
    /// have: the rest was not acknowledged, or was sent again elsewhere.
    Gone {
        /// Who is gone.
        receiver: ReceiverId,
        /// All its blocks that survive; those that are in a cut may be missing.
        blocks: Vec<BlockId>,
    },
}

/// What a checkpoint says beside the state.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Point {
    /// The batch as of which it is: all up to it took effect.
    pub batch: BatchTime,
    /// Which process wrote it.
    pub incarnation: u64,
    /// Of each producer the last that is in a batch up to this one.
    pub marks: Marks,
    /// The blocks of these batches: see [`Needs::covered`](super::Needs::covered). May be empty where there is one
    /// journal, in which a block goes before the cut that names it.
    pub covered: Covered,
}
