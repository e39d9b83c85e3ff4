//! A record is in one batch at most, once.

use std::collections::BTreeSet;

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct RecordOnce;

impl Invariant for RecordOnce {
    fn name(&self) -> &'static str {
        "record-once"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Effect(effect) = fact else {
            return Ok(());
        };
        let mut here = BTreeSet::new();
        for record in &effect.records {
            let batch = effect.batch;
            ensure(here.insert(record), || {
                format!("record {record:?} is in {batch} twice")
            })?;
            let other = scene.ledger.records.get(record);
            ensure(other.is_none_or(|other| *other == batch), || {
                format!("record {record:?} is in {batch} and in {other:?}")
            })?;
        }
        Ok(())
    }
}
