//! The program `dstreams` of the comparison: the works on D-Streams, one line of JSON on standard output.

use std::error::Error;

/// Runs one work with the flags that every program understands.
pub fn run(flags: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let args = bench_input::Args::parse(flags)?;
    Err(format!(
        "the work {:?} is not written for dstreams yet",
        args.work.name()
    )
    .into())
}
