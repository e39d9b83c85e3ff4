//! Simulation of the controller: seeded worlds in which everything that may go wrong does, judged after every step.
//!
//! A seed makes a [`plan`]; the [`world`] runs it: time, a queue of events, and a model [`node`] with receivers, an
//! engine and sinks, all of them late, failing, repeating themselves, with a clock that stops and steps back. The
//! [`ledger`] records events and commands; the [`judge`] checks them against the [`invariants`]. After the trouble
//! the world is fair, and then everything due must be committed and a stop must lead to `Stopped` ("liveness").
//!
//! A failure prints one line with the seed. `SIM_SEED=42 cargo test -p dstreams-control --test sim seeds` runs that
//! one and prints every step; `SIM_SEEDS=1000000` runs that many.
//!
//! Its ability to catch bugs is tested too: each [`sabotage`] must be found by the invariant it breaks, and each
//! invariant must be broken by at least one of them.
//!
//! | sabotage | found by |
//! |---|---|
//! | a cut drops a block | nothing-left-out |
//! | a cut repeats a block of the one before; a cut is not sorted | block-once |
//! | a cut does not wait for the reports | cut-waits |
//! | a cut waits for a receiver that left; a joined one is not asked | cut-waits |
//! | the blocks of a leaving receiver are not cut | nothing-left-out |
//! | of those, a lost one is cut; one that was cut is cut again | block-once |
//! | a seal is given twice; though few were missed, or each counts, one is for all of them | boundaries |
//! | a boundary is left out | skips |
//! | an interval is skipped in which something is due | skips |
//! | one in which nothing is due is not skipped; nobody is asked; too early | skips |
//! | one batch too many is run | runs |
//! | a commit is given twice; before `Finished`; before that of the batch before | commit-once |
//! | input is forgotten before `Committed`; twice | forget |
//! | listeners get a wrong count | completed |
//! | a run after `Fail`; a batch is given up before its turn | failed |
//! | a batch is set aside beyond the bound; is not run after it | set-aside |
//! | a batch that may be set aside is given up | failed |
//! | a command after `Stopped`; receivers are not closed | stopped |
//! | no abort; a seal after an abrupt stop; a stop is ignored; sources are waited for too long | stopping |
//! | a `WakeAt` is missing; is too late | wakes |
//! | a retry is never run | liveness |
//!
//! [`rules`] are the rules one by one, as written-out schedules; [`arbitrary`] sends any events.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod arbitrary;
mod invariants;
mod judge;
mod ledger;
mod machine;
mod node;
mod plan;
mod program;
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

use dstreams_control::Controller;

use crate::judge::Violation;
use crate::machine::Machine;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::sabotage::{FAULTS, Sabotaged};
use crate::seeds::run_seeds;
use crate::tally::Tally;

/// Everything that must have happened somewhere in ten thousand seeds.
const MUST_HAPPEN: &[&str] = &[
    "Abort given",
    "Abort of several",
    "CommitFailed for good",
    "CommitFailed retryable",
    "Fail given",
    "Failed for good",
    "Failed for good, not of the batch",
    "Failed retryable",
    "Due that is not known",
    "Due for a time-out",
    "Due given",
    "Due never",
    "SetAside given",
    "clock stepped back",
    "cut of no blocks",
    "cut without a Seal of its own",
    "cut without all reports",
    "deadline passed",
    "duplicate delivered",
    "every received block cut after a graceful stop",
    "intervals skipped",
    "finished before the one before it",
    "lost before the one before it",
    "node stood still",
    "node stood still for long",
    "noise delivered",
    "receiver joined",
    "receiver left",
    "receiver left and blocks were lost",
    "receiver left with a Seal outstanding",
    "receiver left with unreported blocks",
    "report after its cut",
    "report of one that has left",
    "run of what was set aside",
    "several stops",
    "sources were not waited for any longer",
    "stop abrupt",
    "stop abrupt during a commit",
    "stop graceful",
    "stop graceful with a Seal outstanding",
    "world survived and caught up",
    "world without receivers",
];

fn plan(seed: u64) -> Plan {
    Plan::new(&mut Rng::new(seed))
}

/// Runs one seed; a panic of the controller is a violation too.
fn run(seed: u64, machine: &mut dyn Machine, trace: bool) -> Result<(Tally, u64), Violation> {
    catch_unwind(AssertUnwindSafe(|| {
        world::run(seed, machine, plan(seed), trace)
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
    run_seeds("sim", MUST_HAPPEN, |seed, shown| {
        run(seed, &mut Controller::new(plan(seed).config), shown).map_err(|violation| {
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
        let [a, b] =
            [(), ()].map(|()| run(seed, &mut Controller::new(plan(seed).config), false).unwrap());
        assert_eq!((a.0.lines(), a.1), (b.0.lines(), b.1), "seed {seed}");
    }
}

#[test]
fn sabotage_is_found() {
    for &(fault, expected) in FAULTS {
        let (mut fired, mut found) = (0, BTreeSet::new());
        for seed in 0..800 {
            let mut machine = Sabotaged::new(plan(seed).config, fault);
            if let Err(violation) = run(seed, &mut machine, false) {
                found.insert(violation.invariant);
            }
            fired += machine.fired;
        }
        println!("{fault:?}: injected {fired} times, found by {found:?}");
        assert!(fired > 0, "{fault:?} was never injected");
        assert!(
            found.contains(expected),
            "{fault:?} should break {expected}, but broke {found:?}"
        );
    }
}

#[test]
fn every_invariant_is_broken_by_a_sabotage() {
    let broken: BTreeSet<&str> = FAULTS.iter().map(|&(_, invariant)| invariant).collect();
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
