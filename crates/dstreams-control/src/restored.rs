//! [`Restored`]: what a journal knows of an earlier process of the same program.

use std::collections::BTreeSet;

use crate::{BatchTime, BlockMeta};

/// Where a [`Controller`](crate::Controller) goes on: see [`Controller::restored`](crate::Controller::restored).
#[derive(Clone, Eq, PartialEq, Debug, Default)]
pub struct Restored {
    /// The last batch that was cut. The next one follows it, however long ago that was: intervals in which nobody
    /// was there have batches too, with what is in `uncut` first.
    pub last_cut: Option<BatchTime>,
    /// Batch times begin after this one, where no batch was cut: outputs have it already, so that another batch of
    /// its name would be taken for committed.
    pub begin_after: Option<BatchTime>,
    /// The last batch that took effect.
    pub last_committed: Option<BatchTime>,
    /// The batches that were cut and did not take effect, in order, with their blocks.
    pub pending: Vec<(BatchTime, Vec<BlockMeta>)>,
    /// Batches whose records were set aside: they are run without. Those that are not pending do not matter here.
    pub set_aside: BTreeSet<BatchTime>,
    /// Batches that may have taken effect: they are given up where others would be set aside.
    pub committing: BTreeSet<BatchTime>,
    /// How many batches count as set aside for [`Config::max_set_aside`](crate::Config::max_set_aside).
    pub set_aside_before: u32,
    /// Blocks that are in no batch, of receivers that are no more: they go into the next cut.
    pub uncut: Vec<BlockMeta>,
}
