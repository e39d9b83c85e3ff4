//! [`Lineage`]: what the newest state can be recovered from.

use std::collections::BTreeMap;
use std::fmt;

use dstreams_control::{BatchTime, BlockMeta};

/// The checkpoint and the later batches from which the newest state can be recovered. Older ones are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lineage {
    /// The batch of the newest checkpoint, if there is one.
    pub checkpoint: Option<BatchTime>,
    /// The batches after it that were cut.
    pub batches: BTreeMap<BatchTime, BatchLineage>,
}

/// The input of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchLineage {
    /// Blocks.
    pub blocks: usize,
    /// Records in them.
    pub records: u64,
    /// Whether it took effect.
    pub committed: bool,
}

impl Lineage {
    pub(super) fn cut(&mut self, batch: BatchTime, blocks: &[BlockMeta], committed: bool) {
        let of = BatchLineage {
            blocks: blocks.len(),
            records: blocks.iter().map(|block| block.rows).sum(),
            committed,
        };
        self.batches.insert(batch, of);
    }

    pub(super) fn committed(&mut self, batch: BatchTime) {
        if let Some(of) = self.batches.get_mut(&batch) {
            of.committed = true;
        }
    }

    pub(super) fn checkpointed(&mut self, batch: BatchTime) {
        self.checkpoint = Some(batch);
        self.batches.retain(|later, _| *later > batch);
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.checkpoint {
            Some(batch) => write!(f, "checkpoint of batch {batch}")?,
            None => write!(f, "the beginning")?,
        }
        for (batch, of) in &self.batches {
            let (blocks, records) = (of.blocks, of.records);
            let effect = if of.committed { "" } else { ", not in effect" };
            write!(
                f,
                "\n+ batch {batch}: {blocks} block(s), {records} record(s){effect}"
            )?;
        }
        Ok(())
    }
}
