//! The cost of the master's decisions: both machines driven without I/O, for many workers and partitions.
//!
//!     cargo run --release -p dstreams-control --example cost -- --out DIR
//!
//! `--quick` takes a second, some more without optimisation.
//!
//! For each size of cluster it measures whole batches, and within them a block and a commit; a joining and a lost
//! worker, until all is settled; and a batch during state copies to a joined worker. `raw.jsonl` has a line for
//! each, `summary.md` the medians and how they grow.

mod meter;
mod report;
mod sample;
mod world;

#[expect(dead_code, reason = "the benchmarks use all of it")]
#[path = "../../../../bench/src/machine.rs"]
mod machine;

/// Programs that [`machine`] reports on.
mod programs {
    use std::path::Path;

    /// The folder of the sources, for the commit.
    pub fn folder() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }
}

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use sample::{Rounds, Row};
use serde_json::json;

/// Blocks that each worker receives in an interval.
const BLOCKS: u64 = 8;

struct Args {
    out: Option<PathBuf>,
    quick: bool,
    rounds: usize,
}

fn args() -> Result<Args, Box<dyn Error>> {
    let mut args = Args {
        out: None,
        quick: false,
        rounds: 3,
    };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--out" => args.out = Some(value()?.into()),
            "--rounds" => args.rounds = value()?.parse::<usize>()?.max(1),
            "--quick" => args.quick = true,
            _ => return Err(format!("{arg}: not known; --out DIR, --rounds N, --quick").into()),
        }
    }
    Ok(args)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = args()?;
    let (workers, partitions): (&[usize], &[u32]) = match args.quick {
        true => (&[2, 8, 32], &[10, 100, 400]),
        false => (&[2, 4, 8, 25, 50, 100, 200], &[10, 100, 1_000, 2_000]),
    };
    let (rounds, of_each) = match args.quick {
        true => (
            1,
            Rounds {
                batches: 5,
                events: 2,
            },
        ),
        false => (
            args.rounds,
            Rounds {
                batches: 100,
                events: 5,
            },
        ),
    };
    let (started, load_before) = (machine::now(), machine::load());
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=rounds {
        for &workers in workers {
            for &partitions in partitions {
                rows.extend(sample::sample((round, workers, partitions), of_each)?);
            }
        }
    }
    let summary = report::summary(&rows, workers, partitions);
    println!("{summary}");
    let Some(out) = args.out else {
        return Ok(());
    };
    let mut environment = machine::environment();
    environment["started"] = json!(started);
    environment["ended"] = json!(machine::now());
    environment["load_before"] = json!(load_before);
    environment["load_after"] = json!(machine::load());
    environment["quick"] = json!(args.quick);
    environment["rounds"] = json!(rounds);
    fs::create_dir_all(&out)?;
    let lines: Vec<_> = rows.iter().map(|row| format!("{}\n", row.json())).collect();
    fs::write(out.join("raw.jsonl"), lines.concat())?;
    fs::write(out.join("environment.json"), format!("{environment:#}\n"))?;
    let title = format!(
        "# The master's decisions, {started}\n\n{}, {} cores. Load before {load_before}, after {}.\n\n",
        machine::cpu(),
        machine::cores(),
        machine::load()
    );
    fs::write(out.join("summary.md"), title + &summary)?;
    Ok(())
}
