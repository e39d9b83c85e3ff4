//! [`OffsetTable`]: the offsets of producers and sources in batches that took effect; and their bytes in
//! checkpoints, which are incremental, and complete now and then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use dstreams_control::durable::CheckpointedBlocks;
use dstreams_control::{BatchTime, BlockId, ReceiverId};

use crate::blocks::Block;
use crate::encoding::FrameFormat;
use crate::error::Result;

/// An input, and a producer or part of a source.
pub(super) type Of = (u32, String);

/// The offset of a producer or a part of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Offset {
    pub last: u64,
    /// The newest batch with its records, in milliseconds.
    pub batch: u64,
}

pub(super) type Offsets = BTreeMap<Of, Offset>;

/// An offset in a checkpoint: input, name, last number and batch; no number if it was forgotten.
pub(super) type Written = (u32, String, Option<u64>, u64);

/// The limit on remembered producers.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    pub most: usize,
    /// By input: whether its producers come and go. Other inputs have parts of sources, which resume at their
    /// offsets: these stay.
    pub inputs: Vec<bool>,
}

/// The offset of each producer and source, as of the batches that took effect.
#[derive(Default)]
pub(super) struct OffsetTable {
    committed: Offsets,
    /// Of blocks in no committed batch.
    blocks: HashMap<BlockId, Vec<(Of, u64)>>,
    bound: Bound,
    /// Those that changed since the last checkpoint.
    changed: BTreeSet<Of>,
    /// Those in the checkpoint being written.
    writing: BTreeSet<Of>,
    forgotten: u64,
}

impl OffsetTable {
    /// The table as of a checkpoint.
    pub fn of(committed: Offsets, bound: Bound) -> Self {
        let mut table = OffsetTable {
            committed,
            bound,
            ..OffsetTable::default()
        };
        table.trim(0);
        table
    }

    pub fn received(&mut self, input: u32, block: &Block) {
        let offsets = block.offsets.iter();
        let offsets = offsets.map(|(producer, last)| ((input, producer.to_string()), *last));
        self.stored(block.meta.id, offsets);
    }

    pub fn stored(&mut self, block: BlockId, offsets: impl Iterator<Item = (Of, u64)>) {
        self.blocks
            .entry(block)
            .or_insert_with(|| offsets.collect());
    }

    /// Of this receiver, only these blocks will be in batches.
    pub fn receiver_lost(&mut self, receiver: ReceiverId, blocks: &[BlockId]) {
        let blocks: HashSet<&BlockId> = blocks.iter().collect();
        self.blocks
            .retain(|id, _| id.receiver != receiver || blocks.contains(id));
    }

    /// A checkpoint covers these blocks. Offsets that a slow worker reported late are of batches that had already
    /// committed.
    pub fn checkpointed(&mut self, checkpointed_blocks: &CheckpointedBlocks) {
        self.blocks
            .retain(|id, _| !checkpointed_blocks.contains(*id));
    }

    /// A batch with these blocks has taken effect.
    pub fn committed(&mut self, batch: BatchTime, blocks: &[BlockId]) {
        let offsets = blocks.iter().filter_map(|block| self.blocks.remove(block));
        for (of, last) in offsets.flatten() {
            self.changed.insert(of.clone());
            let known = self.committed.entry(of).or_default();
            known.last = known.last.max(last);
            known.batch = known.batch.max(batch.millis());
        }
        // Only now and then: amortized cost.
        self.trim(self.bound.most / 4);
    }

    /// Parts of a source are gone permanently.
    pub fn forget(&mut self, input: u32, names: &[Arc<str>]) {
        let names: HashSet<&str> = names.iter().map(|name| &**name).collect();
        let is = |of: &Of| of.0 == input && names.contains(&*of.1);
        let offsets = self.blocks.values_mut();
        offsets.for_each(|offsets| offsets.retain(|(of, _)| !is(of)));
        for name in names {
            let of = (input, name.to_owned());
            if self.committed.remove(&of).is_some() {
                self.changed.insert(of);
            }
        }
    }

