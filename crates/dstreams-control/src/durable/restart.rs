//! [`Restart`]: where the next process goes on.

use std::collections::BTreeMap;

use super::{Covered, Marks};
use crate::{BatchTime, BlockId, BlockMeta, ReceiverId, Restored};

/// What a [`Replay`](super::Replay) decided.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Restart {
    /// Which process this is, from 0; to be written as [`Opened`](super::Entry::Opened) before anything else.
    pub incarnation: u64,
    /// Where the controller goes on.
    pub controller: Restored,
    /// The batches after the checkpoint that took effect, in order: to be run again for their state alone.
    pub committed: Vec<(BatchTime, Vec<BlockMeta>)>,
    /// The blocks that are in a batch after the checkpoint, or will be, with their inputs. Nobody needs others.
    pub blocks: BTreeMap<BlockId, u32>,
    /// Of each producer the last number that is in the checkpoint or in one of these blocks: what comes again up to
    /// it is not taken.
    pub marks: Marks,
    /// The same of the checkpoint alone.
    pub marks_of_state: Marks,
    /// The receivers of earlier processes, each with its blocks among these, without those in `gone`.
    pub ended: BTreeMap<ReceiverId, Vec<BlockId>>,
    /// The same of those that a [`Gone`](super::Entry::Gone) names.
    pub gone: BTreeMap<ReceiverId, Vec<BlockId>>,
    /// The blocks that the checkpoint has.
    pub covered: Covered,
}
