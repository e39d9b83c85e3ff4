//! A batch takes effect after its cut and its blocks were synced.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct EffectSynced;

impl Invariant for EffectSynced {
    fn name(&self) -> &'static str {
        "effect-synced"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Effect(effect) = fact else {
            return Ok(());
        };
        let batch = effect.batch;
        ensure(scene.ledger.synced_cuts.contains(&batch), || {
            format!("{batch} takes effect, its cut was not synced")
        })?;
        let mut blocks = effect.blocks.iter().map(|block| block.id);
        let lacking = blocks.find(|id| !scene.ledger.synced_blocks.contains(id));
        ensure(lacking.is_none(), || {
            format!("{batch} takes effect, block {lacking:?} was not synced")
        })
    }
}
