//! Each output of a batch exists once, and a repeated commit is identical.

use super::{Invariant, Scene, Verdict, ensure};
use crate::ledger::Fact;

pub struct OutputOnce;

impl Invariant for OutputOnce {
    fn name(&self) -> &'static str {
        "output-once"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        let Fact::Effect(effect) = fact else {
            return Ok(());
        };
        let (output, batch) = (effect.output, effect.batch);
        let known = scene.ledger.outputs.get(&(output, batch));
        ensure(known.is_none_or(|known| *known == effect.content), || {
            format!("output {output} of {batch} is committed again, and differs")
        })?;
        ensure(known.is_none() || !effect.put, || {
            format!("output {output} of {batch} is there twice")
        })
    }
}
