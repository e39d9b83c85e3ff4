//! A state is lost when its holder is and the standby was not told to be complete, or when all states are void: then,
//! and only then.

use dstreams_control::cluster::{ClusterCommand, ClusterEvent};

use super::{Invariant, Scene, Verdict, ensure};

pub struct StateLost;

impl Invariant for StateLost {
    fn name(&self) -> &'static str {
        "state-lost"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::StateLost { partition, .. } = command else {
            return Ok(());
        };
        let ledger = scene.ledger;
        if ledger.void {
            return Ok(());
        }
        let assigned = ledger.assigned.get(partition);
        let lost = assigned.is_some_and(|(holder, _)| !ledger.live.contains(holder));
        ensure(lost, || {
            format!("state of {partition} is lost with {assigned:?} there")
        })?;
        ensure(!ledger.is_complete(*partition), || {
            format!("state of {partition} is lost, the standby of {assigned:?} is complete")
        })
    }

    fn after(&self, scene: &Scene, event: &ClusterEvent) -> Verdict {
        if scene.ledger.void {
            let mut all = 0..scene.ledger.config.partitions;
            let silent = all.find(|partition| !scene.ledger.to_remake.contains_key(partition));
            return ensure(silent.is_none(), || {
                format!("state of {silent:?} is void, and nothing is said")
            });
        }
        if !matches!(event, ClusterEvent::Lost { .. }) {
            return Ok(());
        }
        // Who takes over without a word must be complete; that is `complete-standby`. Here: nobody takes over.
        let said = &scene.ledger.to_remake;
        let orphan = scene
            .ledger
            .assigned
            .iter()
            .find(|&(partition, (holder, _))| {
                !scene.ledger.live.contains(holder)
                    && scene.ledger.newest(*partition).is_some()
                    && !said.contains_key(partition)
            });
        ensure(orphan.is_none(), || {
            format!("{orphan:?}: the holder is lost, and nothing is said")
        })
    }
}
