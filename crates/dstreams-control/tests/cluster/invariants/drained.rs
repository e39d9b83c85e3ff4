//! A draining worker may leave when others have everything it has; it is told so once, and when calm it has been.

use dstreams_control::cluster::ClusterCommand;

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct Drained;

impl Invariant for Drained {
    fn name(&self) -> &'static str {
        "drained"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Drained { worker } = command else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let asked = ledger.draining.contains(worker) && !ledger.drained.contains(worker);
        ensure(asked, || {
            format!("{worker} may leave, unasked or for the second time")
        })?;
        ensure(ledger.retired.contains(worker), || {
            format!("{worker} may leave but still accepts blocks")
        })?;
        let mut all = ledger.assigned.keys();
        let part = all.find(|&&partition| ledger.parts_of(partition).any(|with| with == *worker));
        ensure(part.is_none(), || {
            format!("{worker} may leave but has a role in {part:?}")
        })?;
        let only = ledger.held.iter().find(|(id, stored_on)| {
            let open = |at: &_| ledger.open().any(|open| open == *at);
            let adopted = ledger.adopted_blocks.contains(id);
            !adopted && stored_on.contains(worker) && !stored_on.iter().any(open)
        });
        // The worker that received a block stores it, even if it has not reported it.
        let only = only.filter(|(id, _)| {
            let receives = ledger
                .receivers
                .get(&id.receiver)
                .map(|&(worker, _)| worker);
            receives.is_none_or(|receives| !ledger.open().any(|open| open == receives))
        });
        ensure(only.is_none(), || {
            format!("{worker} may leave but alone stores {only:?}")
        })
    }

    fn calm(&self, scene: &Scene, calm: Calm) -> Verdict {
        let waits = scene
            .ledger
            .draining
            .difference(&scene.ledger.drained)
            .next();
        ensure(calm == Calm::EngineStands || waits.is_none(), || {
            format!("{waits:?} never finishes draining")
        })
    }
}
