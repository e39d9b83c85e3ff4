//! Tests of the machine that decides which slow tasks get a copy, and whose result counts: a simulation of a scheduler
//! and its workers, judged after every step.
//!
//! A seed makes a [`world`]: stages of tasks, of which some may run anywhere, on workers of which some are slow. Tasks
//! fail, reports are late or lost, cancelled tasks run on, workers are lost with what they have computed, and stages
//! run again, also those that were over. The tasks of some partitions always fail, and late, until the stage fails. The
//! world knows the truth, and each [`invariants`] file compares it with what the machine does.
//!
//! The simulation is tested too: each [`sabotage`] must be found by the invariant it breaks, and each invariant must be
//! broken by at least one.
//!
//! | sabotage | found by |
//! |---|---|
//! | the late result of a loser counts | one-result |
//! | an original that is first is dropped | first-counts |
//! | the failure of a copy counts, or that of an original with a copy | sole-failure |
//! | a copy may begin where its original runs | elsewhere |
//! | the bound is ignored | bound |
//! | the multiplier is 1 | slow-everywhere |
//! | the floor is 0; one finished task is enough | not-early |
//! | tasks that are bound to a worker are copied | stateless |
//! | no task gets a copy; only the first slow task gets one | in-time |
//! | the original runs on after its copy has won | cancelled |
//! | no stage is forgotten | forgotten |
//! | lost workers are ignored | ends |
//!
//! `SIM_SEED=42 cargo test -p dstreams-control --test speculation seeds` runs one seed; `SIM_SEEDS=1000000` runs that
//! many.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod invariants;
mod machine;
#[path = "../shared/rng.rs"]
#[allow(dead_code)] // the other simulations use more of it
mod rng;
mod sabotage;
#[path = "../shared/seeds.rs"]
mod seeds;
#[path = "../shared/tally.rs"]
mod tally;
mod world;

use std::collections::BTreeSet;

use dstreams_control::cluster::SpeculationConfig;

use crate::machine::Real;
use crate::rng::Rng;
use crate::sabotage::{FAULTS, Fault, Sabotaged};
use crate::seeds::run_seeds;
use crate::world::World;

/// Everything that must have happened at least once in all seeds.
const MUST_HAPPEN: &[&str] = &[
    "all workers alike",
    "bound reached",
    "cancelled in vain",
    "copy failed",
    "copy won",
    "original failed",
    "original won",
    "original won before its copy began",
    "report lost",
    "report of a hidden task lost",
    "report of a loser",
    "stage failed",
    "stage ran again",
    "stage ran again after an original won",
    "stage that was over ran again",
    "worker of a copy lost",
    "worker of an original lost",
];

#[test]
fn seeds() {
    run_seeds("speculation", MUST_HAPPEN, |seed, shown| {
        let mut world = World::new(Rng::new(seed), &Real::boxed, SpeculationConfig::default());
        world.shows = shown;
        let run = world.run();
        run.map_err(|violation| format!("invariant {}: {violation:?}", violation.invariant))
    });
}

/// The seed in which a fault breaks the invariant.
fn seed_that_breaks(fault: Fault, expected: &'static str) -> Option<u64> {
    let new = move |config| Sabotaged::boxed(fault, config);
    (0..2_000).find(|&seed| {
        let mut world = World::new(Rng::new(seed), &new, SpeculationConfig::default());
        world.only = Some(expected);
        world.run().is_err()
    })
}

#[test]
fn sabotage_is_found() {
    for &(fault, expected) in FAULTS {
        let seed = seed_that_breaks(fault, expected);
        println!("{fault:?}: breaks {expected} in seed {seed:?}");
        assert!(seed.is_some(), "{fault:?} should break {expected}");
    }
}

#[test]
fn every_invariant_is_broken_by_a_sabotage() {
    let broken: BTreeSet<&str> = FAULTS.iter().map(|&(_, invariant)| invariant).collect();
    let all: BTreeSet<&str> = invariants::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(broken, all);
}
