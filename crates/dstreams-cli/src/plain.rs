//! Printing: lines on standard output, one for each batch.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::Write;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams_cluster::WorkerStatus;
use dstreams_cluster::app::Console;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use tokio::time::timeout;

use crate::error::Error;
use crate::memory;
use crate::word_count::Found;

/// Characters that are shown of a word.
const LONGEST_WORD: usize = 40;
/// How long a line waits for whoever reads standard output before that is said.
const UNREAD: Duration = Duration::from_secs(2);
/// Warnings that wait for the terminal at most: the newest.
const MOST_HELD: usize = 100;

/// Prints one line, behind those that wait to be read: waits while there are many. Can be cancelled.
pub async fn say(line: impl Display) -> Result<(), Error> {
    let mut said = pin!(Console::stdout().line(line));
    let said = match timeout(UNREAD, &mut said).await {
        Ok(said) => said,
        Err(_) => {
            warn("nobody reads standard output: what comes next waits, and so do its producers");
            said.await
        }
    };
    said.map_err(Error::Output)
}

/// Waits until all that was printed is written.
pub async fn written() -> Result<(), Error> {
    Console::stdout().written().await.map_err(Error::Output)
}

/// Prints one line that nobody has to read.
pub fn tell(line: impl Display) {
    Console::stdout().offer(format!("{line}\n"));
}

/// Prints one line, at once. For commands that a signal ends, whatever they wait for.
pub fn print(line: impl Display) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// One JSON object as a line.
pub fn json(object: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(object).map_err(|error| Error::Output(error.into()))
}

/// Says something beside the output; nobody reading it is no problem.
pub fn warn(line: impl Display) {
    warn_from("dstreams", line);
}

/// Says something that `who` has to say.
pub fn warn_from(who: impl Display, line: impl Display) {
    let line = format!("{who}: {line}");
    if let Some(lines) = &mut *held() {
        lines.push_back(line);
        if lines.len() > MOST_HELD {
            lines.pop_front();
        }
        return;
    }
    Console::stderr().offer(line + "\n");
}

/// Warnings that wait until the terminal can show them.
static HELD: Mutex<Option<VecDeque<String>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<VecDeque<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Warnings wait as long as this lives: the terminal shows something else.
pub struct Quiet(());

impl Quiet {
    /// From now on.
    pub fn begin() -> Self {
        held().get_or_insert_default();
        Quiet(())
    }

    /// The last warning.
    pub fn last(&self) -> Option<String> {
        held().as_ref()?.back().cloned()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        for line in held().take().unwrap_or_default() {
            Console::stderr().offer(line + "\n");
        }
    }
}

/// Prints the names of the columns.
pub async fn header() -> Result<(), Error> {
    say(format_args!(
        "{:>12} {:>9} {:>9} {:>12} {:>11} {:>9} {:>11}",
        "time (UTC)", "lines", "lines/s", "window words", "processing", "delay", "memory"
    ))
    .await
}

/// Prints a batch, and the top words of the window below.
pub async fn batch(found: &Found, interval: Duration) -> Result<(), Error> {
    let mut line = format!(
        "{:>12} {:>9} {:>9} {:>12} {:>11} {:>9} {:>11}",
        time_of_day(found.batch.0),
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
    say(line).await
}

/// Prints how a worker is doing, below a batch.
pub async fn worker(status: &WorkerStatus) -> Result<(), Error> {
    let [worker, blocks, partitions, memory] = of_worker(status);
    say(format_args!(
        "    {worker}: {blocks}, partitions {partitions}, {memory}"
    ))
    .await
}

/// A worker, its blocks, the partitions that it holds, and the memory of its process.
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

/// A word as it may go to a terminal: it came from anyone.
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

/// Records each second, of a batch of `interval`.
pub fn per_second(records: u64, interval: Duration) -> u64 {
    (records as f64 / interval.as_secs_f64()).round() as u64
}

/// A short time, with its unit.
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
