//! [`Marks`]: how far each producer's records, or a source's, are in batches that took effect.

use std::collections::HashMap;

use dstreams_control::durable::Marks as ByProducer;
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
        self.blocks
            .retain(|id, _| id.receiver != receiver || blocks.contains(id));
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