    /// The number of producers that were forgotten because of the limit.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets the producers that sent longest ago, if they exceed the limit by more than `slack`.
    fn trim(&mut self, slack: usize) {
        let most = self.bound.most;
        // I13 (ARCHITECTURE.md).
        if self.committed.len() <= most + slack {
            return;
        }
        let comes_and_goes = |input: usize| self.bound.inputs.get(input) == Some(&true);
        for input in (0..self.bound.inputs.len()).filter(|input| comes_and_goes(*input)) {
            let input = input as u32;
            let range = (input, String::new())..(input + 1, String::new());
            let of_input = self.committed.range(range);
            let mut all: Vec<_> = of_input
                .map(|(of, offset)| (offset.batch, of.clone()))
                .collect();
            if all.len() <= most + slack {
                continue;
            }
            let many = all.len() - most;
            all.select_nth_unstable(many - 1);
            all.truncate(many);
            tracing::warn!(
                input,
                many,
                "forgot the producers that sent longest ago: records they resend are accepted again"
            );
            self.forgotten += many as u64;
            for (_, of) in all {
                self.committed.remove(&of);
                self.changed.insert(of);
            }
        }
    }

    /// The offsets for the next checkpoint: those changed since the last one, or all. `captured` reports whether
    /// it was written; if not, they are in the next one.
    pub fn capture(&mut self, whole: bool) -> Vec<Written> {
        self.trim(0);
        let written = |(of, offset): (&Of, Option<&Offset>)| {
            let batch = offset.map_or(0, |offset| offset.batch);
            (of.0, of.1.clone(), offset.map(|offset| offset.last), batch)
        };
        self.writing.append(&mut self.changed);
        match whole {
            true => {
                let all = self.committed.iter();
                all.map(|(of, offset)| written((of, Some(offset))))
                    .collect()
            }
            false => {
                let changed = self.writing.iter();
                changed
                    .map(|of| written((of, self.committed.get(of))))
                    .collect()
            }
        }
    }

    /// The last captured offsets are in a checkpoint, or were not written.
    pub fn captured(&mut self, is_written: bool) {
        let mut writing = std::mem::take(&mut self.writing);
        if !is_written {
            self.changed.append(&mut writing);
        }
    }
}

const OFFSETS: FrameFormat = FrameFormat {
    what: "offsets of a checkpoint",
    magic: *b"dstr-off",
    version: 1,
};

/// The bytes of a part of a checkpoint.
pub(super) fn to_bytes(offsets: &[Written]) -> Result<Vec<u8>> {
    let mut bytes = OFFSETS.begin(64 * offsets.len());
    serde_json::to_writer(&mut bytes, offsets).map_err(|error| OFFSETS.wrong(error.to_string()))?;
    Ok(OFFSETS.seal(bytes))
}

