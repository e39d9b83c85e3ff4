//! The benchmark's works by hand: threads, hash tables and a barrier, no engine. What the others are measured against.
//!
//! Every thread counts its part of a batch into one table per partition; after a barrier, thread p merges the tables
//! of partition p. `--variant plain` is what a careful programmer writes; `slices` and `lines` are its slower ways of
//! counting words and of grep; `tuned` splits, hashes and looks up by vector instructions (see `tuned.rs`).

mod grep;
mod plain;
mod tuned;
mod works;

use bench_input::{Args, Input, Report, Work};
use std::error::Error;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VERSION: &str = concat!("std threads, ", env!("CARGO_PKG_VERSION"));

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse(std::env::args().skip(1))?;
    if args.variant.is_empty() {
        args.variant = "plain".into();
    }
    let input = Input::generate(&args);
    let report = match (args.variant.as_str(), args.work) {
        (_, Work::Grep) => grep::run(&args, &input)?,
        ("plain", _) => works::run::<plain::Owned>(&args, &input)?,
        ("slices", _) => works::run::<plain::Slices>(&args, &input)?,
        ("tuned", _) => works::run::<tuned::Tuned>(&args, &input)?,
        (other, _) => {
            return Err(format!("unknown variant {other:?}: plain, slices or tuned").into());
        }
    };
    println!("{}", report.json());
    Ok(())
}

fn throughput<'a>(args: &'a Args, time: std::time::Duration) -> Report<'a> {
    Report::throughput("hand", VERSION, args, &args.variant, time)
}
