//! Tests of the cluster machine. [`rules`] tests its rules one by one, as written-out schedules; [`arbitrary`] feeds
//! it any events; the rest is a simulation: seeded worlds in which everything goes wrong that may, judged after every
//! step.
//!
//! A seed makes a [`plan`]; the [`world`] executes it. The [`ledger`] records events and commands; the [`judge`]
//! checks it, and the true state, against the [`invariants`]. After the trouble the world is fair, and everything
//! must settle.
//!
//! The simulation is tested too: each [`sabotage`] must be found by the invariant it breaks, and each invariant must
//! be broken by at least one. Where a fault shows long before it does harm, the harm is waited for as well.
//!
//! | sabotage | found by |
//! |---|---|
//! | a fence is not awaited; a survivor is dropped, or invented; a receiver is gone twice | survivors |
//! | unknown survivors are not reported, or reported for nothing | losses-told |
//! | a journal is not read, or not awaited | survivors; in the end acked-once |
//! | a journal is read twice, or for nothing | losses-told |
//! | what is in a journal is ignored | block-lost; in the end acked-once |
//! | blocks that the fence finds are ignored; a block is lost for nothing, or twice | block-lost |
//! | a `Revoke` is not awaited | one-owner |
//! | a claim is granted twice; an older one is granted, or never refused | newest-claim |
//! | a claim is never granted | liveness |
//! | offsets are ignored, or too high | known-last; in the end producer-once, acked-once |
//! | a block counts without those before it | known-last; in the end survivors, acked-once |
//! | a copy is not made | copies-restored |
//! | a copy goes backwards; too many run at once | copies-bounded |
//! | a receiver is not opened; one is opened twice | inputs-covered |
//! | a source starts over | known-last; in the end producer-once |
//! | blocks are not dropped, or too early; `Forgotten` is ignored | nothing-leaks |
//! | a `Peer` is wrong; is repeated; is missing | ring |
//! | primary and standby are the same; `Assign` is repeated, or missing | two-parts |
//! | a standby leaves before the next one is complete, or a batch does not wait for it | two-copies |
//! | a standby takes over before it is complete | complete-standby |
//! | a state is lost for nothing; a lost or void state is not reported | state-lost |
//! | a void state is copied nevertheless | complete-standby |
//! | a state copy never ends | nothing-waits; in the end spread |
//! | changes are forgotten while a state copy is in progress, or never | nothing-waits |
//! | a worker may leave too early; is never told that it may | drained |
//! | slow workers are treated like others | ring; in the end spread |
//! | a lost worker is fenced at itself; a loss is ignored | lost-left-alone |
//!
//! A failure prints one line with the seed. `SIM_SEED=42 cargo test -p dstreams-control --test cluster seeds` runs that
//! one and prints every step; `SIM_SEEDS=1000000` runs that many.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod arbitrary;
mod invariants;
mod judge;
mod ledger;
mod machine;
mod plan;
#[path = "../shared/rng.rs"]
mod rng;
mod rules;
mod sabotage;
#[path = "../shared/seeds.rs"]
mod seeds;
#[path = "../shared/tally.rs"]
mod tally;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dstreams_control::cluster::Cluster;

use crate::judge::Violation;
use crate::machine::Machine;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::sabotage::{CONSEQUENCES, FAULTS, Fault, Sabotaged};
use crate::seeds::run_seeds;
use crate::tally::Tally;

/// Everything that must have happened at least once in ten thousand seeds.
const MUST_HAPPEN: &[&str] = &[
    "Joined after Lost",
    "bad batch",
    "Stored of a forgotten block",
    "Stored of a lost worker",
    "block after a gap given up",
    "block lost",
    "block survived that was not acknowledged",
    "block that only the fence found",
    "block adopted",
    "journal read",
    "journal read of a worker that still runs",
    "blocks stored when calm",
    "change released early",
    "claim refused",
    "claim while the owner is fenced",
    "client disconnected",
    "client moved to another worker",
    "copy failed",
    "loss during a copy of state",
    "loss during a fence",
    "loss of the last worker",
    "loss of the source of a copy",
    "loss of the target of a copy",
    "loss of a waiting claimant",
    "message delivered twice",
    "producer revoked",
    "run failed",
    "run without a block",
    "source resumed elsewhere",
    "standby took over",
    "state copy failed",
    "state lost",
    "survivors unknown",
    "slow primary with a complete standby",
    "slow worker when calm",
    "worker died",
    "worker drained",
    "given-up worker still ran",
    "workers lost but no block",
];

fn plan(seed: u64) -> Plan {
    Plan::new(&mut Rng::new(seed))
}

/// Runs one seed; a panic of the machine is a violation too.
fn run(
    seed: u64,
    machine: &mut dyn Machine,
    how: (bool, Option<&'static str>),
) -> Result<(Tally, u64), Violation> {
    catch_unwind(AssertUnwindSafe(|| {
        world::run(seed, machine, plan(seed), how)
    }))
    .unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let detail = text
            .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
            .unwrap_or_default();
        Err(Violation {
            step: 0,
            invariant: "no-panic",
            detail,
        })
    })
}

#[test]
fn seeds() {
    run_seeds("cluster", MUST_HAPPEN, |seed, shown| {
        let mut machine = Cluster::new(plan(seed).cluster);
        run(seed, &mut machine, (shown, None)).map_err(|violation| {
            let Violation {
                step,
                invariant,
                detail,
            } = violation;
            format!("step {step}, invariant {invariant}: {detail}")
        })
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let [a, b] = [(), ()].map(|()| {
            let mut machine = Cluster::new(plan(seed).cluster);
            run(seed, &mut machine, (false, None)).unwrap()
        });
        assert_eq!((a.0.lines(), a.1), (b.0.lines(), b.1), "seed {seed}");
    }
}

/// Runs worlds with a fault until `expected` is broken; returns the broken invariants.
fn broken_by(fault: Fault, expected: &str, only: Option<&'static str>) -> BTreeSet<&'static str> {
    let (mut fired, mut found) = (0, BTreeSet::new());
    for seed in 0..5_000 {
        let mut machine = Sabotaged::new(plan(seed).cluster, fault);
        if let Err(violation) = run(seed, &mut machine, (false, only)) {
            found.insert(violation.invariant);
        }
        fired += machine.fired;
        if found.contains(expected) {
            break;
        }
    }
    assert!(fired > 0, "{fault:?} was never injected");
    println!("{fault:?}: injected {fired} times, found by {found:?}");
    found
}

#[test]
fn sabotage_is_found() {
    for &(fault, expected) in FAULTS {
        let found = broken_by(fault, expected, None);
        assert!(
            found.contains(expected),
            "{fault:?} should break {expected}, but broke {found:?}"
        );
    }
}

#[test]
fn sabotage_has_consequences() {
    for &(fault, expected) in CONSEQUENCES {
        let found = broken_by(fault, expected, Some(expected));
        assert!(
            found.contains(expected),
            "{fault:?} should break {expected}, but broke {found:?}"
        );
    }
}

#[test]
fn every_invariant_is_broken_by_a_sabotage() {
    let faults = FAULTS.iter().chain(CONSEQUENCES);
    let broken: BTreeSet<&str> = faults.map(|&(_, invariant)| invariant).collect();
    let never: Vec<_> = invariants::all()
        .iter()
        .filter(|it| !broken.contains(it.name()))
        .map(|it| it.name())
        .collect();
    assert!(
        never.is_empty() && broken.contains("liveness"),
        "never broken: {never:?}"
    );
}
