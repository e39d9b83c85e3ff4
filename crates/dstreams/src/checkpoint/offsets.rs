//! [`OffsetTable`]: how far each producer's records, or a source's, are in batches that took effect; and their bytes in
//! checkpoints, which have what changed, and all of it now and then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use dstreams_control::durable::Covered;
use dstreams_control::{BatchTime, BlockId, ReceiverId};

use crate::blocks::Block;
use crate::encoding::FrameFormat;
use crate::error::Result;

/// An input, and a producer or part of a source.
pub(super) type Of = (u32, String);

/// How far a producer, or a part of a source, has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Offset {
    pub last: u64,
    /// The newest batch that has records of it, in milliseconds.
    pub batch: u64,
}

pub(super) type Offsets = BTreeMap<Of, Offset>;

/// An offset as a checkpoint has it: input, name, last number and batch; no number where it was forgotten.
pub(super) type Written = (u32, String, Option<u64>, u64);

/// How many producers are remembered.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    pub most: usize,
    /// By input: whether its producers come and go. Parts of other sources are where these read on, and stay.
    pub inputs: Vec<bool>,
}

/// The offset of each producer and source, as of the batches that took effect.
#[derive(Default)]
pub(super) struct OffsetTable {
    committed: Offsets,
    /// Of blocks in no batch that took effect.
    blocks: HashMap<BlockId, Vec<(Of, u64)>>,
    bound: Bound,
    /// What no checkpoint has as it is now.
    changed: BTreeSet<Of>,
    /// The same, in the checkpoint that is being written.
    writing: BTreeSet<Of>,
    forgotten: u64,
}

impl OffsetTable {
    /// Those of a checkpoint.
    pub fn of(committed: Offsets, bound: Bound) -> Self {
        let mut marks = OffsetTable {
            committed,
            bound,
            ..OffsetTable::default()
        };
        marks.trim(0);
        marks
    }

    pub fn received(&mut self, input: u32, block: &Block) {
        let marks = block.marks.iter();
        let marks = marks.map(|(producer, last)| ((input, producer.to_string()), *last));
        self.stored(block.meta.id, marks);
    }

    pub fn stored(&mut self, block: BlockId, marks: impl Iterator<Item = (Of, u64)>) {
        self.blocks.entry(block).or_insert_with(|| marks.collect());
    }

    /// Of this receiver, these blocks will be in a batch and no others.
    pub fn gone(&mut self, receiver: ReceiverId, blocks: &[BlockId]) {
        let blocks: HashSet<&BlockId> = blocks.iter().collect();
        self.blocks
            .retain(|id, _| id.receiver != receiver || blocks.contains(id));
    }

    /// A checkpoint has these blocks. Those of a worker that was late to say that it holds them are of batches that took
    /// effect before.
    pub fn covered(&mut self, covered: &Covered) {
        self.blocks.retain(|id, _| !covered.contains(*id));
    }

    /// A batch with these blocks has taken effect.
    pub fn committed(&mut self, batch: BatchTime, blocks: &[BlockId]) {
        let marks = blocks.iter().filter_map(|block| self.blocks.remove(block));
        for (of, last) in marks.flatten() {
            self.changed.insert(of.clone());
            let known = self.committed.entry(of).or_default();
            known.last = known.last.max(last);
            known.batch = known.batch.max(batch.millis());
        }
        // Now and then, so that it costs little for each.
        self.trim(self.bound.most / 4);
    }

    /// A part of a source is no more, and never comes again.
    pub fn forget(&mut self, input: u32, names: &[Arc<str>]) {
        let names: HashSet<&str> = names.iter().map(|name| &**name).collect();
        let is = |of: &Of| of.0 == input && names.contains(&*of.1);
        let marks = self.blocks.values_mut();
        marks.for_each(|marks| marks.retain(|(of, _)| !is(of)));
        for name in names {
            let of = (input, name.to_owned());
            if self.committed.remove(&of).is_some() {
                self.changed.insert(of);
            }
        }
    }

    /// Producers that were forgotten because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets the producers that sent longest ago, where there are more than the bound by more than `slack`.
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
                "producers that sent longest ago are forgotten: what they send again is taken again"
            );
            self.forgotten += many as u64;
            for (_, of) in all {
                self.committed.remove(&of);
                self.changed.insert(of);
            }
        }
    }

    /// What the next checkpoint is to have: what changed since the last one, or all. `captured` says whether that one
    /// is there, or it comes again.
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

    /// What was captured last is in a checkpoint, or was not written.
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

