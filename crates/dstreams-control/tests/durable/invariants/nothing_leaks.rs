//! Entries covered by checkpoints are released, and receivers that ended are closed in checkpoints.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct NothingLeaks;

impl Invariant for NothingLeaks {
    fn name(&self) -> &'static str {
        "nothing-leaks"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Calm { needed } = *fact else {
            return Ok(());
        };
        let _ = scene;
        ensure(needed == 0, || {
            format!("{needed} journals or receivers are not done with, and all is in a checkpoint")
        })
    }
}
