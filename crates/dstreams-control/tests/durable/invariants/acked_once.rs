//! In the end, every record reported as safe is in a batch that took effect.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct AckedOnce;

impl Invariant for AckedOnce {
    fn name(&self) -> &'static str {
        "acked-once"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Calm { .. } = fact else {
            return Ok(());
        };
        for (producer, &told) in scene.ledger.told.iter().enumerate() {
            let in_batch = |number| scene.ledger.records.contains_key(&(producer, number));
            let lost = (1..=told).find(|number| !in_batch(*number));
            ensure(lost.is_none(), || {
                format!("record {lost:?} of producer {producer} is in no batch")
            })?;
        }
        Ok(())
    }
}
