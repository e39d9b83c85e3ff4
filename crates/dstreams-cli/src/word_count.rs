//! The program that `demo` and `wordcount` run: words of a window, counted, batch by batch.
//!
//! What a batch found comes from two outputs (the top ten, the number of words) when it is
//! committed, and what it cost from its report right after; together they are a [`Found`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams::arrow::array::AsArray;
use dstreams::arrow::compute::sum;
use dstreams::arrow::datatypes::Int64Type;
use dstreams::{
    BatchReport, BatchTime, DStream, Listener, Rdd, Running, Status, StreamContext, Summary, agg,
    text,
};
use tokio::sync::mpsc;

use crate::arguments::Times;
use crate::error::Error;
use crate::plain::warn;
use crate::signals::Signals;

/// Words that are shown of each window.
const TOP: usize = 10;
/// Results that wait to be printed; then the next batch's commit waits too.
const WAITING: usize = 256;
/// How long the commit of a batch sleeps between looks whether there is room.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long what was received may take to be counted at the end.
const DRAIN: Duration = Duration::from_secs(60);

/// What a batch found and what it cost.
#[derive(Debug)]
pub struct Found {
    pub batch: BatchTime,
    /// Lines of this batch.
    pub records: u64,
    /// Words in the window, each as often as it is there.
    pub window_words: i64,
    /// The most frequent words of the window: by count, then by word.
    pub top: Vec<(String, i64)>,
    pub processing: Duration,
    pub scheduling_delay: Duration,
}

/// The program, running.
pub struct WordCount {
    running: Arc<Running>,
    found: mpsc::Receiver<Result<Found, dstreams::Error>>,
}

impl WordCount {
    /// Counts the words of `lines`, a D-Stream of `ctx`.
    pub async fn start(
        mut ctx: StreamContext,
        lines: &DStream<String>,
        times: &Times,
    ) -> Result<Self, Error> {
        let counts = lines
            .flat_map::<String>(|line, out| text::words(line).for_each(|word| out.push(word)))
            .keyed()
            .window_agg(times.window()?, times.interval, agg::count())?;

        let (sender, found) = mpsc::channel(WAITING);
        let outcome = Outcome(Arc::new(Shared {
            half: Mutex::default(),
            sender,
        }));
        let (top, words) = (outcome.clone(), outcome.clone());
        counts
            .top(TOP)
            .for_each_rdd(move |rdd| top.wait_for_room().top = rdd.collect());
        counts.for_each_rdd(move |rdd| words.half().window_words = total(&rdd));
        ctx.add_listener(outcome);

        let running = Arc::new(ctx.start().await?);
        Ok(WordCount { running, found })
    }

    /// Where the stream `name` listens.
    pub fn address(&self, name: &str) -> Result<SocketAddr, Error> {
        self.running
            .address(name)
            .ok_or(Error::Program(dstreams::Error::NotRunning))
    }

    /// How the program is doing.
    pub fn status(&self) -> Status {
        self.running.status()
    }

    /// The next batch that took effect; `None` when the program has stopped. Can be cancelled.
    pub async fn next(&mut self) -> Result<Option<Found>, Error> {
        tokio::select! {
            biased;
            Some(found) = self.found.recv() => return Ok(Some(found?)),
            ended = self.running.await_termination(None) => ended?,
        };
        // What was found between the two looks.
        Ok(self.found.try_recv().ok().transpose()?)
    }

    /// Takes in nothing more, counts what was received, and stops; a signal meanwhile cuts that
    /// short. What is found meanwhile is for [`WordCount::next`].
    pub fn begin_stop(&self, mut signals: Signals) {
        let running = Arc::clone(&self.running);
        // What comes of it is told by `end`.
        tokio::spawn(async move {
            tokio::select! {
                _ = running.stop(true, Some(DRAIN)) => {}
                () = signals.next() => { let _ = running.stop(false, None).await; }
            }
        });
    }

    /// Waits for the end of the program; fails if something was left uncounted.
    pub async fn end(&self) -> Result<Summary, Error> {
        let summary = self.running.await_termination(None).await?;
        match summary {
            Some(summary) if summary.unfinished == 0 => Ok(summary),
            Some(Summary { unfinished, .. }) => Err(Error::Unfinished { unfinished }),
            None => Err(Error::Program(dstreams::Error::NotRunning)),
        }
    }
}

/// The sum of the counts, column by column: the words themselves are not looked at.
fn total(counts: &Rdd<(String, i64)>) -> i64 {
    let batches = counts.partitions().iter().flatten();
    let sums = batches.filter_map(|batch| {
        let counts = batch.column_by_name("value")?;
        sum(counts.as_primitive_opt::<Int64Type>()?)
    });
    sums.sum()
}

/// Puts together what is known of a batch.
#[derive(Clone)]
struct Outcome(Arc<Shared>);

struct Shared {
    half: Mutex<Half>,
    sender: mpsc::Sender<Result<Found, dstreams::Error>>,
}

/// What the outputs of the batch that is being committed gave.
struct Half {
    top: Result<Vec<(String, i64)>, dstreams::Error>,
    window_words: i64,
}

impl Default for Half {
    fn default() -> Self {
        Half {
            top: Ok(Vec::new()),
            window_words: 0,
        }
    }
}

impl Outcome {
    fn half(&self) -> MutexGuard<'_, Half> {
        self.0.half.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called in the commit, which may block: slow printing slows the program down.
    fn wait_for_room(&self) -> MutexGuard<'_, Half> {
        while self.0.sender.capacity() == 0 && !self.0.sender.is_closed() {
            std::thread::sleep(LOOK_AGAIN);
        }
        self.half()
    }
}

impl Listener for Outcome {
    fn batch_completed(&self, report: &BatchReport) {
        let half = std::mem::take(&mut *self.half());
        let found = half.top.map(|top| Found {
            batch: report.batch,
            records: report.records,
            window_words: half.window_words,
            top,
            processing: report.processing_time(),
            scheduling_delay: report.scheduling_delay(),
        });
        // There is room, see `wait_for_room`; nobody listens any more at the end.
        let _ = self.0.sender.try_send(found);
    }

    fn source_failed(&self, _stream: &str, error: &dstreams::Error) {
        warn(error);
    }
}
