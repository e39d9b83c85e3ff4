//! Make before break: where two workers that are there have all of a partition's state, two still have it after it is
//! assigned to others, and after the next batch is committed. Only a loss takes one away, or the wish that all but one
//! leave.

use dstreams_control::cluster::{ClusterCommand, ClusterEvent, WorkerId};

use super::{Invariant, Scene, Verdict, ensure};

pub struct TwoCopies;

impl Invariant for TwoCopies {
    fn name(&self) -> &'static str {
        "two-copies"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Assign {
            partition,
            holder,
            standby,
            next,
        } = command
        else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let has = |worker: &WorkerId| ledger.has_all(*partition, *worker);
        let before: Vec<_> = ledger.parts_of(*partition).filter(has).collect();
        let now = [Some(*holder), *standby, *next].into_iter().flatten();
        let now: Vec<_> = now.filter(has).collect();
        let all = ledger.newest(*partition).is_none() || now.len() >= 2 || before.len() < 2;
        ensure(all || ledger.open().count() < 2, || {
            format!("{before:?} have partition {partition}, and {now:?} when it is assigned")
        })
    }

    fn after(&self, scene: &Scene, event: &ClusterEvent) -> Verdict {
        let ClusterEvent::Committed { batch } = event else {
            return Ok(());
        };
        let ledger = scene.ledger;
        for (&partition, versions) in &ledger.versions {
            if !versions.contains(batch) {
                continue;
            }
            let before = versions.range(..batch).next_back().copied();
            let had = |worker: &WorkerId| {
                let part = ledger.parts.get(&(partition, *worker));
                let whole = part.filter(|part| !part.copying && !part.broken);
                whole.is_some_and(|part| part.version.is_some() && part.version >= before)
            };
            let before: Vec<_> = ledger.parts_of(partition).filter(had).collect();
            let has = |worker: &WorkerId| ledger.has_all(partition, *worker);
            let now: Vec<_> = ledger.parts_of(partition).filter(has).collect();
            ensure(
                now.len() >= 2 || before.len() < 2 || ledger.open().count() < 2,
                || {
                    format!(
                        "{before:?} had partition {partition}, and {now:?} when {batch} is committed"
                    )
                },
            )?;
        }
        Ok(())
    }
}
