//! The feed of the demo: random lines at a fixed rate, through the client library.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dstreams_client::{Client, Error as ClientError, LineSender, Options, Report};
use dstreams_cluster::app::Secret;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::zipf::Lines;
use crate::error::Error;

/// How often lines are sent: much shorter than any interval.
const SEND_INTERVAL: Duration = Duration::from_millis(5);
/// Fixed, so that every run gets the same lines.
const SEED: u64 = 2013;

/// A running producer.
pub struct Producer {
    stop: Option<oneshot::Sender<()>>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<Result<Fed, ClientError>>,
}

/// The lines that were sent, all of them acknowledged.
pub struct Fed {
    pub report: Report,
    /// How often each word is in them.
    pub words: HashMap<String, i64>,
}

impl Producer {
    /// Starts sending `rate` lines a second to a stream of the program or master at `address`.
    pub async fn start(address: &str, stream: &str, rate: u64) -> Result<Self, Error> {
        let mut options = Options::default();
        options.token = Secret::default().read()?;
        let client = Client::connect(address, options).await?;
        let lines = client.lines(stream).await?;
        let (stop, stopped) = oneshot::channel();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(send(lines, rate, Arc::clone(&acknowledged), stopped));
        Ok(Producer {
            stop: Some(stop),
            acknowledged,
            task,
        })
    }

    /// Number of acknowledged lines.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until sending fails.
    pub async fn failed(&mut self) -> Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error.into(),
            // The task ends by itself only with an error.
            Ok(Ok(_)) => std::future::pending().await,
            Err(gone) => Error::Start(gone.into()),
        }
    }

    /// Stops the producer; returns when all sent lines are acknowledged.
    pub async fn finish(mut self) -> Result<Fed, Error> {
        drop(self.stop.take());
        match (&mut self.task).await {
            Ok(fed) => Ok(fed?),
            Err(gone) => Err(Error::Start(gone.into())),
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(
    mut lines: LineSender,
    rate: u64,
    acknowledged: Arc<AtomicU64>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<Fed, ClientError> {
    let mut source = Lines::new(SEED);
    let mut text = Vec::new();
    let mut ticks = interval(SEND_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let started = Instant::now();
    let mut made = 0;
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        // After a delay, overdue lines are sent in portions.
        let due = due.min(made + rate.div_ceil(10));
        text.clear();
        (made..due).for_each(|_| source.write(&mut text));
        made = due.max(made);
        lines.send_text(&text).await?;
        acknowledged.store(lines.acknowledged(), Ordering::Relaxed);
    }
    let report = lines.finish().await?;
    let words = source.counts();
    Ok(Fed { report, words })
}
