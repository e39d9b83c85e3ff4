//! Results of batches, from the commit to the code that prints them.
//!
//! The outputs (the top ten, the number of words) provide the words when a batch is committed; the
//! batch's report right after provides the times. Together they are a [`BatchResults`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams::{BatchReport, BatchTime, Listener, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::output::warn;

/// The most results that wait to be printed; beyond that, commits wait. Few, since words may be as long as lines, and
/// behind them is text that waits to be read.
const MAX_WAITING: usize = 16;
/// How often a commit that waits checks for space.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The results and times of a batch.
#[derive(Debug)]
pub struct BatchResults {
    pub batch: BatchTime,
    /// Lines of this batch.
    pub records: u64,
    /// Number of words in the window, repetitions included.
    pub window_words: i64,
    /// The most frequent words of the window: by count, then by word.
    pub top: Vec<(String, i64)>,
    pub processing: Duration,
    pub scheduling_delay: Duration,
}

/// The same as a line of JSON.
#[derive(Serialize, Deserialize)]
pub struct BatchLine {
    batch_time: u64,
    records: u64,
    window_words: i64,
    top: Vec<(String, i64)>,
    processing_ms: f64,
    scheduling_delay_ms: f64,
}

impl From<&BatchResults> for BatchLine {
    fn from(found: &BatchResults) -> Self {
        let millis = |time: Duration| time.as_micros() as f64 / 1e3;
        BatchLine {
            batch_time: found.batch.millis(),
            records: found.records,
            window_words: found.window_words,
            top: found.top.clone(),
            processing_ms: millis(found.processing),
            scheduling_delay_ms: millis(found.scheduling_delay),
        }
    }
}

impl From<BatchLine> for BatchResults {
    fn from(line: BatchLine) -> Self {
        let time = |millis: f64| Duration::from_micros((millis * 1e3).round() as u64);
        BatchResults {
            batch: BatchTime::from_millis(line.batch_time),
            records: line.records,
            window_words: line.window_words,
            top: line.top,
            processing: time(line.processing_ms),
            scheduling_delay: time(line.scheduling_delay_ms),
        }
    }
}

/// Sends the results of batches.
pub type Sender = mpsc::Sender<Result<BatchResults>>;
/// Receives the results, in the order of batches.
pub type Receiver = mpsc::Receiver<Result<BatchResults>>;

/// A channel for results. Without its receiver, results are dropped and nothing waits.
pub fn channel() -> (Sender, Receiver) {
    mpsc::channel(MAX_WAITING)
}

/// Combines the outputs and the report of a batch.
#[derive(Clone)]
pub struct Outcome(Arc<Shared>);

struct Shared {
    half: Mutex<Half>,
    sender: Sender,
}

/// The outputs of the batch that is being committed.
struct Half {
    top: Result<Vec<(String, i64)>>,
    window_words: Result<i64>,
}

impl Default for Half {
    fn default() -> Self {
        Half {
            top: Ok(Vec::new()),
            window_words: Ok(0),
        }
    }
}

impl Outcome {
    pub fn new(sender: Sender) -> Self {
        Outcome(Arc::new(Shared {
            half: Mutex::default(),
            sender,
        }))
    }

    /// Sets the top words of the batch. Called in its commit, and may block: backpressure from slow
    /// printing.
    pub fn top(&self, top: Result<Vec<(String, i64)>>) {
        while self.0.sender.capacity() == 0 && !self.0.sender.is_closed() {
            std::thread::sleep(POLL_INTERVAL);
        }
        self.half().top = top;
    }

    /// Sets the number of words in the window, from the only record of the output.
    pub fn window_words(&self, records: Result<Vec<i64>>) {
        self.half().window_words = records.map(|records| records.iter().sum());
    }

    fn half(&self) -> MutexGuard<'_, Half> {
        self.0.half.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Outcome {
    fn batch_completed(&self, report: &BatchReport) {
        let half = std::mem::take(&mut *self.half());
        let found = half.top.and_then(|top| {
            Ok(BatchResults {
                batch: report.batch,
                records: report.records,
                window_words: half.window_words?,
                top,
                processing: report.processing_time(),
                scheduling_delay: report.scheduling_delay(),
            })
        });
        // There is space, see `top`. At the end nobody listens any more.
        let _ = self.0.sender.try_send(found);
    }

    fn source_failed(&self, _stream: &str, error: &dstreams::Error) {
        warn(error);
    }
}
