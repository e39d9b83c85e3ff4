//! `bench nexmark`: the queries of Nexmark and an interval join, beside the systems that compute them by event time.
//!
//! One generator writes the events to a folder; each program reads them into memory, in a process of its own. An answer
//! counts if all programs have the same: the number of its rows, and their checksum.

mod own;
mod queries;
mod records;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::own::{Outcome, flag};
use crate::programs::{self, Program};
use crate::{child, machine};

const INTERVAL: Duration = Duration::from_secs(2);
const INTERVAL_MS: u64 = 2_000;
/// Query 6 is not in the benchmark's SQL; 10 and those after 12 measure connectors and functions.
const WORKS: [&str; 12] = [
    "q0", "q1", "q2", "q3", "q4", "q5", "q7", "q8", "q9", "q11", "q12", "within",
];
/// The programs, and whether each has the queries too or the join alone.
const PROGRAMS: [(&str, bool); 3] = [("dstreams", true), ("flink", true), ("renoir", false)];

/// How much is computed, with what.
#[derive(Debug)]
pub struct Size {
    pub events: u64,
    pub per_second: u64,
    pub threads: usize,
    pub seed: u64,
}

impl Size {
    fn of(flags: &[String]) -> Outcome<Self> {
        let quick = flags.iter().any(|flag| flag == "--quick");
        Ok(Size {
            events: flag(flags, "--events", if quick { 200_000 } else { 5_000_000 })?,
            per_second: flag(flags, "--rate", if quick { 5_000 } else { 50_000 })?,
            threads: flag(flags, "--threads", machine::cores())?,
            seed: flag(flags, "--seed", 1)?,
        })
    }

    /// Intervals in which events come.
    pub fn intervals(&self) -> u64 {
        (self.events * 1_000)
            .div_ceil(self.per_second * INTERVAL_MS)
            .max(1)
    }

    fn flags(&self) -> Vec<String> {
        let flags = [
            ("--events", self.events),
            ("--rate", self.per_second),
            ("--threads", self.threads as u64),
            ("--seed", self.seed),
        ];
        let flags = flags.map(|(name, value)| [name.to_owned(), value.to_string()]);
        flags.concat()
    }
}

/// `bench nexmark [--quick] [--events N] [--rate EVENTS_PER_S] [--threads N] [--seed N] [--rounds N] [--works W,...]
/// [--only PROGRAM,...] [--no-build] [--out DIR]`
pub fn nexmark(flags: &[String]) -> Outcome<()> {
    if flags.first().is_some_and(|word| word == "one") {
        return own::run(flags);
    }
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    let size = Size::of(flags)?;
    let rounds: usize = flag(flags, "--rounds", if has("--quick") { 1 } else { 3 })?;
    let works = list(flags, "--works", &WORKS)?;
    let programs = list(flags, "--only", &PROGRAMS.map(|(name, _)| name))?;
    let out = flag(flags, "--out", default_folder(has("--quick")))?;
    let mut left_out = BTreeMap::new();
    let selected = programs::select_by_name(&programs);
    for program in &selected {
        if !has("--no-build")
            && let Err(why) = program.build()
        {
            eprintln!("{} is left out: {why}", program.name);
            left_out.insert(program.name, why);
        }
    }
    let input = InputFolder::new(&size)?;
    std::fs::create_dir_all(&out)?;
    let mut raw = File::create(out.join("raw.jsonl"))?;
    let mut environment = machine::environment();
    environment["started"] = machine::now().into();
    let mut results = Vec::new();
    for round in 1..=rounds {
        for work in &works {
            let mut of_work = Vec::new();
            for program in &selected {
                let computes = |(name, queries): &(&str, bool)| {
                    *name == program.name && (*queries || work == "within")
                };
                if left_out.contains_key(program.name) || !PROGRAMS.iter().any(computes) {
                    continue;
                }
                let mut command = command(program)?;
                command.args(["--work", work.as_str(), "--input"]);
                command.arg(&input.0).args(size.flags());
                let mut result = child::output(&mut command)
                    .map_err(|why| format!("{} {work}: {why}", program.name))?;
                result["round"] = round.into();
                eprintln!(
                    "{work} {}: {} events/s, {} rows",
                    program.name, result["events_per_s"], result["rows"]
                );
                of_work.push(result);
            }
            check(work, &mut of_work)?;
            for result in of_work {
                println!("{result}");
                writeln!(raw, "{result}")?;
                results.push(result);
            }
        }
    }
    environment["asked"] = json!({
        "events": size.events, "per_second": size.per_second, "threads": size.threads, "seed": size.seed,
        "rounds": rounds,
    });
    environment["left_out"] = json!(left_out);
    let text = serde_json::to_string_pretty(&environment)?;
    std::fs::write(out.join("environment.json"), text + "\n")?;
    let summary = summary(&works, &selected, &results, &environment);
    std::fs::write(out.join("summary.md"), &summary)?;
    eprint!("{summary}");
    Ok(())
}

