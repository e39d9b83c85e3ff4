//! When calm, every block that is still needed is stored by as many workers as it should be, or on the master's disk.

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct CopiesRestored;

impl Invariant for CopiesRestored {
    fn name(&self) -> &'static str {
        "copies-restored"
    }

    fn calm(&self, scene: &Scene, _: Calm) -> Verdict {
        let ledger = scene.ledger;
        for (id, block) in &scene.truth.blocks {
            let holds = |worker: &_| {
                let worker = &scene.workers[worker];
                worker.is_in() && worker.store.contains_key(id)
            };
            let over = ledger
                .left
                .get(&id.receiver)
                .is_some_and(|left| !left.contains(id));
            let somewhere = ledger.live.iter().any(holds);
            let adopted = ledger.adopted_blocks.contains(id);
            if over || adopted || !somewhere || ledger.forgotten.contains(id) {
                continue;
            }
            let (held, needed) = (ledger.open().filter(holds).count(), ledger.needed());
            ensure(held >= needed, || {
                format!(
                    "block {id} of {:?} is stored by {held}, not {needed}",
                    block.origin
                )
            })?;
        }
        Ok(())
    }
}
