//! Nothing waits forever: once faults have stopped, every order is carried out. No copy is in progress, every fence
//! and every claim is answered, no answer is outstanding, and no changes are retained for a standby that never asks.

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
            format!("copies never end: {:?}", ledger.copying)
        })?;
        if calm == Calm::EngineStands {
            return Ok(());
        }
        let next = ledger.next.iter().next();
        ensure(next.is_none(), || {
            format!("{next:?}: the state copy never completes")
        })?;
        let lost = ledger.recovering.iter().next();
        ensure(lost.is_none(), || format!("{lost:?} is never recovered"))?;
        // The newest batch may be in transit; no changes of earlier ones are retained.
        let there = scene.workers.values().filter(|worker| worker.is_in());
        let held = there.map(|worker| (worker.id, worker.states.changes()));
        let max_changes =
            ledger.config.partitions as usize * (1 + usize::from(calm == Calm::EngineRuns));
        let full = held.into_iter().find(|&(_, changes)| changes > max_changes);
        ensure(full.is_none(), || {
            format!("{full:?} changes are retained, at most {max_changes} allowed")
        })
    }
}
