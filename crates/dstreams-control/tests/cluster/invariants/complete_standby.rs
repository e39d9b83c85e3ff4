//! A worker that becomes primary of a partition has all of its committed state, or that state was reported lost.

use dstreams_control::cluster::ClusterCommand;

use super::{Invariant, Scene, Verdict, ensure};

pub struct CompleteStandby;

impl Invariant for CompleteStandby {
    fn name(&self) -> &'static str {
        "complete-standby"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Assign {
            partition, holder, ..
        } = command
        else {
            return Ok(());
        };
        let before = scene.ledger.assigned.get(partition);
        let stays = before.is_some_and(|(before, _)| before == holder);
        let lost = scene.ledger.to_remake.contains_key(partition);
        let states = &scene.truth.states[partition];
        let complete = scene.workers[holder].states.has(*partition, states);
        ensure(stays || lost || complete, || {
            format!("{holder} becomes primary of {partition} without {states:?}")
        })
    }
}
