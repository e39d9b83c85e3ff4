//! [`Marks`]: how far each producer's records, or a source's, are in batches that took effect.

use std::collections::{HashMap, HashSet};

use dstreams_control::durable::{Covered, Marks as ByProducer};
use dstreams_control::{BlockId, ReceiverId};

use crate::receive::Block;

/// An input, and a producer or part of a source.
type Of = (u32, String);

/// See the module.
#[derive(Default)]
pub(super) struct Marks {
    committed: ByProducer,
    /// Of blocks in no batch that took effect.
    blocks: HashMap<BlockId, Vec<(Of, u64)>>,
}

impl Marks {
    /// Those of a checkpoint.
    pub fn of(committed: ByProducer) -> Self {
        Marks {
            committed,
            blocks: HashMap::new(),
        }
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

    pub fn committed(&mut self, blocks: &[BlockId]) {
        let marks = blocks.iter().filter_map(|block| self.blocks.remove(block));
        for (producer, last) in marks.flatten() {
            let known = self.committed.entry(producer).or_default();
            *known = (*known).max(last);
        }
    }

    pub fn committed_ones(&self) -> Vec<(u32, String, u64)> {
        let marks = self.committed.iter();
        marks
            .map(|((input, producer), last)| (*input, producer.clone(), *last))
            .collect()
    }
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
        let mut marks = Marks::default();
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
        let mut marks = Marks::default();
        marks.stored(id(1, 0), of(1));
        marks.committed(&[id(1, 0)]);
        marks.stored(id(1, 0), of(1));
        marks.stored(id(1, 1), of(2));
        let mut needs = dstreams_control::durable::Needs::default();
        needs.cut(dstreams_control::BatchTime(100), vec![id(1, 0)], 0);
        marks.covered(&needs.covered(dstreams_control::BatchTime(100)));
        assert_eq!(marks.blocks.into_keys().collect::<Vec<_>>(), [id(1, 1)]);
    }
}
