//! [`Replay`]: from a checkpoint and journals to a [`Restart`].
//!
//! Cuts decide: a block that a cut names is in that batch. Of the other blocks, those of gone receivers count as
//! their [`ReceiverLost`](Entry::ReceiverLost) says; all others count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;

use super::{CheckpointMeta, CheckpointedBlocks, Entry, ProducerOffsets, Restart};
use crate::{BatchTime, BlockId, BlockMeta, ReceiverId, Restored};

/// The checkpoint and the entries found on disk.
#[derive(Clone, Default, Debug)]
pub struct Replay {
    point: Option<CheckpointMeta>,
    /// One more than the last known process.
    incarnations: u64,
    blocks: BTreeMap<BlockId, Received>,
    cuts: BTreeMap<BatchTime, Vec<BlockId>>,
    /// Batches before which intervals were skipped, each with the batch before it.
    skipped: BTreeMap<BatchTime, BatchTime>,
    cut_twice: Option<BatchTime>,
    committed: Option<BatchTime>,
    set_aside: BTreeSet<BatchTime>,
    committing: BTreeSet<BatchTime>,
    lost_receivers: BTreeMap<ReceiverId, BTreeSet<BlockId>>,
}

type ByReceiver = BTreeMap<ReceiverId, Vec<BlockId>>;

/// A block found in a journal.
#[derive(Clone, Debug)]
struct Received {
    input: u32,
    meta: BlockMeta,
    offsets: Vec<(Arc<str>, u64)>,
}

/// The entries on disk are inconsistent.
#[derive(Clone, Eq, PartialEq, Debug, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A cut after the checkpoint names a block that is in no journal.
    #[error("batch {batch} names block {block}, which is in no journal")]
    BlockMissing {
        /// The batch of the cut.
        batch: BatchTime,
        /// The block.
        block: BlockId,
    },
    /// Intervals were skipped after a batch that is not there.
    #[error("batch {batch} follows batch {after}, which is not in the journal")]
    CutMissing {
        /// The batch.
        batch: BatchTime,
        /// The one before it.
        after: BatchTime,
    },
    /// Two cuts of one batch name different blocks.
    #[error("batch {batch} was cut twice, with different blocks")]
    CutTwice {
        /// The batch.
        batch: BatchTime,
    },
}

/// The skips since the checkpoint; each follows the batch before it.
fn skips(
    skipped: BTreeMap<BatchTime, BatchTime>,
    checkpoint: Option<BatchTime>,
    cuts: &BTreeMap<BatchTime, Vec<BlockId>>,
) -> Result<BTreeMap<BatchTime, BatchTime>, ReplayError> {
    let later: BTreeMap<_, _> = skipped
        .into_iter()
        .filter(|(batch, _)| cuts.contains_key(batch))
        .collect();
    for (&batch, &after) in &later {
        let before = cuts.range(..batch).next_back().map(|(before, _)| *before);
        if before.or(checkpoint) != Some(after) {
            return Err(ReplayError::CutMissing { batch, after });
        }
    }
    Ok(later)
}

impl Replay {
    /// Begins with the newest checkpoint, if there is one.
    #[must_use]
    pub fn new(point: Option<CheckpointMeta>) -> Self {
        let incarnations = point
            .as_ref()
            .map_or(0, |point| point.incarnation.saturating_add(1));
        Self {
            point,
            incarnations,
            ..Self::default()
        }
    }

