//! Every acknowledged record is in exactly one cut, unless more workers were lost than the copies tolerate before
//! they were restored.

use std::collections::BTreeMap;

use crate::world::SOURCE;

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct AckedOnce;

impl Invariant for AckedOnce {
    fn name(&self) -> &'static str {
        "acked-once"
    }

    fn calm(&self, scene: &Scene, calm: Calm) -> Verdict {
        if calm != Calm::Stopped {
            return Ok(());
        }
        // For each record, the number of its cuts, and whether a block that made it safe was lost.
        let mut cuts: BTreeMap<(usize, u64), (usize, bool)> = BTreeMap::new();
        for (id, block) in &scene.truth.blocks {
            let excused = scene.truth.excused.contains(id);
            let cut = scene.ledger.cuts.contains_key(id) && !excused;
            for record in block.records() {
                let (count, lost) = cuts.entry(record).or_default();
                *count += usize::from(cut);
                *lost |= excused && scene.truth.safe.contains(id);
            }
        }
        // A source knows its own offset: its pushes have returned up to there.
        let safe = scene.truth.blocks.values();
        let safe = safe.filter(|block| scene.truth.safe.contains(&block.meta.id));
        let of_source = safe
            .flat_map(|block| block.records())
            .filter(|(of, _)| *of == SOURCE);
        let source = (
            SOURCE,
            of_source
                .map(|(_, number)| number)
                .max()
                .unwrap_or_default(),
        );
        let clients = scene.clients.iter().map(|client| client.acked);
        for (producer, acked) in clients.enumerate().chain([source]) {
            for number in 1..=acked {
                let (count, lost) = cuts.get(&(producer, number)).copied().unwrap_or_default();
                ensure(count == 1 || (count == 0 && lost), || {
                    format!("batch {number} of producer {producer} is in {count} cuts")
                })?;
            }
        }
        Ok(())
    }
}
