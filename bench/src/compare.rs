//! `bench compare`: runs every program over every work, in interleaved rounds, and writes the results to files.

use crate::programs::{self, Program};
use crate::{child, machine, summary};
use bench_input::Work;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// What to compare, and how.
#[derive(Debug)]
pub struct Options {
    quick: bool,
    rounds: usize,
    only: Vec<String>,
    works: Vec<Work>,
    lines: usize,
    small_lines: usize,
    batches: usize,
    threads: usize,
    seed: u64,
    build: bool,
    out: Option<PathBuf>,
}

impl Options {
    /// Reads the flags.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let words: Vec<String> = words.collect();
        let quick = words.iter().any(|word| word == "--quick");
        let mut options = Self {
            quick,
            rounds: if quick { 1 } else { 3 },
            only: Vec::new(),
            works: Work::ALL.to_vec(),
            lines: if quick { 400_000 } else { 5_000_000 },
            small_lines: if quick { 220_000 } else { 2_200_000 },
            batches: 20,
            threads: machine::cores(),
            seed: 1,
            build: true,
            out: None,
        };
        let mut words = words.into_iter();
        while let Some(flag) = words.next() {
            match flag.as_str() {
                "--quick" => continue,
                "--no-build" => {
                    options.build = false;
                    continue;
                }
                _ => {}
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{flag} needs a value; usage:\n{}", crate::USAGE))?;
            let list = || {
                value
                    .split(',')
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned)
            };
            match flag.as_str() {
                "--rounds" => options.rounds = value.parse()?,
                "--only" => options.only = list().collect(),
                "--works" => {
                    options.works = list()
                        .map(|work| Work::parse(&work))
                        .collect::<Result<_, _>>()?
                }
                "--lines" => options.lines = value.parse()?,
                "--small-lines" => options.small_lines = value.parse()?,
                "--batches" => options.batches = value.parse()?,
                "--threads" => options.threads = value.parse()?,
                "--seed" => options.seed = value.parse()?,
                "--out" => options.out = Some(value.into()),
                _ => return Err(format!("unknown flag {flag}; usage:\n{}", crate::USAGE).into()),
            }
        }
        Ok(options)
    }

    /// The flags of one measurement.
    fn flags(&self, program: &Program, work: Work) -> Vec<String> {
        let lines = if work == Work::Small {
            self.small_lines
        } else {
            self.lines
        };
        let mut flags = vec!["--work".to_owned(), work.name().to_owned()];
        let numbers = [
            ("--lines", lines as u64),
            ("--batches", self.batches as u64),
            ("--threads", self.threads as u64),
        ];
        for (flag, value) in numbers.into_iter().chain([("--seed", self.seed)]) {
            flags.extend([flag.to_owned(), value.to_string()]);
        }
        if !program.variant.is_empty() {
            flags.extend(["--variant".to_owned(), program.variant.to_owned()]);
        }
        flags
    }

    /// The folder of the results: a new one under `bench/runs/`, for `--quick` one outside the repository's history.
    fn folder(&self) -> PathBuf {
        if let Some(out) = &self.out {
            return out.clone();
        }
        if self.quick {
            return programs::folder().join("../target/bench-quick");
        }
        let first = programs::folder().join("runs").join(machine::slug());
        let other = |n: u32| first.with_file_name(format!("{}-{n}", machine::slug()));
        std::iter::once(first.clone())
            .chain((2..).map(other))
            .find(|path| !path.exists())
            .unwrap_or(first)
    }
}

/// Runs the comparison and writes `raw.jsonl`, `environment.json` and `summary.md`.
pub fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut left_out = BTreeMap::new();
    let mut programs = built(options, &mut left_out)?;
    let folder = options.folder();
    std::fs::create_dir_all(&folder)?;
    let mut raw = File::create(folder.join("raw.jsonl"))?;
    let mut environment = machine::environment();
    environment["started"] = machine::now().into();
    environment["load_before"] = machine::load().into();
    let mut results: Vec<Value> = Vec::new();
    for round in 1..=options.rounds {
        for work in &options.works {
            for program in &programs {
                let what = format!("{} {}", program.label(), work.name());
                if left_out.contains_key(&what) {
                    continue;
                }
                let measured = program.command().and_then(|mut command| {
                    child::measure(command.args(options.flags(program, *work)))
                });
                match measured {
                    Ok(mut result) => {
                        result["label"] = program.label().into();
                        result["round"] = round.into();
                        eprintln!("round {round}: {what}: {}", summary::brief(&result));
                        writeln!(raw, "{result}")?;
                        results.push(result);
                    }
                    Err(why) => {
                        eprintln!("round {round}: {what}: {why}");
                        left_out.insert(what, why);
                    }
                }
            }
        }
        // No program is always first.
        if !programs.is_empty() {
            programs.rotate_left(1);
        }
    }
    environment["ended"] = machine::now().into();
    environment["load_after"] = machine::load().into();
    environment["versions"] = results
        .iter()
        .map(|r| (text(r, "program"), r["version"].clone()))
        .collect();
    environment["asked"] = json!({
        "lines": options.lines, "small_lines": options.small_lines, "batches": options.batches,
        "threads": options.threads, "seed": options.seed, "rounds": options.rounds,
    });
    environment["left_out"] = json!(left_out);
    std::fs::write(
        folder.join("environment.json"),
        serde_json::to_string_pretty(&environment)? + "\n",
    )?;
    let text = summary::markdown(&programs, &options.works, &results, &environment);
    std::fs::write(folder.join("summary.md"), &text)?;
    println!("{text}");
    eprintln!("written: {}", folder.display());
    Ok(())
}

fn text(result: &Value, field: &str) -> String {
    result[field].as_str().unwrap_or_default().to_owned()
}

/// The programs that can run; the others are reported at once and noted.
fn built(
    options: &Options,
    left_out: &mut BTreeMap<String, String>,
) -> Result<Vec<Program>, Box<dyn Error>> {
    let mut tried: BTreeMap<&str, Result<(), String>> = BTreeMap::new();
    let mut programs = programs::select(&options.only)?;
    programs.retain(|program| {
        let build = || {
            if options.build {
                program.build()
            } else {
                Ok(())
            }
        };
        let built = tried
            .entry(program.name)
            .or_insert_with(build)
            .clone()
            .and_then(|()| program.command());
        if let Err(why) = &built {
            eprintln!("left out: {}: {why}", program.label());
            left_out.insert(program.label(), why.clone());
        }
        built.is_ok()
    });
    Ok(programs)
}
