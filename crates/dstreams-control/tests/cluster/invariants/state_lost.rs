//! A state is lost exactly when its primary is lost and its standby was not reported complete, or when all states are
//! void.

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
        let lost = assigned.is_some_and(|(primary, _)| !ledger.live.contains(primary));
        ensure(lost, || {
            format!("state of {partition} is lost, but {assigned:?} is live")
        })?;
        ensure(!ledger.is_complete(*partition), || {
            format!("state of {partition} is lost, but the standby of {assigned:?} is complete")
        })
    }

    fn after(&self, scene: &Scene, event: &ClusterEvent) -> Verdict {
        if scene.ledger.void {
            let mut all = 0..scene.ledger.config.partitions;
            let silent = all.find(|partition| !scene.ledger.recovering.contains_key(partition));
            return ensure(silent.is_none(), || {
                format!("state of {silent:?} is void, but not reported lost")
            });
        }
        if !matches!(event, ClusterEvent::Lost { .. }) {
            return Ok(());
        }
        // `complete-standby` checks a standby that takes over without a report. Here: no worker takes over.
        let reported = &scene.ledger.recovering;
        let orphan = scene
            .ledger
            .assigned
            .iter()
            .find(|&(partition, (primary, _))| {
                !scene.ledger.live.contains(primary)
                    && scene.ledger.newest(*partition).is_some()
                    && !reported.contains_key(partition)
            });
        ensure(orphan.is_none(), || {
            format!("{orphan:?}: the primary is lost, but the state is not reported lost")
        })
    }
}
