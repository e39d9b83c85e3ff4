//! Programs that end with their sources.

use std::time::Duration;

use super::StreamContext;

impl StreamContext {
    /// Stops the program by itself when all its sources have ended; other engines call this an available-now trigger.
    /// With [`Files::once`](crate::files::Files::once) a streaming program is also a batch job.
    ///
    /// The stop is graceful: what was received is run and committed, in a last batch that does not wait for the end
    /// of its interval. Then [`Running::await_termination`](crate::Running::await_termination) and
    /// [`Running::run_until_signal`](crate::Running::run_until_signal) return. If a source failed, they return its
    /// error once the other sources have ended and their records are committed.
    ///
    /// With [`StreamContext::persist_in`], a killed program resumes where it was, and one that is started again
    /// after its end takes the new input.
    ///
    /// Sources without an end (queues, clients, TCP) keep the program running. On a cluster the program stops when
    /// the last source has ended, on whichever worker.
    ///
    /// ```no_run
    /// # async fn run() -> dstreams::Result<()> {
    /// use dstreams::{StreamContext, files::{Files, Format}};
    ///
    /// let mut ctx = StreamContext::new(std::time::Duration::from_secs(1))?;
    /// let lines = ctx.files::<String>("lines", Files::dir("/var/log/app", Format::Text).once())?;
    /// lines.count()?.print(1);
    /// ctx.stop_when_sources_end();
    /// let summary = ctx.start().await?.await_termination(None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_when_sources_end(&mut self) {
        self.stops_at_the_end = Some(Duration::ZERO);
    }

    /// As [`StreamContext::stop_when_sources_end`], but first lets the time run on for `run_on`, in steps of an interval,
    /// so that what waits for the time is emitted: records within a slack, the last windows, sessions, timeouts, final
    /// corrections, and the outer rows of joins over time. Needs a [`Clock::of_sources`](crate::Clock::of_sources) and no source
    /// but those that give the time; the start refuses others.
    ///
    /// `run_on` is the longest of those waits; more does not harm, but costs a batch for each interval, unless
    /// [`Config::skip_quiet`](crate::Config::skip_quiet) leaves out those in which nothing happens. A process that is started in the same
    /// directory afterwards begins after that time; one that follows a kill at the end lets the time run on once more,
    /// from the last batch.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let dir = std::env::temp_dir().join(format!("dstreams-close-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir).unwrap();
    /// # std::fs::write(dir.join("old.csv"), "at,page\n1500,a\n1600,b\n2900,a\n").unwrap();
    /// use std::time::Duration;
    /// use dstreams::{Clock, Record, StreamContext, agg::count, files::{Files, Format}};
    ///
    /// #[derive(Record, Clone)]
    /// struct View { at: i64, page: String }
    ///
    /// let second = Duration::from_secs(1);
    /// let mut ctx = StreamContext::new(second)?;
    /// ctx.set_clock(Clock::of_sources());
    /// // `dir` has three views, from 1.5 to 2.9 seconds after 1970.
    /// let files = Files::dir(&dir, Format::Csv).once().by_time("at", Duration::ZERO);
    /// let views = ctx.files::<View>("views", files)?.key_by_into(|view, out| out.push(view.page));
    /// let mut counts = views.window_agg(2 * second, second, count())?.collect();
    /// ctx.close_when_sources_end(2 * second); // until the last view has left the window
    /// ctx.start().await?.await_termination(None).await?;
    /// let mut last = Vec::new();
    /// while let Some(rdd) = counts.recv().await {
    ///     last.push(rdd.collect()?.len()); // pages in the window
    /// }
    /// assert_eq!(last, [2, 2, 1, 0]);
    /// # std::fs::remove_dir_all(dir).unwrap();
    /// # Ok(()) }
    /// ```
    pub fn close_when_sources_end(&mut self, run_on: Duration) {
        self.stops_at_the_end = Some(run_on);
    }
}
