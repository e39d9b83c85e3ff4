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
            partition, primary, ..
        } = command
        else {
            return Ok(());
        };
        let before = scene.ledger.assigned.get(partition);
        let stays = before.is_some_and(|(before, _)| before == primary);
        let lost = scene.ledger.recovering.contains_key(partition);
        let states = &scene.truth.states[partition];
        let complete = scene.workers[primary].states.has(*partition, states);
        ensure(stays || lost || complete, || {
            format!("{primary} becomes primary of {partition} without {states:?}")
        })
    }
}
