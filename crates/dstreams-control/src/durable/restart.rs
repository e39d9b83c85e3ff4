//! [`Restart`]: where the next process resumes.

use std::collections::BTreeMap;

use super::{CheckpointedBlocks, ProducerOffsets};
use crate::{BatchTime, BlockId, BlockMeta, ReceiverId, Restored};

/// The decision of a [`Replay`](super::Replay).
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Restart {
    /// The number of this process, from 0; write it as [`Opened`](super::Entry::Opened) before anything else.
    pub incarnation: u64,
    /// Where the controller resumes.
    pub controller: Restored,
    /// The batches after the checkpoint that took effect, in order: to be replayed for their state only.
    pub committed: Vec<(BatchTime, Vec<BlockMeta>)>,
    /// Of the batches after the checkpoint, those before which intervals were skipped, each with the batch before it.
    pub skipped: BTreeMap<BatchTime, BatchTime>,
    /// The blocks that are, or will be, in a batch after the checkpoint, with their inputs. No others are needed.
    pub blocks: BTreeMap<BlockId, u32>,
    /// The last number of each producer in the checkpoint or in one of these blocks: repetitions up to it are
    /// dropped.
    pub offsets: ProducerOffsets,
    /// The same for the checkpoint alone.
    pub checkpoint_offsets: ProducerOffsets,
    /// The receivers of earlier processes, each with its blocks among these, except those in `lost_receivers`.
    pub ended: BTreeMap<ReceiverId, Vec<BlockId>>,
    /// The same for receivers that a [`ReceiverLost`](super::Entry::ReceiverLost) names.
    pub lost_receivers: BTreeMap<ReceiverId, Vec<BlockId>>,
    /// The blocks that the checkpoint contains.
    pub checkpointed_blocks: CheckpointedBlocks,
}
