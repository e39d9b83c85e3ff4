//! In the calm, when batches are committed, partitions are spread evenly over the workers that stay, and each has a
//! complete standby if there are two.

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
        let open: Vec<_> = ledger.open().collect();
        let count = |worker| {
            ledger
                .assigned
                .values()
                .filter(|(holder, _)| *holder == worker)
                .count()
        };
        let counts: Vec<_> = open.iter().map(|&worker| count(worker)).collect();
        let (most, least) = (counts.iter().max(), counts.iter().min());
        ensure(
            most.zip(least)
                .is_none_or(|(most, least)| most - least <= 1),
            || format!("{open:?} hold {counts:?} partitions"),
        )?;
        for partition in 0..ledger.config.partitions {
            let Some((holder, standby)) = ledger.assigned.get(&partition).copied() else {
                return Err(format!("nobody holds {partition}"));
            };
            let states = &scene.truth.states[&partition];
            let has = |worker, states: &[_]| scene.workers[&worker].states.has(partition, states);
            ensure(open.contains(&holder) && has(holder, states), || {
                format!("{partition} is held by {holder}, who drains or has not {states:?}")
            })?;
            // While the engine runs, the newest change may be on its way to the standby.
            let on_its_way = usize::from(calm == Calm::EngineRuns).min(states.len());
            let told = &states[..states.len() - on_its_way];
            let standby_has =
                standby.is_some_and(|standby| open.contains(&standby) && has(standby, told));
            ensure(standby_has || (open.len() < 2 && standby.is_none()), || {
                format!("{standby:?} is standby of {partition}, of {open:?}, with {states:?}")
            })?;
            let next = ledger.next.get(&partition);
            ensure(next.is_none(), || {
                format!("{next:?} is still sent the state of {partition}")
            })?;
        }
        Ok(())
    }
}
