//! [`TestRun`]: a program that runs, batch by batch.

use std::future::Future;

use dstreams_control::BatchReport;

use super::progress::Progress;
use super::wait::{until, within};
use crate::error::{Error, Result};
use crate::node::{Running, Summary};
use crate::program::ManualClock;

/// A program that a test runs. [The module](crate::testing) has examples.
///
/// Dropping it does not stop the program.
#[derive(Debug)]
pub struct TestRun<R = Running> {
    pub(super) running: R,
    pub(super) progress: Progress,
}

impl<R> TestRun<R> {
    /// Ends the interval, and waits until its batch has taken effect: the clock moves on to the next multiple of the
    /// batch interval.
    ///
    /// What a push returned from before is in the batch. What clients and TCP producers have sent may be on its way;
    /// [`TestRun::until`] waits for it.
    ///
    /// Fails with the error of a batch that failed. Batches of earlier intervals that nobody has asked for take effect
    /// before; their reports are passed over.
    pub async fn end_interval(&mut self) -> Result<BatchReport> {
        let batch = self.progress.end_interval();
        let what = format!("batch {batch} to take effect");
        let patience = self.progress.patience;
        let reached = async {
            loop {
                let report = self.progress.next().await?;
                if report.batch >= batch {
                    return Ok(report);
                }
            }
        };
        within(patience, &what, reached).await?
    }

    /// Waits until one more batch has taken effect, and leaves the clock alone: for one that was moved by hand, by
    /// several intervals or while no program was there. Each batch is reported once, in their order.
    ///
    /// Fails with the error of a batch that failed.
    pub async fn next_batch(&mut self) -> Result<BatchReport> {
        let patience = self.progress.patience;
        within(patience, "a batch to take effect", self.progress.next()).await?
    }

    /// Waits until `condition` holds; `what` is for the error that says it did not.
    ///
    /// ```no_run
    /// # async fn wait(run: &dstreams::testing::TestRun) -> dstreams::Result<()> {
    /// run.until("the line to arrive", || run.running().status().block_memory > 0).await?;
    /// # Ok(()) }
    /// ```
    pub async fn until(&self, what: &str, condition: impl FnMut() -> bool) -> Result<()> {
        until(self.progress.patience, what, condition).await
    }

    /// Waits for `future`; `what` is for the error that says it did not end.
    pub async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T> {
        within(self.progress.patience, what, future).await
    }

    /// The program that runs.
    pub fn running(&self) -> &R {
        &self.running
    }

    /// The clock, to move it in another way, and for the next run.
    pub fn clock(&self) -> &ManualClock {
        &self.progress.clock
    }
}

impl TestRun {
    /// Stops the program as [`Running::stop`] does: everything that was pushed is run and takes effect.
    ///
    /// The last batch does not wait for the end of its interval; afterwards the clock shows it.
    pub async fn stop(&self) -> Result<Summary> {
        self.running.request_stop();
        self.ended().await
    }

    /// Ends the program as [`Running::abort`] does. Where it is kept in a directory, the next one there finds what it
    /// would find if this process had been killed; except that a commit that is under way is waited for.
    pub async fn abort(&self) -> Result<Summary> {
        self.running.request_abort();
        self.ended().await
    }

    /// Waits until the program has ended by itself, such as with
    /// [`StreamContext::stop_when_sources_end`](crate::StreamContext::stop_when_sources_end). The clock is then as after
    /// [`TestRun::stop`].
    pub async fn ended(&self) -> Result<Summary> {
        let end = self.running.await_termination(None);
        let ended = self.within("the program to end", end).await?;
        if let Some(last) = self.running.last_batch() {
            self.progress.clock.set_at_least(last.timestamp());
        }
        ended?.ok_or(Error::NotRunning)
    }
}
