//! `bench cluster`: the cost of a cluster of one master and workers of one core, in processes of this machine.
//!
//! Each measurement is a list of programs that run in turns, each in a process of its own (`bench part`) that is
//! the master and starts its workers. A program prints one line of JSON; its raw rows are written to a table.

mod acks;
mod bare;
mod faults;
mod flight;
mod master;
mod measurements;
mod options;
mod preloaded_words;
mod processes;
mod program;
mod sender;
mod small;
mod soak;
mod start;
mod summary;
mod throughput;
mod tick;
mod watch;

pub use flight::server as flight_server;
pub use options::Options;
pub use preloaded_words::executor;
pub use processes::worker;
pub use sender::sender;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::own::Outcome;
use crate::{child, machine};

/// `bench part NAME [flags]`: one program of a measurement.
pub fn part(words: &[String]) -> Outcome<()> {
    dstreams_cluster::logs::to_stderr();
    let (name, flags) = words.split_first().ok_or("a part needs a name")?;
    let result = match name.as_str() {
        "small" => small::small(flags)?,
        "bare" => bare::bare(flags)?,
        "tick" => tick::tick(flags)?,
        "throughput" => throughput::throughput(flags)?,
        "acks" => acks::acks(flags)?,
        "bulk" => acks::bulk(flags)?,
        "flight" => flight::flight(flags)?,
        "master" => master::master(flags)?,
        "soak" => soak::soak(flags)?,
        "faults" => faults::faults(flags)?,
        other => return Err(format!("there is no part {other:?}").into()),
    };
    println!("{result}");
    Ok(())
}

/// The runtime of a master, as in user programs.
fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.enable_all().build()?)
}

/// Runs `bench sender` with these flags beside this process.
async fn send(addresses: &[String], flags: &str) -> Outcome<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("sender").arg(addresses.join(","));
    command.args(flags.split_whitespace());
    let sent = tokio::task::spawn_blocking(move || child::measure(&mut command)).await?;
    sent.map_err(|why| format!("the sender: {why}").into())
}

/// Raw rows of numbers.
struct Rows {
    columns: Vec<&'static str>,
    rows: Vec<Vec<f64>>,
}

impl Rows {
    fn new(columns: &[&'static str]) -> Self {
        Rows {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    fn push(&mut self, row: Vec<f64>) {
        let thousandths = |number: f64| (number * 1e3).round() / 1e3;
        self.rows.push(row.into_iter().map(thousandths).collect());
    }

    fn column(&self, name: &str) -> Vec<f64> {
        let at = self.columns.iter().position(|column| *column == name);
        let values = self.rows.iter().filter_map(|row| row.get(at?).copied());
        values.collect()
    }

    /// A column of milliseconds.
    fn times(&self, name: &str) -> Vec<Duration> {
        let times = self.column(name).into_iter();
        times
            .map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1e3))
            .collect()
    }

    fn json(&self) -> Value {
        json!({"columns": self.columns, "rows": self.rows})
    }
}

/// Runs the measurements and writes `raw.jsonl`, a table of raw rows for each, `environment.json` and
/// `summary.md`.
pub fn cluster(options: &Options) -> Outcome<()> {
    let folder = options.folder();
    std::fs::create_dir_all(&folder)?;
    let mut environment = machine::environment();
    environment["started"] = machine::now().into();
    environment["load_before"] = machine::load().into();
    environment["quick"] = options.quick.into();
    let mut raw = File::create(folder.join("raw.jsonl"))?;
    let (mut results, mut left_out) = (Vec::new(), BTreeMap::new());
    for measurement in measurements::all(options.quick) {
        let name = measurement.name;
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let mut table = Table::create(&folder, name);
        let mut programs = measurement.programs;
        for round in 1..=options.rounds.unwrap_or(measurement.rounds) {
            for words in &programs {
                match measure(words) {
                    Ok(mut result) => {
                        result["measurement"] = name.into();
                        result["round"] = round.into();
                        table.add(&mut result)?;
                        eprintln!("{name}, round {round}: {}", summary::brief(&result));
                        writeln!(raw, "{result}")?;
                        results.push(result);
                    }
                    Err(why) => {
                        eprintln!("{name}, round {round}: {words}: {why}");
                        left_out.insert(words.clone(), why);
                    }
                }
            }
            // No program is always first.
            programs.rotate_left(1);
        }
    }
    environment["ended"] = machine::now().into();
    environment["load_after"] = machine::load().into();
    environment["left_out"] = json!(left_out);
    let text = serde_json::to_string_pretty(&environment)? + "\n";
    std::fs::write(folder.join("environment.json"), text)?;
    let text = summary::markdown(&results, &environment);
    std::fs::write(folder.join("summary.md"), &text)?;
    println!("{text}");
    eprintln!("written: {}", folder.display());
    Ok(())
}

/// Runs this executable with these arguments.
fn measure(words: &str) -> Result<Value, String> {
    let own = std::env::current_exe();
    let own = own.map_err(|error| format!("cannot find this executable: {error}"))?;
    child::measure(Command::new(own).args(words.split_whitespace()))
}

/// The raw rows of a measurement, as CSV.
struct Table {
    path: std::path::PathBuf,
    file: Option<File>,
}

impl Table {
    fn create(folder: &Path, name: &str) -> Self {
        Table {
            path: folder.join(format!("{name}.csv")),
            file: None,
        }
    }

    /// Moves the rows of a result to this table.
    fn add(&mut self, result: &mut Value) -> Outcome<()> {
        let rows = result["rows"].take();
        if let Some(fields) = result.as_object_mut() {
            fields.remove("rows");
        }
        let text = |value: &Value| value.to_string().trim_matches('"').to_owned();
        let line = |values: &Value| -> Vec<String> {
            values.as_array().into_iter().flatten().map(text).collect()
        };
        for row in rows["rows"].as_array().into_iter().flatten() {
            let file = match &mut self.file {
                Some(file) => file,
                None => {
                    let mut file = File::create(&self.path)?;
                    let columns = line(&rows["columns"]).join(",");
                    writeln!(file, "round,program,{columns}")?;
                    self.file.insert(file)
                }
            };
            let program = text(&result["program"]).replace(',', "");
            writeln!(
                file,
                "{},{program},{}",
                result["round"],
                line(row).join(",")
            )?;
        }
        Ok(())
    }
}
