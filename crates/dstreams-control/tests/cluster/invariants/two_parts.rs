//! The primary, the standby and `next` of a partition are different live workers; `Assign` is given when they change,
//! and only then.

use dstreams_control::cluster::{ClusterCommand, ClusterEvent};

use super::{Invariant, Scene, Verdict, ensure};

pub struct TwoParts;

impl Invariant for TwoParts {
    fn name(&self) -> &'static str {
        "two-parts"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        match command {
            ClusterCommand::Assign {
                partition,
                primary,
                standby,
                next,
            } => {
                let distinct = Some(*primary) != *standby
                    && Some(*primary) != *next
                    && (next.is_none() || standby != next);
                ensure(distinct, || {
                    format!("{primary}, {standby:?}, {next:?} have two roles in {partition}")
                })?;
                let now = (*primary, *standby);
                let said = scene.ledger.assigned.get(partition) == Some(&now)
                    && scene.ledger.next.get(partition) == next.as_ref();
                ensure(!said || scene.ledger.void, || {
                    format!("{partition} is assigned again: {now:?}, {next:?}")
                })
            }
            ClusterCommand::CopyState {
                partition,
                from,
                to,
                ..
            } => {
                let primary = scene
                    .ledger
                    .assigned
                    .get(partition)
                    .map(|(primary, _)| primary);
                let next = scene.ledger.next.get(partition);
                ensure((primary, next) == (Some(from), Some(to)), || {
                    format!(
                        "{partition} is copied from {from} to {to}, not {primary:?} to {next:?}"
                    )
                })
            }
            _ => Ok(()),
        }
    }

    fn after(&self, scene: &Scene, event: &ClusterEvent) -> Verdict {
        if matches!(
            event,
            ClusterEvent::Stored { .. } | ClusterEvent::Forgotten { .. }
        ) {
            return Ok(());
        }
        for partition in 0..scene.ledger.config.partitions {
            let assigned = scene.ledger.assigned.get(&partition).copied();
            let assigned = assigned.filter(|(primary, _)| scene.ledger.live.contains(primary));
            let primary = scene.machine.primary(partition);
            let standby = scene.machine.standby(partition);
            ensure(
                primary.map(|primary| (primary, standby)) == assigned,
                || format!("{partition} is at {primary:?}, {standby:?}; assigned was {assigned:?}"),
            )?;
            let next = scene.machine.next(partition);
            let mut lost = [standby, next].into_iter().flatten();
            let lost = lost.find(|it| !scene.ledger.live.contains(it));
            ensure(lost.is_none(), || {
                format!("{lost:?} has a role in {partition} but is lost")
            })?;
            if assigned.is_some() {
                let said = scene.ledger.next.get(&partition).copied();
                ensure(next == said, || {
                    format!("{next:?} receives {partition}; assigned was {said:?}")
                })?;
            }
        }
        Ok(())
    }
}
