//! The benchmark's works on renoir 0.6.
//!
//! `--variant stream` is one job for all batches: a batch is an event time, its end a watermark. Words are counted where
//! they are read; at the watermark one record per distinct word goes to the replica of its hash, and the result of a
//! batch is complete when the watermark has come from both. `--variant jobs` is one job per batch with
//! `group_by_fold` (works `wordcount` and `small`). The default is the faster. `--work within` is the interval join of
//! `bench nexmark`.

#[path = "../../counts.rs"]
mod counts;
mod jobs;
mod stream;
mod within;

use bench_input::{Args, Input, Report, Work};
use std::error::Error;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let flags: Vec<String> = std::env::args().skip(1).collect();
    if flags.windows(2).any(|two| two == ["--work", "within"]) {
        return within::run(&flags);
    }
    let mut args = Args::parse(flags)?;
    if args.variant.is_empty() {
        args.variant = "stream".into();
    }
    let input: &'static Input = Box::leak(Box::new(Input::generate(&args)));
    let times = match args.variant.as_str() {
        "stream" => stream::run(&args, input)?,
        "jobs" => jobs::run(&args, input)?,
        other => return Err(format!("unknown variant {other:?}: stream or jobs").into()),
    };
    let version = "renoir 0.6.0";
    let report = match args.work {
        Work::Small => Report::small("renoir", version, &args, &args.variant, &times),
        _ => Report::throughput("renoir", version, &args, &args.variant, times.iter().sum()),
    };
    println!("{}", report.json());
    Ok(())
}
