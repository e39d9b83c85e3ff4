//! Records that were set aside never take effect, in any process; and what took effect is not set aside.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct SetAsideStays;

impl Invariant for SetAsideStays {
    fn name(&self) -> &'static str {
        "set-aside-stays"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let ledger = scene.ledger;
        match fact {
            Fact::Effect(effect) => {
                let (batch, records) = (effect.batch, &effect.records);
                ensure(
                    !ledger.set_aside.contains(&batch) || records.is_empty(),
                    || format!("{records:?} of {batch} take effect; they were set aside"),
                )
            }
            Fact::SetAside { batch, .. } => ensure(!ledger.visible.contains_key(batch), || {
                format!("{batch} is set aside; it took effect")
            }),
            _ => Ok(()),
        }
    }
}
