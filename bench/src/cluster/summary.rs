//! The results of a run of `bench cluster`, as Markdown.

use std::fmt::Write;

use serde_json::Value;

/// A column: its title, the JSON pointer to its number, and its digits.
type Column = (&'static str, &'static str, usize);

/// One measurement in a few words.
pub fn brief(result: &Value) -> String {
    let program = result["program"].as_str().unwrap_or_default();
    let columns = columns(result["measurement"].as_str().unwrap_or_default());
    let numbers = columns.iter().filter_map(|(title, pointer, digits)| {
        let number = number(result, pointer)?;
        Some(format!("{title} {number:.digits$}"))
    });
    let numbers: Vec<String> = numbers.collect();
    let work = result["work"].as_str().unwrap_or_default();
    format!("{program} ({work}): {}", numbers.join(", "))
}

fn columns(measurement: &str) -> &'static [Column] {
    match measurement {
        "small" => &[
            ("p50 ms", "/latency_ms/p50", 2),
            ("p90 ms", "/latency_ms/p90", 2),
            ("p99 ms", "/latency_ms/p99", 2),
            ("max ms", "/latency_ms/max", 2),
            ("cut p50", "/parts_ms/cut/p50", 2),
            ("run p50", "/parts_ms/run/p50", 2),
            ("done p50", "/parts_ms/done/p50", 2),
        ],
        "tick" => &[
            ("first half p50 ms", "/total_delay_first_half_ms/p50", 1),
            ("p99 ms", "/total_delay_first_half_ms/p99", 1),
            ("second half p50 ms", "/total_delay_second_half_ms/p50", 1),
            ("p99 ms", "/total_delay_second_half_ms/p99", 1),
            ("max ms", "/total_delay_second_half_ms/max", 1),
            ("cut p50", "/cut_ms/p50", 1),
            ("run p50", "/run_ms/p50", 1),
            ("commit p50", "/commit_ms/p50", 1),
            ("acknowledged", "/acknowledged", 0),
            ("counted", "/counted", 0),
        ],
        "throughput" => &[
            ("seconds", "/seconds", 2),
            ("lines/s", "/lines_per_s", 0),
            ("acknowledged lines/s", "/received_lines_per_s", 0),
            (
                "loopback receiving B/B",
                "/bytes_per_input_byte/loopback_receiving",
                2,
            ),
            (
                "loopback running B/B",
                "/bytes_per_input_byte/loopback_running",
                3,
            ),
            (
                "files running B/B",
                "/bytes_per_input_byte/files_running",
                3,
            ),
            ("running CPU s", "/worker_cpu_s", 2),
            ("master CPU s", "/master_cpu_s", 2),
        ],
        "acks" => &[
            ("p50 ms", "/ack_ms/p50", 2),
            ("p90 ms", "/ack_ms/p90", 2),
            ("p99 ms", "/ack_ms/p99", 2),
            ("max ms", "/ack_ms/max", 1),
            ("pacing late p99 ms", "/late_ms/p99", 2),
        ],
        "bulk" => &[
            ("seconds", "/seconds", 2),
            ("bytes/s", "/bytes_per_s", 0),
            ("sender CPU s/GB", "/sender_cpu_s_per_gb", 2),
            ("takers CPU s/GB", "/taker_cpu_s_per_gb", 2),
        ],
        "master" => &[
            ("master CPU ms", "/master_cpu_ms", 2),
            ("workers CPU ms", "/workers_cpu_ms", 2),
            ("processing p50 ms", "/processing_ms/p50", 2),
            ("p99 ms", "/processing_ms/p99", 2),
            ("batches", "/batches", 0),
        ],
        "soak" => &[
            ("batches", "/batches", 0),
            ("delay p50 ms", "/total_delay_ms/p50", 1),
            ("p99 ms", "/total_delay_ms/p99", 1),
            ("master MB early", "/grown_mb/master_mb/early", 1),
            ("late", "/grown_mb/master_mb/late", 1),
            ("worker 1 MB early", "/grown_mb/worker1_mb/early", 1),
            ("late", "/grown_mb/worker1_mb/late", 1),
            ("worker 2 MB early", "/grown_mb/worker2_mb/early", 1),
            ("late", "/grown_mb/worker2_mb/late", 1),
        ],
        "faults" => &[
            ("normal p50 ms", "/normal_ms/p50", 0),
            ("worst after ms", "/worst_ms", 0),
            ("times normal", "/worst_times", 2),
            ("p50 after, times normal", "/after_p50_times", 2),
            ("p50 settled, times normal", "/settled_p50_times", 2),
            ("late batches", "/late_batches", 0),
            ("partitions rebuilt", "/rebuilt_partitions", 0),
            ("copies", "/task_copies", 0),
            ("copies first", "/task_copies_won", 0),
            ("CPU ms a batch", "/cpu_ms_per_batch", 0),
        ],
        _ => &[],
    }
}

