//! After a restart, every record reported as safe is in a batch or will be, and is known.

use std::collections::BTreeSet;

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct AckedKept;

impl Invariant for AckedKept {
    fn name(&self) -> &'static str {
        "acked-kept"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Restart(Ok(restart)) = fact else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let blocks = restart.blocks.keys().filter_map(|id| ledger.blocks.get(id));
        let records: BTreeSet<_> = blocks.flat_map(|block| block.records.iter()).collect();
        for (producer, &told) in ledger.told.iter().enumerate() {
            let known = restart
                .offsets
                .iter()
                .find(|((_, name), _)| *name == producer.to_string());
            let known = known.map_or(0, |(_, last)| *last);
            ensure(known >= told, || {
                format!("producer {producer} was told that {told} is safe; {known} is known")
            })?;
            let there = |record: &(usize, u64)| {
                ledger.records.contains_key(record) || records.contains(record)
            };
            let lost = (1..=told).find(|number| !there(&(producer, *number)));
            ensure(lost.is_none(), || {
                format!(
                    "record {lost:?} of producer {producer} is lost; up to {told} all were safe"
                )
            })?;
        }
        Ok(())
    }
}
