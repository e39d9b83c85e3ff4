//! Make before break: if two live workers have all of a partition's state, two still have it after a new assignment,
//! and two have the changes of a batch that is about to be committed. Only a loss takes one away, or draining all
//! workers but one; or the end of a move, where partitions have no standbys.

use std::collections::BTreeSet;

use dstreams_control::cluster::{ClusterCommand, WorkerId};

use super::{Invariant, Scene, Verdict, ensure};

pub struct TwoCopies;

impl Invariant for TwoCopies {
    fn name(&self) -> &'static str {
        "two-copies"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Assign {
            partition,
            primary,
            standby,
            next,
        } = command
        else {
            return Ok(());
        };
        let ledger = scene.ledger;
        if ledger.open().count() < 2 || !ledger.config.standbys {
            return Ok(());
        }
        let versions = [ledger.newest(*partition), ledger.newest_then(*partition)];
        for version in versions.into_iter().filter(Option::is_some) {
            let has = |worker: &WorkerId| ledger.has(*partition, *worker, version);
            let before: Vec<_> = ledger.parts_of(*partition).filter(has).collect();
            let now = [Some(*primary), *standby, *next].into_iter().flatten();
            let now: Vec<_> = now.filter(has).collect();
            ensure(now.len() >= 2 || before.len() < 2, || {
                format!("{before:?} had partition {partition}, {now:?} after its assignment")
            })?;
        }
        Ok(())
    }

    fn finished(&self, scene: &Scene, behind: &BTreeSet<(u32, WorkerId)>) -> Verdict {
        let ledger = scene.ledger;
        if ledger.open().count() < 2 || !ledger.config.standbys {
            return Ok(());
        }
        for (&partition, &(primary, standby)) in &ledger.assigned {
            let then = ledger.newest_then(partition);
            let parts = [Some(primary), standby].into_iter().flatten();
            let had = parts.filter(|&part| {
                ledger.has_all(partition, part) && !behind.contains(&(partition, part))
            });
            let had: Vec<_> = had.collect();
            let has = |worker: &WorkerId| ledger.has(partition, *worker, then);
            let now: Vec<_> = ledger.parts_of(partition).filter(has).collect();
            ensure(now.len() >= 2 || had.len() < 2, || {
                format!("{had:?} had partition {partition}, {now:?} at the commit of {then:?}")
            })?;
        }
        Ok(())
    }
}
