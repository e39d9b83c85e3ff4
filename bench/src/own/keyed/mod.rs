//! Keyed state: the cost of a batch over few keys and over many, bytes per key, and how soon a program with many
//! keys resumes after its end.

mod core;
mod engine;
mod restart;

use super::{Outcome, flag};
use serde_json::Value;

/// The options of the command.
struct Options {
    few: u64,
    many: u64,
    /// Keys that each batch changes.
    changed: u64,
    /// Measured batches.
    batches: u64,
    rounds: usize,
    dir: String,
}

/// `bench keyed [--few N] [--many N] [--changed N] [--batches N] [--rounds N] [--only PART,...] [--dir DIR]`:
/// the same number of changed keys a batch over few keys and over many.
///
/// `core`: the keyed-state core alone; counts what it reads, writes and allocates. `engine`: a program that counts
/// by key, and the delays of its batches. `restart`: a program in a directory is ended, and another process
/// resumes.
pub fn keyed(flags: &[String]) -> Outcome<()> {
    if flags.first().is_some_and(|flag| flag == "restarted") {
        return restart::restarted(&flags[1..]);
    }
    let options = Options {
        few: flag(flags, "--few", 100_000)?,
        many: flag(flags, "--many", 10_000_000)?,
        changed: flag(flags, "--changed", 10_000)?,
        batches: flag(flags, "--batches", 1_000)?,
        rounds: flag(flags, "--rounds", 3)?,
        dir: flag(flags, "--dir", String::new())?,
    };
    if options.changed == 0 || options.changed > options.few || options.few > options.many {
        return Err("a batch changes one key or more, and not more than there are".into());
    }
    let only: String = flag(flags, "--only", "core,engine,restart".into())?;
    crate::alloc::count();
    for part in only.split(',') {
        match part {
            "core" => both(&options, 1, core::measure)?,
            "engine" => both(&options, options.rounds, engine::measure)?,
            "restart" => println!("{}", restart::measure(&options)?),
            other => return Err(format!("no part {other:?}: core, engine, restart").into()),
        }
    }
    Ok(())
}

/// Runs over few keys and over many, in turns; also reports the ratio of many to few.
fn both(
    options: &Options,
    rounds: usize,
    measure: impl Fn(&Options, u64) -> Outcome<Value>,
) -> Outcome<()> {
    for round in 0..rounds {
        let mut results = Vec::new();
        for keys in [options.few, options.many] {
            let mut result = measure(options, keys)?;
            result["round"] = round.into();
            println!("{result}");
            results.push(result);
        }
        let number = |result: &Value, at: &str| result.pointer(at).and_then(Value::as_f64);
        let mut ratios = serde_json::json!({
            "work": "keyed", "part": results[0]["part"], "round": round, "many_to_few": {},
        });
        for (name, at) in [
            ("rows_read", "/rows_read"),
            ("bytes_read", "/bytes_read"),
            ("rows_written", "/rows_written"),
            ("bytes_written", "/bytes_written"),
            ("allocated_bytes", "/allocated_bytes"),
            ("p50", "/batch_ms/p50"),
            ("p99", "/batch_ms/p99"),
            ("mean", "/mean_ms"),
        ] {
            let both = number(&results[1], at).zip(number(&results[0], at));
            if let Some((many, few)) = both {
                ratios["many_to_few"][name] = ((many / few * 1e3).round() / 1e3).into();
            }
        }
        println!("{ratios}");
    }
    Ok(())
}

/// Draws keys: the same ones in every run.
struct Draw(u64);

impl Draw {
    fn new() -> Self {
        Draw(88_172_645_463_325_252)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Distinct random places below `bound`.
    fn some(&mut self, count: u64, bound: u64) -> Vec<u64> {
        let mut seen = vec![0u64; (bound as usize).div_ceil(64)];
        let mut drawn = Vec::with_capacity(count as usize);
        while drawn.len() < count as usize {
            let place = self.below(bound);
            let (word, bit) = (&mut seen[place as usize / 64], 1 << (place % 64));
            if *word & bit == 0 {
                *word |= bit;
                drawn.push(place);
            }
        }
        drawn
    }
}

/// The key at a place: unordered, and no two the same.
fn key(place: u64) -> u64 {
    place.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
