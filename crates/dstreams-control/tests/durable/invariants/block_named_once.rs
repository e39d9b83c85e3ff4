//! A name belongs to one block, in every journal, permanently.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct BlockNamedOnce;

impl Invariant for BlockNamedOnce {
    fn name(&self) -> &'static str {
        "block-named-once"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Written(block) = fact else {
            return Ok(());
        };
        let known = scene.ledger.blocks.get(&block.meta.id);
        ensure(known.is_none_or(|known| known == *block), || {
            format!("{block:?} has the name of {known:?}")
        })
    }
}
