//! A worker that drains may leave when others have all it has, is told so once, and in the calm it was.

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
            format!("{worker} may leave, nobody asked, or again")
        })?;
        ensure(ledger.retired.contains(worker), || {
            format!("{worker} may leave and takes blocks of others still")
        })?;
        let mut all = ledger.assigned.keys();
        let part = all.find(|&&partition| ledger.parts_of(partition).any(|with| with == *worker));
        ensure(part.is_none(), || {
            format!("{worker} may leave and has a part in {part:?}")
        })?;
        let only = ledger.held.iter().find(|(_, holders)| {
            let open = |holder: &_| ledger.open().any(|open| open == *holder);
            holders.contains(worker) && !holders.iter().any(open)
        });
        // Whoever receives a block holds it, also if it has not said so.
        let only = only.filter(|(id, _)| {
            let receives = ledger
                .receivers
                .get(&id.receiver)
                .map(|&(worker, _)| worker);
            receives.is_none_or(|receives| !ledger.open().any(|open| open == receives))
        });
        ensure(only.is_none(), || {
            format!("{worker} may leave and holds {only:?}")
        })
    }

    fn calm(&self, scene: &Scene, calm: Calm) -> Verdict {
        let waits = scene
            .ledger
            .draining
            .difference(&scene.ledger.drained)
            .next();
        ensure(calm == Calm::EngineStands || waits.is_none(), || {
            format!("{waits:?} drains for ever")
        })
    }
}
