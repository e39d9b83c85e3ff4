//! Nothing waits for ever: once faults have stopped, every order is carried out. No copy is under way, every fence and
//! every claim is answered, nobody is waited for, and what batches changed is not held for a standby that never asks.

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct NothingWaits;

impl Invariant for NothingWaits {
    fn name(&self) -> &'static str {
        "nothing-waits"
    }

    fn calm(&self, scene: &Scene, calm: Calm) -> Verdict {
        let ledger = scene.ledger;
        let fence = ledger.fences.iter().find(|(_, silent)| !silent.is_empty());
        ensure(fence.is_none(), || format!("{fence:?} have not answered"))?;
        ensure(ledger.copying.is_empty(), || {
            format!("{:?} are copied for ever", ledger.copying)
        })?;
        if calm == Calm::EngineStands {
            return Ok(());
        }
        let next = ledger.next.iter().next();
        ensure(next.is_none(), || {
            format!("{next:?}: the copy of state never becomes complete")
        })?;
        let lost = ledger.to_remake.iter().next();
        ensure(lost.is_none(), || format!("{lost:?} is never made anew"))?;
        // The newest batch may be on its way; what those before it changed is held for nobody.
        let there = scene.workers.values().filter(|worker| worker.is_in());
        let held = there.map(|worker| (worker.id, worker.states.changes()));
        let most = ledger.config.partitions as usize * (1 + usize::from(calm == Calm::EngineRuns));
        let full = held.into_iter().find(|&(_, changes)| changes > most);
        ensure(full.is_none(), || {
            format!("{full:?} changes are held, at most {most} may be")
        })
    }
}
