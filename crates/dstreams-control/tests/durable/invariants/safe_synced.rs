//! Records reported as safe were synced.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct SafeSynced;

impl Invariant for SafeSynced {
    fn name(&self) -> &'static str {
        "safe-synced"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Told { producer, last } = *fact else {
            return Ok(());
        };
        let known = scene.ledger.told[producer];
        let synced = |number| scene.ledger.synced_records.contains(&(producer, number));
        let lacking = (known + 1..=last).find(|number| !synced(*number));
        ensure(lacking.is_none(), || {
            format!("producer {producer} learns that {last} is safe; {lacking:?} was never synced")
        })
    }
}
