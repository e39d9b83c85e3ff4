//! Runs a simulation for many seeds.

use std::time::Instant;

use crate::tally::Tally;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap())
}

/// Runs the seed `SIM_SEED`, shown step by step, or as many as `SIM_SEEDS` says. `run` gets the seed and whether it is
/// shown, and returns what happened and the number of steps, or which invariant was broken. Together the runs must have
/// all of `must_happen`.
pub fn run_seeds(
    test: &str,
    must_happen: &[&'static str],
    mut run: impl FnMut(u64, bool) -> Result<(Tally, u64), String>,
) {
    let only = number("SIM_SEED");
    let seeds = only.map_or(0..number("SIM_SEEDS").unwrap_or(10_000), |seed| {
        seed..seed + 1
    });
    let (mut tally, mut steps, begun) = (Tally::default(), 0, Instant::now());
    for seed in seeds.clone() {
        match run(seed, only.is_some()) {
            Ok((happened, taken)) => {
                tally.merge(happened);
                steps += taken;
            }
            Err(violation) => panic!(
                "seed {seed}, {violation}; reproduce with SIM_SEED={seed} cargo test -p dstreams-control --test {test} \
                 seeds"
            ),
        }
    }
    println!(
        "{} seeds, {steps} steps in {:.1?}, of which\n{}",
        seeds.end - seeds.start,
        begun.elapsed(),
        tally.lines()
    );
    let missing = tally.missing(must_happen);
    assert!(
        only.is_some() || missing.is_empty(),
        "never happened: {missing:?}"
    );
}
