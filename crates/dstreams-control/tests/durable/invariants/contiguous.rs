//! Batches take effect one interval after the other, across processes. Only intervals are skipped in which nothing is due.

use dstreams_control::BatchTime;

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;
use crate::plan::{INTERVAL_MS, is_due};

pub struct Contiguous;

impl Invariant for Contiguous {
    fn name(&self) -> &'static str {
        "contiguous"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Effect(effect) = fact else {
            return Ok(());
        };
        let (batch, outputs) = (effect.batch, &scene.ledger.outputs);
        let all = (effect.output, BatchTime(0))..=(effect.output, BatchTime(u64::MAX));
        let last = outputs.range(all).next_back().map(|((_, last), _)| *last);
        let skips = scene.ledger.skips;
        let follows = |last: BatchTime| {
            let mut between = (last.0 + INTERVAL_MS..batch.0).step_by(INTERVAL_MS as usize);
            between.all(|batch| skips && !is_due(BatchTime(batch)))
        };
        let follows = last.is_none_or(follows);
        ensure(follows, || format!("{batch} takes effect after {last:?}"))
    }
}
