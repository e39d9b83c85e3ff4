//! Tests of the machine that decides when a silent worker is given up: a simulation of a master and its links, judged
//! after every call.
//!
//! A seed makes a [`world`]: workers are stopped and go on, links are cut both ways or one way and mended, the master
//! is stopped, for short or for an hour, or gets the processor late, and links carry so much that a probe would wait.
//! The world knows the truth, and each [`invariants`] file compares it with what the machine says.
//!
//! The simulation is tested too: each [`sabotage`] must be found by the invariant it breaks, and each invariant must be
//! broken by at least one.
//!
//! | sabotage | found by |
//! |---|---|
//! | the time of this process's stalls counts; the clock is set forward | no-fault |
//! | answers, or other messages, are ignored; probes are not sent | no-fault |
//! | a probe that waits behind other messages counts as sent | no-fault |
//! | every message counts as an answer; nobody is suspected; the clock stands | in-time |
//! | the clock is twice as fast | not-early |
//! | a process that does not hear counts as silent | cause |
//! | the age is not that of the last message | age |
//! | a probe is sent although one has no answer | one-probe |
//!
//! `SIM_SEED=42 cargo test -p dstreams-control --test liveness seeds` runs one seed; `SIM_SEEDS=1000000` runs that many.

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

use crate::machine::Real;
use crate::rng::Rng;
use crate::sabotage::{FAULTS, Fault, Sabotaged};
use crate::seeds::run_seeds;
use crate::world::World;

/// Everything that must have happened at least once in all seeds.
const MUST_HAPPEN: &[&str] = &[
    "answer after a fault",
    "busy link",
    "busy link of a suspect",
    "given up: silent",
    "given up: unanswered",
    "link cut both ways",
    "link cut towards the master",
    "link cut towards the worker",
    "master starved",
    "master stopped",
    "master stopped for long",
    "message while the master was stopped",
    "worker came back from the dead",
    "worker stopped",
    "worker stopped while the master was",
    "worker went on in time",
];

#[test]
fn seeds() {
    run_seeds("liveness", MUST_HAPPEN, |seed, shown| {
        let mut world = World::new(Rng::new(seed), &Real::boxed);
        world.shows = shown;
        let run = world.run();
        run.map_err(|violation| format!("invariant {}: {violation:?}", violation.invariant))
    });
}

/// The seed in which a fault breaks the invariant.
fn seed_that_breaks(fault: Fault, expected: &'static str) -> Option<u64> {
    let new = move |bound, now| Sabotaged::boxed(fault, bound, now);
    (0..2_000).find(|&seed| {
        let mut world = World::new(Rng::new(seed), &new);
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
