//! Whatever was lost, the disks are consistent.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct RestartPossible;

impl Invariant for RestartPossible {
    fn name(&self) -> &'static str {
        "restart-possible"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Restart(Err(error)) = fact else {
            return Ok(());
        };
        let _ = scene;
        ensure(false, || format!("the restart fails: {error}"))
    }
}
