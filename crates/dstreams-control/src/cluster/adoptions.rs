//! [`Adoptions`]: the journals of lost workers that the master takes over.
//!
//! A worker writes a block to its journal before others get it, so the journal has every block that may be missing.
//! Each is read once at most: what it has is on disk, and is stored by the master from then on.

use std::collections::{BTreeMap, BTreeSet};

use super::WorkerId;
use crate::BlockId;
use crate::seq_set::SeqSet;

#[derive(Debug)]
pub(super) struct Adoptions {
    /// Whether workers have journals.
    journals: bool,
    /// The journals that are being read, each with the blocks of receivers that are gone already.
    open: BTreeMap<WorkerId, BTreeSet<BlockId>>,
    /// The workers whose journals were read, or are.
    begun: SeqSet,
}

impl Adoptions {
    pub(super) fn new(journals: bool) -> Self {
        Self {
            journals,
            open: BTreeMap::new(),
            begun: SeqSet::default(),
        }
    }

    /// Whether workers have journals.
    pub(super) const fn possible(&self) -> bool {
        self.journals
    }

    /// The journal of `lost` is needed. Returns whether it must be read, for the first time.
    pub(super) fn begin(&mut self, lost: WorkerId) -> bool {
        let news = self.journals && !self.begun.contains(lost.0.into());
        if news {
            self.begun.insert(lost.0.into());
            self.open.insert(lost, BTreeSet::new());
        }
        news
    }

    /// Whether the journal is being read.
    pub(super) fn is_open(&self, lost: WorkerId) -> bool {
        self.open.contains_key(&lost)
    }

    /// A block of a receiver that is gone is expected of the journal. Returns whether that is being read.
    pub(super) fn expect(&mut self, lost: WorkerId, block: BlockId) -> bool {
        let expected = self.open.get_mut(&lost);
        expected.map(|expected| expected.insert(block)).is_some()
    }

    /// The journal was read. Returns the blocks that were expected of it; `None` if nobody asked for it.
    pub(super) fn end(&mut self, lost: WorkerId) -> Option<BTreeSet<BlockId>> {
        self.open.remove(&lost)
    }
}
