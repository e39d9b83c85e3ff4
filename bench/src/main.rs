//! `bench`: measures `dstreams` and its peers on the same input, on this machine.
//!
//! `bench compare` runs every program over every work in interleaved rounds and writes medians under `bench/runs/`;
//! `bench run` is the program `dstreams` itself, with the flags that every peer understands (`bench/peers/README.md`).

mod child;
mod compare;
mod machine;
mod programs;
mod run;
mod summary;

use std::error::Error;

const USAGE: &str = "\
bench compare [--quick] [--rounds N] [--only NAME[:VARIANT],...] [--works WORK,...] [--lines N] [--batches N]
              [--small-lines N] [--threads N] [--seed N] [--no-build] [--out DIR]
bench run --work WORK [--lines N] [--batches N] [--threads N] [--seed N] [--variant V]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("compare") => compare::compare(&compare::Options::parse(words)?),
        Some("run") => run::run(words),
        _ => Err(format!("usage:\n{USAGE}").into()),
    }
}
