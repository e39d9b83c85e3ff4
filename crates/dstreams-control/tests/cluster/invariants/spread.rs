//! When calm and batches are committed, partitions are spread evenly over the steady workers (those that are not slow), and
//! each has a complete standby if there are two, on a steady one if there are two of these; or none where partitions have
//! none.

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct Spread;

impl Invariant for Spread {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn calm(&self, scene: &Scene, calm: Calm) -> Verdict {
        if calm == Calm::EngineStands {
            return Ok(());
        }
        let ledger = scene.ledger;
        let (open, steady) = (ledger.open().collect::<Vec<_>>(), ledger.steady());
        let count = |worker| {
            ledger
                .assigned
                .values()
                .filter(|(primary, _)| *primary == worker)
                .count()
        };
        let counts: Vec<_> = steady.iter().map(|&worker| count(worker)).collect();
        let (most, least) = (counts.iter().max(), counts.iter().min());
        ensure(
            most.zip(least)
                .is_none_or(|(most, least)| most - least <= 1),
            || format!("{steady:?} hold {counts:?} partitions"),
        )?;
        for partition in 0..ledger.config.partitions {
            let Some((primary, standby)) = ledger.assigned.get(&partition).copied() else {
                return Err(format!("{partition} has no primary"));
            };
            let states = &scene.truth.states[&partition];
            let has = |worker, states: &[_]| scene.workers[&worker].states.has(partition, states);
            ensure(steady.contains(&primary) && has(primary, states), || {
                format!(
                    "{primary}, primary of {partition}, drains, is slow, or lacks some of {states:?}"
                )
            })?;
            // While the engine runs, the newest change may be in transit to the standby.
            let in_transit = usize::from(calm == Calm::EngineRuns).min(states.len());
            let settled = &states[..states.len() - in_transit];
            let candidates = if steady.len() < 2 { &open } else { &steady };
            let standby_has = standby
                .is_some_and(|standby| candidates.contains(&standby) && has(standby, settled));
            let alone = open.len() < 2 || !ledger.config.standbys;
            let right = if alone {
                standby.is_none()
            } else {
                standby_has
            };
            ensure(right, || {
                format!("{standby:?} is standby of {partition}, of {open:?}, with {states:?}")
            })?;
            let next = ledger.next.get(&partition);
            ensure(next.is_none(), || {
                format!("{next:?} is still receiving the state of {partition}")
            })?;
        }
        Ok(())
    }
}
