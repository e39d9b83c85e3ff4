//! Holder and standby of a partition differ, both are there, and who has which part is said when it changes, and only
//! then.

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
                holder,
                standby,
            } => {
                ensure(Some(*holder) != *standby, || {
                    format!("{holder} is holder and standby of {partition}")
                })?;
                let now = (*holder, *standby);
                ensure(scene.ledger.assigned.get(partition) != Some(&now), || {
                    format!("{partition} was assigned so before: {now:?}")
                })
            }
            ClusterCommand::CopyState {
                partition,
                from,
                to,
                ..
            } => {
                let parts = scene.ledger.assigned.get(partition);
                ensure(parts == Some(&(*from, Some(*to))), || {
                    format!("state of {partition} is copied from {from} to {to}, but {parts:?}")
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
            let assigned = assigned.filter(|(holder, _)| scene.ledger.live.contains(holder));
            let holder = scene.machine.holder(partition);
            let standby = scene.machine.standby(partition);
            ensure(holder.map(|holder| (holder, standby)) == assigned, || {
                format!("{partition} is held by {holder:?}, {standby:?}; said was {assigned:?}")
            })?;
            ensure(
                standby.is_none_or(|it| scene.ledger.live.contains(&it)),
                || format!("{standby:?} is standby of {partition} and lost"),
            )?;
        }
        Ok(())
    }
}
