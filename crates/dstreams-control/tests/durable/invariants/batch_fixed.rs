//! A batch that took effect has the same blocks in every process, and is not cut again.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct BatchFixed;

impl Invariant for BatchFixed {
    fn name(&self) -> &'static str {
        "batch-fixed"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        match fact {
            Fact::Cut(batch) => ensure(!scene.ledger.visible.contains_key(batch), || {
                format!("{batch} is cut again; it took effect")
            }),
            Fact::Effect(effect) => match scene.ledger.visible.get(&effect.batch) {
                Some(known) => ensure(known.blocks == effect.blocks, || {
                    let (batch, blocks) = (effect.batch, effect.blocks);
                    format!("{batch} had {:?}, and now {blocks:?}", known.blocks)
                }),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