/// Adds what a part of a checkpoint has to what earlier parts had.
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
    fn of_a_receiver_that_is_gone_what_survives_is_known() {
        let mut marks = OffsetTable::default();
        for (receiver, seq) in [(1, 0), (1, 1), (2, 0)] {
            marks.stored(id(receiver, seq), of(seq));
        }
        marks.gone(ReceiverId(1), &[id(1, 1)]);
        let mut left: Vec<_> = marks.blocks.into_keys().collect();
        left.sort();
        assert_eq!(left, [id(1, 1), id(2, 0)]);
    }

    /// A worker may be late to say that it holds a block: nobody commits that one again.
    #[test]
    fn what_comes_after_its_batch_goes_with_the_next_checkpoint() {
        let mut marks = OffsetTable::default();
        marks.stored(id(1, 0), of(1));
        marks.committed(BatchTime(100), &[id(1, 0)]);
        marks.stored(id(1, 0), of(1));
        marks.stored(id(1, 1), of(2));
        let mut needs = dstreams_control::durable::Needs::default();
        needs.cut(BatchTime(100), vec![id(1, 0)], 0);
        marks.covered(&needs.covered(BatchTime(100)));
        assert_eq!(marks.blocks.into_keys().collect::<Vec<_>>(), [id(1, 1)]);
    }

    /// A batch with a block of each of these producers.
    fn batch(marks: &mut OffsetTable, at: u64, input: u32, producers: &[&str]) {
        for (seq, producer) in (0..).zip(producers) {
            let of = ((input, (*producer).to_owned()), at);
            marks.stored(id(at, seq), std::iter::once(of));
        }
        let blocks: Vec<_> = (0..producers.len() as u64).map(|seq| id(at, seq)).collect();
        marks.committed(BatchTime(at), &blocks);
    }

    fn names(offsets: &Offsets) -> Vec<(u32, &str, u64)> {
        let offsets = offsets.iter();
        offsets
            .map(|((input, name), offset)| (*input, &**name, offset.last))
            .collect()
    }

    /// Those of clients come and go; a file that was read to its end is not read again, however long ago that was.
    #[test]
    fn producers_that_sent_longest_ago_are_forgotten_and_parts_of_sources_are_not() {
        let bound = Bound {
            most: 3,
            inputs: vec![true, false],
        };
        let mut marks = OffsetTable::of(Offsets::new(), bound.clone());
        batch(&mut marks, 1, 1, &["f1", "f2", "f3", "f4"]);
        batch(&mut marks, 2, 0, &["z", "y"]);
        batch(&mut marks, 3, 0, &["b", "c"]);
        batch(&mut marks, 4, 0, &["z"]);
        let mut offsets = Offsets::new();
        add(&mut offsets, &to_bytes(&marks.capture(true)).unwrap()).unwrap();
        let files = [(1, "f1", 1), (1, "f2", 1), (1, "f3", 1), (1, "f4", 1)];
        let clients = [(0, "b", 3), (0, "c", 3), (0, "z", 4)];
        assert_eq!(names(&offsets), [&clients[..], &files].concat());
        assert_eq!(marks.forgotten(), 1);
        // An earlier process may have had a greater bound.
        let fewer = Bound { most: 1, ..bound };
        let marks = OffsetTable::of(offsets, fewer);
        assert_eq!(names(&marks.committed)[0], (0, "z", 4));
        assert_eq!(marks.committed.len(), 5);
    }

    #[test]
    fn a_checkpoint_has_what_changed_until_one_has_it() {
        let bound = Bound {
            most: 2,
            inputs: vec![true],
        };
        let mut marks = OffsetTable::of(Offsets::new(), bound);
        let mut offsets = Offsets::new();
        let mut write = |marks: &mut OffsetTable, is_written: bool| {
            let part = marks.capture(false);
            marks.captured(is_written);
            if is_written {
                add(&mut offsets, &to_bytes(&part).unwrap()).unwrap();
                assert_eq!(offsets, marks.committed);
            }
            part.len()
        };
        batch(&mut marks, 1, 0, &["a", "b"]);
        assert_eq!(write(&mut marks, true), 2);
        assert_eq!(write(&mut marks, true), 0);
        batch(&mut marks, 2, 0, &["b"]);
        assert_eq!(write(&mut marks, false), 1);
        batch(&mut marks, 3, 0, &["c"]);
        // With `a`, which was forgotten.
        assert_eq!(write(&mut marks, true), 3);
        marks.forget(0, &["b".into(), "unknown".into()]);
        assert_eq!(write(&mut marks, true), 1);
    }

    /// Also what blocks say that are in no batch yet.
    #[test]
    fn what_is_no_more_does_not_come_again() {
        let mut marks = OffsetTable::of(
            Offsets::new(),
            Bound {
                most: 9,
                inputs: vec![false],
            },
        );
        batch(&mut marks, 1, 0, &["file", "other"]);
        marks.stored(id(9, 9), std::iter::once(((0, "file".to_owned()), 7)));
        marks.forget(0, &["file".into()]);
        marks.committed(BatchTime(2), &[id(9, 9)]);
        assert_eq!(names(&marks.committed), [(0, "other", 1)]);
    }
}