    /// Takes an entry of any journal, in any order, once or repeatedly.
    pub fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Opened { incarnation } => {
                self.incarnations = self.incarnations.max(incarnation.saturating_add(1));
            }
            Entry::Block {
                input,
                meta,
                offsets,
            } => {
                self.blocks.insert(
                    meta.id,
                    Received {
                        input,
                        meta,
                        offsets,
                    },
                );
            }
            Entry::Cut {
                batch,
                after,
                mut blocks,
            } => {
                self.skipped.extend(after.map(|after| (batch, after)));
                blocks.sort_unstable();
                if self.cuts.get(&batch).is_some_and(|known| *known != blocks) {
                    self.cut_twice = Some(batch);
                }
                self.cuts.insert(batch, blocks);
            }
            Entry::SetAside { batch } => {
                self.set_aside.insert(batch);
            }
            Entry::Committing { batch } => {
                self.committing.insert(batch);
            }
            Entry::Committed { batch } => self.committed = self.committed.max(Some(batch)),
            Entry::ReceiverLost { receiver, blocks } => {
                self.lost_receivers
                    .insert(receiver, blocks.into_iter().collect());
            }
        }
    }

    /// Decides where to resume.
    ///
    /// # Errors
    ///
    /// [`ReplayError`]: the journals are damaged or incomplete.
    pub fn decide(mut self) -> Result<Restart, ReplayError> {
        if let Some(batch) = self.cut_twice {
            return Err(ReplayError::CutTwice { batch });
        }
        let point = self.point.take();
        let state = point.as_ref().map(|point| point.batch);
        let (mut checkpointed_blocks, checkpoint_offsets) = point.map_or_else(
            || (CheckpointedBlocks::default(), ProducerOffsets::new()),
            |point| (point.checkpointed_blocks, point.offsets),
        );
        let later = match state {
            Some(batch) => self.cuts.split_off(&batch.plus(1)),
            None => std::mem::take(&mut self.cuts),
        };
        let skipped = skips(std::mem::take(&mut self.skipped), state, &later)?;
        for block in self.cuts.values().flatten() {
            checkpointed_blocks.insert(*block);
        }
        let cut: BTreeSet<BlockId> = later.values().flatten().copied().collect();
        self.retain_relevant(&checkpointed_blocks, &cut);
        let (ended, lost_receivers) = self.receivers(&checkpointed_blocks);
        let mut controller = Restored {
            begin_after: None,
            last_cut: later.keys().next_back().copied().or(state),
            last_committed: self.committed.max(state),
            pending: Vec::new(),
            set_aside: BTreeSet::new(),
            committing: BTreeSet::new(),
            set_aside_before: 0,
            uncut: self.uncut(&cut),
        };
        let mut committed = Vec::new();
        let set_aside = later.keys().filter(|batch| self.set_aside.contains(batch));
        controller.set_aside = set_aside.copied().collect();

        for (batch, ids) in later {
            let blocks = self.metas(batch, &ids)?;
            if Some(batch) <= controller.last_committed {
                committed.push((batch, blocks));
            } else {
                if self.committing.contains(&batch) {
                    controller.committing.insert(batch);
                }
                controller.pending.push((batch, blocks));
            }
        }
        let mut offsets = checkpoint_offsets.clone();
        for block in self.blocks.values() {
            for (producer, last) in &block.offsets {
                let known = offsets
                    .entry((block.input, producer.to_string()))
                    .or_default();
                *known = (*known).max(*last);
            }
        }
        let input = |(id, block): (BlockId, Received)| (id, block.input);
        Ok(Restart {
            incarnation: self.incarnations,
            controller,
            committed,
            skipped,
            blocks: self.blocks.into_iter().map(input).collect(),
            offsets,
            checkpoint_offsets,
            ended,
            lost_receivers,
            checkpointed_blocks,
        })
    }

    fn retain_relevant(
        &mut self,
        checkpointed_blocks: &CheckpointedBlocks,
        cut: &BTreeSet<BlockId>,
    ) {
        let survives = |id: &BlockId| match self.lost_receivers.get(&id.receiver) {
            Some(blocks) => blocks.contains(id),
            None => true,
        };
        self.blocks.retain(|id, _| {
            cut.contains(id) || (!checkpointed_blocks.contains(*id) && survives(id))
        });
    }

    /// The receivers of earlier processes with their blocks that are needed: without and with a `ReceiverLost`.
    fn receivers(&self, checkpointed_blocks: &CheckpointedBlocks) -> (ByReceiver, ByReceiver) {
        let lost_receivers = self.lost_receivers.keys().copied();
        let known = checkpointed_blocks
            .open()
            .chain(lost_receivers.filter(|it| !checkpointed_blocks.is_closed(*it)));
        let mut all: ByReceiver = known.map(|receiver| (receiver, Vec::new())).collect();
        for id in self.blocks.keys() {
            all.entry(id.receiver).or_default().push(*id);
        }
        all.into_iter()
            .partition(|(receiver, _)| !self.lost_receivers.contains_key(receiver))
    }

    fn uncut(&self, cut: &BTreeSet<BlockId>) -> Vec<BlockMeta> {
        let uncut = self.blocks.values().map(|block| block.meta);
        uncut.filter(|meta| !cut.contains(&meta.id)).collect()
    }

    fn metas(&self, batch: BatchTime, ids: &[BlockId]) -> Result<Vec<BlockMeta>, ReplayError> {
        let meta = |&block: &BlockId| match self.blocks.get(&block) {
            Some(known) => Ok(known.meta),
            None => Err(ReplayError::BlockMissing { batch, block }),
        };
        ids.iter().map(meta).collect()
    }
}
