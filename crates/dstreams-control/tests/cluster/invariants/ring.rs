//! New blocks are copied to another open worker, to a slow one only if there is no other, and a `Peer` is given when
//! that changes. When calm, every worker has the right peer.

use dstreams_control::cluster::{ClusterCommand, ClusterEvent, WorkerId};

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct Ring;

impl Invariant for Ring {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Peer { worker, to } = command else {
            return Ok(());
        };
        let told = scene.ledger.peers.get(worker).copied().flatten();
        ensure(told != *to, || {
            format!("{worker} is told again to copy to {to:?}")
        })?;
        let stays = |to: &WorkerId| scene.ledger.open().any(|open| open == *to);
        ensure(to.is_none_or(|to| to != *worker && stays(&to)), || {
            format!("{worker} is told to copy to {to:?}")
        })
    }

    fn after(&self, scene: &Scene, event: &ClusterEvent) -> Verdict {
        match event {
            ClusterEvent::Joined { .. }
            | ClusterEvent::Lost { .. }
            | ClusterEvent::Drain { .. }
            | ClusterEvent::Slow { .. } => is_right(scene),
            _ => Ok(()),
        }
    }

    fn calm(&self, scene: &Scene, _: Calm) -> Verdict {
        is_right(scene)
    }
}

fn is_right(scene: &Scene) -> Verdict {
    let ledger = scene.ledger;
    for &worker in &ledger.live {
        let others = |of: Vec<WorkerId>| {
            let others = of.into_iter().filter(|&other| other != worker);
            let others: Vec<_> = others.collect();
            let next = others.iter().find(|&&other| other > worker);
            next.or(others.first()).copied()
        };
        let next = others(ledger.steady()).or_else(|| others(ledger.open().collect()));
        let next = next.filter(|_| ledger.config.copies > 1);
        let peer = ledger.peers.get(&worker).copied().flatten();
        ensure(peer == next, || {
            format!("{worker} copies to {peer:?}, not {next:?}")
        })?;
    }
    Ok(())
}
