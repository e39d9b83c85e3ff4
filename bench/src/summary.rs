//! The medians of a run, as Markdown.

use crate::programs::{Program, REFERENCE};
use bench_input::Work;
use serde_json::Value;
use std::fmt::Write;

/// One measurement in a few words.
pub fn brief(result: &Value) -> String {
    let rate = result["lines_per_s"].as_f64().unwrap_or_default() / 1e6;
    match result["latency_ms"]["p50"].as_f64() {
        Some(p50) => format!(
            "p50 {p50:.3} ms, p99 {:.3} ms",
            result["latency_ms"]["p99"].as_f64().unwrap_or_default()
        ),
        None => format!("{rate:.3} M lines/s"),
    }
}

/// The median of one number of a program and work over the rounds; `None` if it was not measured.
fn median(results: &[Value], label: &str, work: Work, pointer: &str) -> Option<f64> {
    let ours = |result: &&Value| result["label"] == label && result["work"] == work.name();
    let mut numbers: Vec<f64> = results
        .iter()
        .filter(ours)
        .filter_map(|r| r.pointer(pointer)?.as_f64())
        .collect();
    numbers.sort_unstable_by(f64::total_cmp);
    let high = *numbers.get(numbers.len() / 2)?;
    let low = *numbers.get((numbers.len() - 1) / 2)?;
    Some((low + high) / 2.0)
}

fn cell(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

/// The tables.
pub fn markdown(
    programs: &[Program],
    works: &[Work],
    results: &[Value],
    environment: &Value,
) -> String {
    let mut labels: Vec<String> = programs.iter().map(Program::label).collect();
    labels.sort_unstable();
    let mut text = format!(
        "# {}\n\n",
        environment["started"].as_str().unwrap_or_default()
    );
    let field = |name: &str| environment[name].as_str().unwrap_or("unknown").to_owned();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{}, {} cores, {}, Linux {}, {}. Commit {}. Medians of {} rounds; {} lines of 100 bytes in {} batches, {} threads, \
         seed {}; `small`: {} lines in batches of 1,000. Answers are checked in every run.\n",
        field("cpu"),
        environment["cores"],
        field("memory"),
        field("kernel"),
        field("rustc"),
        field("commit"),
        environment["asked"]["rounds"],
        environment["asked"]["lines"],
        environment["asked"]["batches"],
        environment["asked"]["threads"],
        environment["asked"]["seed"],
        environment["asked"]["small_lines"],
    );
    let rates: Vec<Work> = works
        .iter()
        .copied()
        .filter(|work| *work != Work::Small)
        .collect();
    let rate = |label: &str, work: Work| median(results, label, work, "/lines_per_s");
    let millions = |label: &str, work: Work| cell(rate(label, work).map(|rate| rate / 1e6), 3);
    table(
        &mut text,
        "Millions of lines per second",
        &labels,
        &rates,
        millions,
    );
    let times = |label: &str, work: Work| Some(rate(label, work)? / rate(REFERENCE, work)?);
    let against = format!("Times the rate of {REFERENCE}");
    table(&mut text, &against, &labels, &rates, |label, work| {
        cell(times(label, work), 2)
    });
    let memory = |label: &str, work: Work| cell(median(results, label, work, "/peak_rss_mb"), 0);
    table(
        &mut text,
        "Peak resident memory in MiB, the input included",
        &labels,
        works,
        memory,
    );
    if works.contains(&Work::Small) {
        let _ = writeln!(
            text,
            "## Latency of a batch of 1,000 lines, in milliseconds\n"
        );
        let _ = writeln!(
            text,
            "| program | p50 | p90 | p99 | max | p50 to {REFERENCE}'s |\n|---|---:|---:|---:|---:|---:|"
        );
        for label in &labels {
            let at =
                |name: &str| median(results, label, Work::Small, &format!("/latency_ms/{name}"));
            let reference = median(results, REFERENCE, Work::Small, "/latency_ms/p50");
            let ratio = at("p50").zip(reference).map(|(ours, theirs)| ours / theirs);
            let cells = ["p50", "p90", "p99", "max"]
                .map(|name| cell(at(name), 3))
                .join(" | ");
            let _ = writeln!(text, "| {label} | {cells} | {} |", cell(ratio, 2));
        }
        text.push('\n');
    }
    if let Some(left_out) = environment["left_out"]
        .as_object()
        .filter(|left_out| !left_out.is_empty())
    {
        let _ = writeln!(text, "## Left out\n");
        for (what, why) in left_out {
            let why = why
                .as_str()
                .unwrap_or_default()
                .lines()
                .last()
                .unwrap_or_default();
            let _ = writeln!(text, "* {what}: {why}");
        }
    }
    text.trim_end().to_owned() + "\n"
}

fn table(
    text: &mut String,
    title: &str,
    labels: &[String],
    works: &[Work],
    cell: impl Fn(&str, Work) -> String,
) {
    if works.is_empty() {
        return;
    }
    let names: Vec<&str> = works.iter().map(|work| work.name()).collect();
    let _ = writeln!(
        text,
        "## {title}\n\n| program | {} |\n|---|{}",
        names.join(" | "),
        "---:|".repeat(works.len())
    );
    for label in labels {
        let cells: Vec<String> = works.iter().map(|work| cell(label, *work)).collect();
        let _ = writeln!(text, "| {label} | {} |", cells.join(" | "));
    }
    text.push('\n');
}
