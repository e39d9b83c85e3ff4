//! What batches find, on its way from the commit to whoever prints it.
//!
//! It comes from two outputs (the top ten, the number of words) when a batch is committed, and what
//! the batch cost from its report right after; together they are a [`Found`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dstreams::{BatchReport, BatchTime, Listener, Result};
use tokio::sync::mpsc;

use crate::output::warn;

/// Results that wait to be printed; then the next batch's commit waits too. Few: each has words as long as lines are, and
/// behind them is the text that waits to be read.
const WAITING: usize = 16;
/// How long the commit of a batch sleeps between looks whether there is room.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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

/// Where what batches found goes to.
pub type Sender = mpsc::Sender<Result<Found>>;
/// Where it comes out, in the order of batches.
pub type Receiver = mpsc::Receiver<Result<Found>>;

/// A way for what batches find. Without its receiver it leads nowhere and holds nobody up.
pub fn channel() -> (Sender, Receiver) {
    mpsc::channel(WAITING)
}

/// Puts together what is known of a batch.
#[derive(Clone)]
pub struct Outcome(Arc<Shared>);

struct Shared {
    half: Mutex<Half>,
    sender: Sender,
}

/// What the outputs of the batch that is being committed gave.
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

    /// The top words of the batch. Called in its commit, which may block: slow printing slows the
    /// program down.
    pub fn top(&self, top: Result<Vec<(String, i64)>>) {
        while self.0.sender.capacity() == 0 && !self.0.sender.is_closed() {
            std::thread::sleep(LOOK_AGAIN);
        }
        self.half().top = top;
    }

    /// The number of words in the window of the batch, as the one record there is.
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
            Ok(Found {
                batch: report.batch,
                records: report.records,
                window_words: half.window_words?,
                top,
                processing: report.processing_time(),
                scheduling_delay: report.scheduling_delay(),
            })
        });
        // There is room, see `top`; nobody listens any more at the end.
        let _ = self.0.sender.try_send(found);
    }

    fn source_failed(&self, _stream: &str, error: &dstreams::Error) {
        warn(error);
    }
}
