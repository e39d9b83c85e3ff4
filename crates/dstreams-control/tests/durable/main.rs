//! Tests of the restart of a killed program: [`rules`] are the rules one by one, as written-out journals; the rest
//! is a simulation: journal, install, checkpoint, restart, with lost and repeated messages, judged at every event.
//!
//! A seed makes a [`plan`]; the [`world`] runs it: the real controller, the real `Replay` and `JournalRetention`, and a
//! model of all they work with: [`disk`]s that lose unsynced lines, killed processes, lost workers that live on,
//! clients, an engine and sinks. The [`ledger`] records what happened; the [`judge`] checks it against the
//! [`invariants`]. After the trouble the world is fair, and every record must be acknowledged, committed and released.
//!
//! Its ability to catch bugs is tested too: each [`sabotage`] must be found by the invariant it breaks, and each
//! invariant must be broken by at least one of them. Where a bug is seen long before the harm is done, the test
//! waits for the harm as well.
//!
//! | sabotage | found by |
//! |---|---|
//! | a record is acknowledged before it is synced | safe-synced |
//! | a worker acknowledges a block unknown to the master | acked-kept |
//! | a batch takes effect before its cut is synced | effect-synced |
//! | a worker reports an unsynced block | effect-synced; in the end restart-possible |
//! | a worker receives before `Opened` is synced | block-named-once |
//! | a producer resumes elsewhere before `ReceiverLost` is synced; `ReceiverLost` is not read | record-once |
//! | a producer resumes elsewhere before its records taken so far are synced | safe-synced |
//! | a checkpoint does not list its blocks | needs-kept; in the end record-once |
//! | a journal releases everything at a checkpoint | needs-kept; in the end acked-kept |
//! | it releases entries before the checkpoint is durable | acked-kept |
//! | it never releases; covered blocks are ignored | nothing-leaks |
//! | a repeated install counts; one is left out | state-folds |
//! | the state goes into a checkpoint while the next batch changes it | state-folds |
//! | a batch is set aside before the entry is synced; takes effect before `Committing` is | set-aside-stays |
//! | installs of a batch that is set aside are not undone; a restart forgets that it was | state-folds |
//! | a batch is not replayed; is replayed twice | state-folds |
//! | a restart forgets the offsets of producers; a repeated record is taken | record-once |
//! | a checkpoint has the offsets of what was received | safe-synced |
//! | a restart forgets blocks in no batch | acked-once |
//! | a restart forgets batches that were pending, or the last cut | contiguous |
//! | a restart cuts pending batches again | batch-fixed |
//! | entries that a restart read are not synced | safe-synced |
//! | a worker lives on and writes to a journal that was read | record-once |
//! | a repeated commit adds its output again; it differs | output-once |
//! | messages of a lost worker are accepted | acked-kept |
//! | a restart forgets that intervals were skipped | state-folds |
//! | a commit that waits for its cut is forgotten | liveness |
//!
//! A failure prints one line with the seed. `SIM_SEED=42 cargo test -p dstreams-control --test durable seeds` runs that
//! one and prints every step; `SIM_SEEDS=1000000` runs that many.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod disk;
mod invariants;
mod judge;
mod ledger;
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

use crate::judge::Violation;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::sabotage::{FAULTS, Fault};
use crate::seeds::run_seeds;
use crate::tally::Tally;

/// Everything that must have happened somewhere in ten thousand seeds.
const MUST_HAPPEN: &[&str] = &[
    "batch set aside",
    "batch waited for the one before",
    "blocks survived their worker",
    "checkpoint failed",
    "checkpoint lost with the power",
    "checkpoint written",
    "client broke off",
    "commit failed, with effect",
    "commit failed, without effect",
    "commit waited for its cut",
    "entries lost with the power",
    "install came after the next",
    "install came again",
    "install of what was set aside",
    "install undone",
    "intervals skipped",
    "master killed",
    "master killed before it went on",
    "master killed between two outputs",
    "master killed while it replayed",
    "master killed with a ReceiverLost not synced",
    "master killed with a checkpoint under way",
    "master was down for long",
    "master stopped",
    "message delivered twice",
    "message lost",
    "output committed again",
    "power lost",
    "producer revoked",
    "producer waits for a ReceiverLost",
    "record came twice",
    "restart from a checkpoint",
    "restart with a ReceiverLost",
    "restart with a batch that took effect unknown to it",
    "restart with a batch that was set aside",
    "restart with a skip",
    "restart with batches to replay",
    "restart with pending batches",
    "restart with uncut blocks",
    "run failed",
    "worker given up that lives on",
    "worker killed",
    "worker lived until its journal was read",
    "worker not told what is covered",
    "worker waited for Opened",
    "world survived",
];

/// Runs one seed; a panic is a violation too.
fn run(
    seed: u64,
    fault: Option<Fault>,
    how: (bool, Option<&'static str>),
    fired: &mut u64,
) -> Result<(Tally, u64), Violation> {
    let plan = Plan::new(&mut Rng::new(seed));
    catch_unwind(AssertUnwindSafe(|| {
        world::run(seed, plan, fault, how, fired)
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
    run_seeds("durable", MUST_HAPPEN, |seed, shown| {
        run(seed, None, (shown, None), &mut 0).map_err(|violation| {
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
        let [a, b] = [(), ()].map(|()| run(seed, None, (false, None), &mut 0).unwrap());
        assert_eq!((a.0.lines(), a.1), (b.0.lines(), b.1), "seed {seed}");
    }
}

/// Runs worlds with a fault until `expected` is broken; returns what was broken.
fn broken_by(fault: Fault, expected: &str, only: Option<&'static str>) -> BTreeSet<&'static str> {
    let (mut fired, mut found, mut seed) = (0, BTreeSet::new(), 0);
    while seed < 10_000 && !found.contains(expected) {
        if let Err(violation) = run(seed, Some(fault), (false, only), &mut fired) {
            found.insert(violation.invariant);
        }
        seed += 1;
    }
    assert!(fired > 0, "{fault:?} was never injected");
    println!("{fault:?}: injected {fired} times in {seed} seeds, found by {found:?}");
    found
}

#[test]
fn sabotage_is_found() {
    let mut missed = Vec::new();
    for &(fault, first, harm) in FAULTS {
        let found = broken_by(fault, first, None);
        if !found.contains(first) {
            missed.push(format!(
                "{fault:?} should break {first}, but broke {found:?}"
            ));
        }
        if let Some(harm) = harm
            && broken_by(fault, harm, Some(harm)).is_empty()
        {
            missed.push(format!("{fault:?} should break {harm} in the end"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_invariant_is_broken_by_a_sabotage() {
    let broken = FAULTS
        .iter()
        .flat_map(|&(_, first, harm)| [Some(first), harm]);
    let broken: BTreeSet<&str> = broken.flatten().collect();
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
