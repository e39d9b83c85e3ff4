//! What a run knows of its batches: the time, and what a listener was told.

use std::time::Duration;

use dstreams_control::{BatchReport, BatchTime, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::error::{Error, Result};
use crate::node::{Running, Summary};
use crate::program::{Listener, ManualClock};

#[derive(Debug)]
pub(super) struct Progress {
    pub clock: ManualClock,
    pub patience: Duration,
    interval: Duration,
    reports: mpsc::UnboundedReceiver<Result<BatchReport>>,
    /// How the program ended, where that can be known.
    end: Option<watch::Receiver<Option<Result<Summary>>>>,
}

/// Tells a run about batches.
pub(super) struct Reports(mpsc::UnboundedSender<Result<BatchReport>>);

impl Listener for Reports {
    fn batch_completed(&self, report: &BatchReport) {
        let _ = self.0.send(Ok(report.clone()));
    }

    fn batch_failed(&self, _: BatchTime, error: &Error) {
        let _ = self.0.send(Err(error.clone()));
    }
}

impl Progress {
    pub(super) fn new(
        clock: ManualClock,
        interval: Duration,
        patience: Duration,
    ) -> (Self, Reports) {
        let (sender, reports) = mpsc::unbounded_channel();
        let progress = Progress {
            clock,
            interval,
            patience,
            reports,
            end: None,
        };
        (progress, Reports(sender))
    }

    pub(super) fn ends_with(&mut self, running: &Running) {
        self.end = Some(running.end.clone());
    }

    /// Moves the clock to the end of the interval; returns its batch.
    pub(super) fn end_interval(&self) -> BatchTime {
        let interval = self.interval.as_millis() as u64;
        let now = self.clock.clock().now().0 / 1_000;
        let batch = (now / interval).saturating_add(1).saturating_mul(interval);
        self.clock.set_at_least(Timestamp::from_millis(batch));
        BatchTime(batch)
    }

    /// The next batch that takes effect.
    pub(super) async fn next(&mut self) -> Result<BatchReport> {
        let ended = async {
            match &mut self.end {
                Some(end) => match end.wait_for(Option::is_some).await {
                    Ok(end) => end.clone(),
                    Err(_) => None,
                },
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            biased;
            report = self.reports.recv() => match report {
                Some(report) => return report,
                None => self.end.as_ref().and_then(|end| end.borrow().clone()),
            },
            end = ended => match self.reports.try_recv() {
                Ok(report) => return report,
                Err(_) => end,
            },
        };
        match end {
            Some(Err(error)) => Err(error),
            _ => Err(Error::NotRunning),
        }
    }
}
