//! A record is in one batch at most, once, in effect or set aside.

use std::collections::BTreeSet;

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct RecordOnce;

impl Invariant for RecordOnce {
    fn name(&self) -> &'static str {
        "record-once"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let (batch, records) = match fact {
            Fact::Effect(effect) => (effect.batch, &effect.records),
            Fact::SetAside { batch, records } => (*batch, records),
            _ => return Ok(()),
        };
        let mut here = BTreeSet::new();
        for record in records {
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