/// The words of a flag, which must be among those known.
fn list(flags: &[String], name: &str, known: &[&str]) -> Outcome<Vec<String>> {
    let words: String = flag(flags, name, known.join(","))?;
    let words: Vec<String> = words.split(',').map(str::to_owned).collect();
    match words.iter().find(|word| !known.contains(&word.as_str())) {
        Some(word) => Err(format!("{name}: no {word:?}; there are {known:?}").into()),
        None => Ok(words),
    }
}

fn default_folder(quick: bool) -> PathBuf {
    match quick {
        true => programs::folder().join("../target/bench-nexmark-quick"),
        false => programs::folder().join(format!("runs/{}-nexmark", machine::slug())),
    }
}

fn command(program: &Program) -> Outcome<Command> {
    if program.name != "dstreams" {
        return Ok(program.command()?);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["nexmark", "one"]);
    Ok(command)
}

/// The folder with the input; it is removed at the end.
struct InputFolder(PathBuf);

impl InputFolder {
    fn new(size: &Size) -> Outcome<Self> {
        let name = format!("bench-nexmark-{}", std::process::id());
        let folder = InputFolder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0)?;
        records::write(&folder.0, size)?;
        Ok(folder)
    }
}

impl Drop for InputFolder {
    fn drop(&mut self) {
        // What is left is in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All answers must be the same; one alone is not checked.
fn check(work: &str, results: &mut [Value]) -> Outcome<()> {
    let answer = |result: &Value| (result["rows"].clone(), result["checksum"].clone());
    let answers: Vec<_> = results.iter().map(answer).collect();
    if let Some(other) = answers.iter().find(|answer| **answer != answers[0]) {
        let named = |result: &Value| {
            let (rows, checksum) = answer(result);
            format!("{}: {rows} rows, {checksum}", result["program"])
        };
        let all: Vec<String> = results.iter().map(named).collect();
        return Err(format!("{work}: {other:?} is another answer: {}", all.join("; ")).into());
    }
    let checked = results.len() > 1;
    for result in results {
        result["checked"] = checked.into();
    }
    Ok(())
}

/// The median rate of a program, in millions of events a second.
fn rate(results: &[Value], work: &str, program: &str) -> Option<f64> {
    let of = |result: &&Value| result["work"] == work && result["program"] == program;
    let rates = results.iter().filter(of);
    let mut rates: Vec<f64> = rates.filter_map(|it| it["events_per_s"].as_f64()).collect();
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).map(|rate| rate / 1e6)
}

fn summary(
    works: &[String],
    programs: &[Program],
    results: &[Value],
    environment: &Value,
) -> String {
    let field = |name: &str| environment[name].as_str().unwrap_or("unknown").to_owned();
    let asked = &environment["asked"];
    let mut text = format!(
        "# {}: Nexmark\n\n{}, {} cores, {}, {}, {}. Commit {}. Medians of {} rounds; {} events, {} in a second of event \
         time, {} threads, seed {}. Answers are compared in every run.\n\nMillions of events per second:\n\n| |",
        field("started"),
        field("cpu"),
        environment["cores"],
        field("memory"),
        field("rustc"),
        field("java"),
        field("commit"),
        asked["rounds"],
        asked["events"],
        asked["per_second"],
        asked["threads"],
        asked["seed"],
    );
    // Writing to a string does not fail.
    for program in programs {
        let _ = write!(text, " {} |", program.name);
    }
    let _ = writeln!(
        text,
        " dstreams / flink |\n|---|{}",
        "---:|".repeat(programs.len() + 1)
    );
    for work in works {
        let _ = write!(text, "| {work} |");
        for program in programs {
            let rate = rate(results, work, program.name);
            let _ = write!(
                text,
                " {} |",
                rate.map_or("-".into(), |it| format!("{it:.3}"))
            );
        }
        let both = rate(results, work, "dstreams").zip(rate(results, work, "flink"));
        let ratio = both.map_or("-".into(), |(own, flink)| format!("{:.1}", own / flink));
        let _ = writeln!(text, " {ratio} |");
    }
    text
}
