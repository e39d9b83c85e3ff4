//! No numbered batch of a producer is in two cut blocks, except for blocks whose loss is excused.

use std::collections::BTreeSet;

use dstreams_control::{BlockId, BlockMeta};

use super::{Invariant, Scene, Verdict, ensure};

pub struct ProducerOnce;

impl Invariant for ProducerOnce {
    fn name(&self) -> &'static str {
        "producer-once"
    }

    fn cut(&self, scene: &Scene, blocks: &[BlockMeta]) -> Verdict {
        let excused = |id: &BlockId| scene.truth.excused.contains(id);
        let records = |id: &BlockId| scene.truth.blocks[id].records().collect::<Vec<_>>();
        let now: BTreeSet<_> = blocks.iter().map(|block| block.id).collect();
        if now.is_empty() {
            return Ok(());
        }
        let cut_before = scene.ledger.cuts.keys().filter(|&id| !excused(id));
        let mut before: BTreeSet<_> = cut_before.flat_map(records).collect();
        for id in now.iter().filter(|&id| !excused(id)) {
            ensure(!scene.ledger.cuts.contains_key(id), || {
                format!("block {id} is cut again")
            })?;
            for record in records(id) {
                ensure(before.insert(record), || {
                    format!("(producer, number) {record:?} in block {id} was cut before")
                })?;
            }
        }
        Ok(())
    }
}
