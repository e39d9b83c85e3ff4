//! The state after a batch is the one before plus its records: nothing is installed twice or left out.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::{Fact, fold};

pub struct StateFolds;

impl Invariant for StateFolds {
    fn name(&self) -> &'static str {
        "state-folds"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let expected = match fact {
            Fact::Effect(effect) => {
                let before = scene.ledger.states_before(effect.batch);
                let (batch, records) = (effect.batch, &effect.records);
                let after = |at: usize| fold(at, before[at], batch, records);
                (Some(batch), Some(std::array::from_fn(after)), effect.states)
            }
            Fact::Checkpoint(checkpoint) => {
                let batch = Some(checkpoint.point.batch);
                (batch, scene.ledger.states_at(batch), checkpoint.states)
            }
            Fact::Follows { after, version } => {
                return ensure(version.is_none_or(|version| version == *after), || {
                    format!("a batch that follows {after} is replayed on version {version:?}")
                });
            }
            Fact::Replayed { batch, states } => (*batch, scene.ledger.states_at(*batch), *states),
            _ => return Ok(()),
        };
        let (batch, expected, is) = expected;
        ensure(expected == Some(is), || {
            format!("the state as of {batch:?} is {is:x?} and not {expected:x?}")
        })
    }
}
