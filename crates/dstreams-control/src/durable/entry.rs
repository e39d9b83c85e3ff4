//! [`Entry`] and [`CheckpointMeta`]: the contents of journals and checkpoints, without records and state.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::CheckpointedBlocks;
use crate::{BatchTime, BlockId, BlockMeta, ReceiverId};

/// The last sequence number by input and producer (or part of a source).
pub type ProducerOffsets = BTreeMap<(u32, String), u64>;

/// An entry of a journal.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Entry {
    /// A process began to write.
    Opened {
        /// It is the n-th process, from 0.
        incarnation: u64,
    },
    /// A block was received. The same block may be in several journals.
    Block {
        /// Its input.
        input: u32,
        /// Its name and size.
        meta: BlockMeta,
        /// The last number of each producer with records in it.
        offsets: Vec<(Arc<str>, u64)>,
    },
    /// A batch has exactly these blocks, permanently.
    Cut {
        /// The batch.
        batch: BatchTime,
        /// The batch before it, if intervals in between were skipped.
        after: Option<BatchTime>,
        /// Its blocks.
        blocks: Vec<BlockId>,
    },
    /// The records of a permanently failed batch were set aside: it takes effect without them, also in every later
    /// run. The offsets of its blocks count.
    SetAside {
        /// The batch.
        batch: BatchTime,
    },
    /// A batch is about to take effect: its records may be visible from here on, so they can no longer be set
    /// aside. Needed only where batches may be set aside.
    Committing {
        /// The batch.
        batch: BatchTime,
    },
    /// A batch has taken effect, and so have all before it.
    Committed {
        /// The batch.
        batch: BatchTime,
    },
    /// A receiver was lost with its worker. Of its blocks in no cut, only `blocks` count, whatever its journals
    /// contain: the rest was not acknowledged, or was sent again elsewhere.
    ReceiverLost {
        /// The lost receiver.
        receiver: ReceiverId,
        /// All its surviving blocks; those in a cut may be missing.
        blocks: Vec<BlockId>,
    },
}

/// The contents of a checkpoint beside the state.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct CheckpointMeta {
    /// The batch of the checkpoint: it and all before it took effect.
    pub batch: BatchTime,
    /// The process that wrote it.
    pub incarnation: u64,
    /// The last number of each producer in the batches up to this one.
    pub offsets: ProducerOffsets,
    /// The blocks of these batches: see [`JournalRetention::checkpointed`](super::JournalRetention::checkpointed). May
    /// be empty with a single journal, where a block precedes the cut that names it.
    pub checkpointed_blocks: CheckpointedBlocks,
}