fn number(result: &Value, pointer: &str) -> Option<f64> {
    result.pointer(pointer)?.as_f64()
}

/// The key of a line: the work and the program.
fn key(result: &Value) -> (String, String) {
    let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
    (text("work"), text("program"))
}

/// The median of a number over the rounds.
fn median(results: &[&Value], of: &(String, String), pointer: &str) -> Option<f64> {
    let ours = results.iter().filter(|result| key(result) == *of);
    let mut numbers: Vec<f64> = ours.filter_map(|r| number(r, pointer)).collect();
    numbers.sort_unstable_by(f64::total_cmp);
    let high = *numbers.get(numbers.len() / 2)?;
    let low = *numbers.get((numbers.len() - 1) / 2)?;
    Some((low + high) / 2.0)
}

/// The tables, and the aims next to the measured values.
pub fn markdown(results: &[Value], environment: &Value) -> String {
    let field = |name: &str| environment[name].as_str().unwrap_or("unknown").to_owned();
    let mut text = format!("# Cluster, {}\n\n", field("started"));
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{}, {} cores, {}, Linux {}, {}. Commit {}. Load before {}, after {}.{}\n\n\
         A master and workers of one core, in processes of this machine, with two copies of each block. \
         Medians over the rounds; the rows behind them are in the tables of this folder.\n",
        field("cpu"),
        environment["cores"],
        field("memory"),
        field("kernel"),
        field("rustc"),
        field("commit"),
        field("load_before"),
        field("load_after"),
        if environment["quick"] == true {
            " Quick: too short to cite."
        } else {
            ""
        },
    );
    for name in [
        "small",
        "tick",
        "throughput",
        "acks",
        "bulk",
        "master",
        "soak",
        "faults",
    ] {
        let of: Vec<&Value> = results
            .iter()
            .filter(|r| r["measurement"] == name)
            .collect();
        if !of.is_empty() {
            table(&mut text, name, &of);
            aims(&mut text, name, &of);
        }
    }
    let left_out = environment["left_out"].as_object();
    if let Some(left_out) = left_out.filter(|left_out| !left_out.is_empty()) {
        let _ = writeln!(text, "## Failed\n");
        for (what, why) in left_out {
            let why = why
                .as_str()
                .unwrap_or_default()
                .lines()
                .last()
                .unwrap_or_default();
            let _ = writeln!(text, "* `{what}`: {why}");
        }
    }
    text.trim_end().to_owned() + "\n"
}

