//! The table of batches and workers that `wordcount`, `master` and `demo` print for people.

use std::time::Duration;

use dstreams_cluster::WorkerStatus;
use indicatif::{HumanBytes, HumanCount};

use crate::error::Error;
use crate::memory;
use crate::output::print_line;
use crate::program::BatchResults;

/// The most characters shown of a word.
const LONGEST_WORD: usize = 40;

/// Prints the names of the columns.
pub async fn header() -> Result<(), Error> {
    print_line(format_args!(
        "{:>12} {:>9} {:>9} {:>12} {:>11} {:>9} {:>11}",
        "time (UTC)", "lines", "lines/s", "window words", "processing", "delay", "memory"
    ))
    .await
}

/// Prints a batch, and the top words of the window below.
pub async fn batch(found: &BatchResults, interval: Duration) -> Result<(), Error> {
    let mut line = format!(
        "{:>12} {:>9} {:>9} {:>12} {:>11} {:>9} {:>11}",
        time_of_day(found.batch.millis()),
        HumanCount(found.records).to_string(),
        HumanCount(per_second(found.records, interval)).to_string(),
        HumanCount(found.window_words.unsigned_abs()).to_string(),
        millis(found.processing),
        millis(found.scheduling_delay),
        resident(),
    );
    for (place, (word, count)) in found.top.iter().enumerate() {
        line += if place == 0 { "\n    " } else { ", " };
        line += &format!("{} {count}", printable(word));
    }
    print_line(line).await
}

/// Prints the status of a worker, below a batch.
pub async fn worker(status: &WorkerStatus) -> Result<(), Error> {
    let [worker, blocks, partitions, memory] = of_worker(status);
    print_line(format_args!(
        "    {worker}: {blocks}, partitions {partitions}, {memory}"
    ))
    .await
}

/// A worker, its blocks, the partitions of state it owns, and the memory of its process.
pub fn of_worker(status: &WorkerStatus) -> [String; 4] {
    let memory = HumanBytes(status.block_memory as u64);
    let partitions: Vec<_> = status.holds.iter().map(u32::to_string).collect();
    [
        format!("worker {}", status.id),
        format!("{} blocks of {memory}", status.blocks),
        partitions.join(" "),
        HumanBytes(status.resident_memory).to_string(),
    ]
}

/// A word in a form that is safe for a terminal: words come from untrusted input.
pub fn printable(word: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    word.chars().take(LONGEST_WORD).map(plain).collect()
}

/// Records per second, for a batch of length `interval`.
pub fn per_second(records: u64, interval: Duration) -> u64 {
    (records as f64 / interval.as_secs_f64()).round() as u64
}

/// A duration in milliseconds, with its unit.
pub fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Memory of this process.
pub fn resident() -> String {
    memory::resident().map_or("?".to_owned(), |bytes| HumanBytes(bytes).to_string())
}

/// The time of day of milliseconds since the Unix epoch.
fn time_of_day(ms: u64) -> String {
    let seconds = ms / 1000;
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{:03}",
        seconds % 60,
        ms % 1000
    )
}