/// Applies a part of a checkpoint to the offsets of earlier parts.
pub(super) fn add(offsets: &mut Offsets, bytes: &[u8]) -> Result<()> {
    let parts: Vec<Written> = serde_json::from_slice(OFFSETS.open(bytes)?)
        .map_err(|error| OFFSETS.wrong(error.to_string()))?;
    for (input, name, last, batch) in parts {
        match last {
            Some(last) => drop(offsets.insert((input, name), Offset { last, batch })),
            None => drop(offsets.remove(&(input, name))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(receiver: u64, seq: u64) -> BlockId {
        BlockId {
            receiver: ReceiverId(receiver),
            seq,
        }
    }

    fn of(last: u64) -> impl Iterator<Item = (Of, u64)> {
        std::iter::once(((0, "p".to_owned()), last))
    }

    #[test]
    fn only_surviving_blocks_of_a_lost_receiver_count() {
        let mut table = OffsetTable::default();
        for (receiver, seq) in [(1, 0), (1, 1), (2, 0)] {
            table.stored(id(receiver, seq), of(seq));
        }
        table.receiver_lost(ReceiverId(1), &[id(1, 1)]);
        let mut left: Vec<_> = table.blocks.into_keys().collect();
        left.sort();
        assert_eq!(left, [id(1, 1), id(2, 0)]);
    }

    /// A worker may report a block late: its batch is not committed again.
    #[test]
    fn late_offsets_are_dropped_by_the_next_checkpoint() {
        let mut table = OffsetTable::default();
        table.stored(id(1, 0), of(1));
        table.committed(BatchTime(100), &[id(1, 0)]);
        table.stored(id(1, 0), of(1));
        table.stored(id(1, 1), of(2));
        let mut retention = dstreams_control::durable::JournalRetention::default();
        retention.cut(BatchTime(100), vec![id(1, 0)], 0);
        table.checkpointed(&retention.checkpointed(BatchTime(100)));
        assert_eq!(table.blocks.into_keys().collect::<Vec<_>>(), [id(1, 1)]);
    }

    /// A batch with a block of each of these producers.
    fn batch(table: &mut OffsetTable, at: u64, input: u32, producers: &[&str]) {
        for (seq, producer) in (0..).zip(producers) {
            let of = ((input, (*producer).to_owned()), at);
            table.stored(id(at, seq), std::iter::once(of));
        }
        let blocks: Vec<_> = (0..producers.len() as u64).map(|seq| id(at, seq)).collect();
        table.committed(BatchTime(at), &blocks);
    }

    fn names(offsets: &Offsets) -> Vec<(u32, &str, u64)> {
        let offsets = offsets.iter();
        offsets
            .map(|((input, name), offset)| (*input, &**name, offset.last))
            .collect()
    }

    /// Producers come and go; a file that was read to its end is not read again, however long ago that was.
    #[test]
    fn idle_producers_are_forgotten_and_parts_of_sources_are_not() {
        let bound = Bound {
            most: 3,
            inputs: vec![true, false],
        };
        let mut table = OffsetTable::of(Offsets::new(), bound.clone());
        batch(&mut table, 1, 1, &["f1", "f2", "f3", "f4"]);
        batch(&mut table, 2, 0, &["z", "y"]);
        batch(&mut table, 3, 0, &["b", "c"]);
        batch(&mut table, 4, 0, &["z"]);
        let mut offsets = Offsets::new();
        add(&mut offsets, &to_bytes(&table.capture(true)).unwrap()).unwrap();
        let files = [(1, "f1", 1), (1, "f2", 1), (1, "f3", 1), (1, "f4", 1)];
        let clients = [(0, "b", 3), (0, "c", 3), (0, "z", 4)];
        assert_eq!(names(&offsets), [&clients[..], &files].concat());
        assert_eq!(table.forgotten(), 1);
        // An earlier process may have had a higher limit.
        let fewer = Bound { most: 1, ..bound };
        let table = OffsetTable::of(offsets, fewer);
        assert_eq!(names(&table.committed)[0], (0, "z", 4));
        assert_eq!(table.committed.len(), 5);
    }

    #[test]
    fn changed_offsets_are_written_until_a_checkpoint_succeeds() {
        let bound = Bound {
            most: 2,
            inputs: vec![true],
        };
        let mut table = OffsetTable::of(Offsets::new(), bound);
        let mut offsets = Offsets::new();
        let mut write = |table: &mut OffsetTable, is_written: bool| {
            let part = table.capture(false);
            table.captured(is_written);
            if is_written {
                add(&mut offsets, &to_bytes(&part).unwrap()).unwrap();
                assert_eq!(offsets, table.committed);
            }
            part.len()
        };
        batch(&mut table, 1, 0, &["a", "b"]);
        assert_eq!(write(&mut table, true), 2);
        assert_eq!(write(&mut table, true), 0);
        batch(&mut table, 2, 0, &["b"]);
        assert_eq!(write(&mut table, false), 1);
        batch(&mut table, 3, 0, &["c"]);
        // Including `a`, which was forgotten.
        assert_eq!(write(&mut table, true), 3);
        table.forget(0, &["b".into(), "unknown".into()]);
        assert_eq!(write(&mut table, true), 1);
    }

    /// Also the offsets of blocks that are in no batch yet.
    #[test]
    fn forgotten_parts_do_not_come_back() {
        let mut table = OffsetTable::of(
            Offsets::new(),
            Bound {
                most: 9,
                inputs: vec![false],
            },
        );
        batch(&mut table, 1, 0, &["file", "other"]);
        table.stored(id(9, 9), std::iter::once(((0, "file".to_owned()), 7)));
        table.forget(0, &["file".into()]);
        table.committed(BatchTime(2), &[id(9, 9)]);
        assert_eq!(names(&table.committed), [(0, "other", 1)]);
    }
}