fn table(text: &mut String, name: &str, results: &[&Value]) {
    let columns = columns(name);
    let titles: Vec<&str> = columns.iter().map(|(title, ..)| *title).collect();
    let _ = writeln!(
        text,
        "## {name}\n\n| work | program | {} |\n|---|---|{}",
        titles.join(" | "),
        "---:|".repeat(columns.len())
    );
    let mut keys: Vec<_> = results.iter().map(|result| key(result)).collect();
    keys.sort_unstable();
    keys.dedup();
    for of in keys {
        let cells = columns.iter().map(|(_, pointer, digits)| {
            median(results, &of, pointer)
                .map_or("-".to_owned(), |number| format!("{number:.digits$}"))
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "| {} | {} | {} |", of.0, of.1, cells.join(" | "));
    }
    text.push('\n');
}

/// The aims and the results.
fn aims(text: &mut String, name: &str, results: &[&Value]) {
    let of = |work: &str, program: &str, pointer: &str| {
        median(results, &(work.to_owned(), program.to_owned()), pointer)
    };
    let mut say = |line: String| {
        let _ = writeln!(text, "* {line}");
    };
    let met = |yes: bool| if yes { "met" } else { "**not met**" };
    match name {
        "small" => {
            let p50 = |program: &str| of("small", program, "/latency_ms/p50");
            let pairs = [("clients", "held"), ("queue", "shipped")];
            for (ours, bare) in pairs {
                let names = (format!("dstreams {ours}"), format!("ballista {bare}"));
                if let Some((ours, bare)) = p50(&names.0).zip(p50(&names.1)) {
                    let more = ours - bare;
                    let met = met(more <= 3.0);
                    say(format!(
                        "`{}` takes {more:.2} ms more than `{}` at p50 (aim: 3 or less): {met}",
                        names.0, names.1
                    ));
                }
            }
        }
        "tick" | "soak" => {
            for result in results {
                let (a, b) = (&result["acknowledged"], &result["counted"]);
                say(format!(
                    "acknowledged {a}, counted {b}: {}",
                    met(result["checked"] == true)
                ));
                if name == "tick" {
                    say(format!("the delay stays: {}", met(result["holds"] == true)));
                    continue;
                }
                say(format!(
                    "memory stays flat: {}",
                    met(result["flat"] == true)
                ));
                say(format!(
                    "at the end: {} jobs; by worker {} kept partitions, {} blocks",
                    result["jobs_at_end"], result["kept_at_end"], result["blocks_at_end"]
                ));
            }
        }
        "throughput" => {
            let mut works: Vec<String> = results.iter().map(|result| key(result).0).collect();
            works.sort_unstable();
            works.dedup();
            for work in works {
                let rate = |program: &str| of(&work, program, "/lines_per_s");
                if let Some((c, l)) = rate("dstreams cluster").zip(rate("dstreams local")) {
                    let (times, met) = (c / l, met(c / l >= 0.8));
                    say(format!(
                        "{work}: {times:.2} of the local engine (aim: 0.8): {met}"
                    ));
                }
            }
        }
        "acks" => {
            for result in results.iter().filter(|result| result["round"] == 1) {
                let (_, program) = key(result);
                if let Some(p50) = of("acks", &program, "/ack_ms/p50") {
                    let met = met(p50 <= 5.0);
                    say(format!(
                        "{program}: p50 {p50:.2} ms (aim: 5 or less): {met}"
                    ));
                }
            }
        }
        "bulk" => {
            for clients in [1, 2] {
                let rate = |program: &str| {
                    of(
                        "bulk",
                        &format!("{program}, {clients} clients"),
                        "/bytes_per_s",
                    )
                };
                for ours in ["dstreams lines", "dstreams batches"] {
                    if let Some((ours_rate, plain)) = rate(ours).zip(rate("flight")) {
                        let (times, met) = (ours_rate / plain, met(ours_rate / plain >= 0.5));
                        say(format!(
                            "{ours}, {clients} clients: {times:.2} of a plain `DoPut` (aim: 0.5): {met}"
                        ));
                    }
                }
            }
        }
        "master" => {
            let cpu = |workers: u32, tasks: u32| {
                let program = format!("{workers} workers, {tasks} tasks");
                of("master", &program, "/master_cpu_ms")
            };
            let growth = [
                ("with 2 tasks always", cpu(8, 2)),
                ("with a task for each", cpu(8, 8)),
            ];
            for (how, eight) in growth {
                if let Some((two, eight)) = cpu(2, 2).zip(eight) {
                    let times = eight / two;
                    say(format!(
                        "from 2 to 8 workers, {how}: {times:.2} times the processor time"
                    ));
                }
            }
        }
        _ => {}
    }
    text.push('\n');
}
