//! [`Restored`]: what a journal says about earlier processes of the program.

use std::collections::BTreeSet;

use crate::{BatchTime, BlockMeta};

/// Where a [`Controller`](crate::Controller) resumes: see [`Controller::restored`](crate::Controller::restored).
#[derive(Clone, Eq, PartialEq, Debug, Default)]
pub struct Restored {
    /// The last batch that was cut. The next one follows it, however long ago that was: intervals of downtime
    /// become batches too, the first with the blocks in `uncut`; see also
    /// [`Config::skip_missed`](crate::Config::skip_missed).
    pub last_cut: Option<BatchTime>,
    /// Without a cut, batch times begin after this one: outputs already have that batch, and would take another of
    /// its name for committed.
    pub begin_after: Option<BatchTime>,
    /// The last batch that took effect.
    pub last_committed: Option<BatchTime>,
    /// The batches that were cut and did not take effect, in order, with their blocks.
    pub pending: Vec<(BatchTime, Vec<BlockMeta>)>,
    /// Batches whose records were set aside: they run without. Those that are not pending are ignored.
    pub set_aside: BTreeSet<BatchTime>,
    /// Batches that may have taken effect: they are given up where others would be set aside.
    pub committing: BTreeSet<BatchTime>,
    /// Batches that already count for [`Config::max_set_aside`](crate::Config::max_set_aside).
    pub set_aside_before: u32,
    /// Blocks in no batch, of receivers that no longer exist: they go into the next cut.
    pub uncut: Vec<BlockMeta>,
}
