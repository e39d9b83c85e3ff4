//! The clock: the wall clock, the time that sources give, or one that a test moves by hand.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dstreams_control::Timestamp;
use tokio::sync::watch;

use crate::receive::{SourceTime, wall_time};

/// Upper bound of one sleep, after which a changed clock or a suspended machine is noticed: timers count neither.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Where a context takes its time from.
#[derive(Debug, Clone)]
pub struct Clock(ClockKind);

#[derive(Debug, Clone)]
enum ClockKind {
    Wall,
    Manual(watch::Receiver<Timestamp>),
    Sources(SourceTime),
}

/// Moves the time of its clocks.
#[derive(Debug, Clone)]
#[must_use = "a clock that nobody moves stands still, and no batch begins"]
pub struct ManualClock(Arc<watch::Sender<Timestamp>>);

impl Clock {
    /// The wall clock of this machine.
    ///
    /// ```
    /// use dstreams::Clock;
    ///
    /// assert!(Clock::wall().now().0 > 1_700_000_000_000_000); // microseconds since 1970
    /// ```
    pub fn wall() -> Self {
        Clock(ClockKind::Wall)
    }

    /// A clock that stands at `since_epoch` until it is moved.
    ///
    /// ```
    /// # use dstreams::StreamContext;
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let mut ctx = StreamContext::new(std::time::Duration::from_secs(3600))?;
    /// # let (queue, lines) = ctx.queue::<String>("lines");
    /// use std::time::Duration;
    /// use dstreams::Clock;
    ///
    /// let mut rdds = lines.collect();
    /// let (time, clock) = Clock::manual(Duration::ZERO);
    /// ctx.set_clock(clock);
    /// let running = ctx.start().await?;
    /// queue.push(["to".to_owned()]).await?;
    /// time.advance(Duration::from_secs(3600)); // the first interval ends
    /// assert_eq!(rdds.recv().await.unwrap().collect()?, ["to"]);
    /// # running.abort().await?;
    /// # Ok(()) }
    /// ```
    pub fn manual(since_epoch: Duration) -> (ManualClock, Clock) {
        let manual = ManualClock(Arc::new(watch::Sender::new(timestamp(since_epoch))));
        let clock = manual.clock();
        (manual, clock)
    }

    /// A clock that stands at the event time of the records that are read: for the same program over old files as over
    /// a live feed, as fast as it can go, and with the same intervals each time.
    ///
    /// The time is that of sources which give it: [`Files::by_time`](crate::files::Files::by_time), and sources of your
    /// own ([`Source::gives_time`](crate::Source::gives_time)). It is the least of the times that these have given, and
    /// no later than the wall clock. The first interval is that of the first time given, and an interval ends once all
    /// of them have given a later time. Batches, states, windows and outputs do not differ: a batch time is a time of
    /// the records. When all such sources have ended, the clock jumps to the wall clock, with a batch for each interval until
    /// now, unless [`Config::skip_quiet`](crate::Config::skip_quiet) leaves out those in which nothing happens.
    ///
    /// A source that gives no time holds up nobody, and its records come into the interval that is open. The last
    /// interval stays open until there is a record of a later one; [`stop`](crate::Running::stop) ends it early.
    /// [`StreamContext::stop_when_sources_end`](crate::StreamContext::stop_when_sources_end) and
    /// [`StreamContext::close_when_sources_end`](crate::StreamContext::close_when_sources_end) end the program with the
    /// sources. After a kill, a program in a directory resumes with the same intervals. That takes an empty batch before its
    /// first interval, and before each interval that follows skipped ones.
    ///
    /// All records of an interval must fit into [`Config::block_memory`](crate::Config::block_memory), since they are
    /// received before the interval ends. If they do not, or if a source that gives the time fails, the program stops
    /// with an error: without that source, the intervals would be others. The delays in a
    /// [`BatchReport`](crate::BatchReport) are in this time too, so they say little.
    ///
    /// A clock is for one context; the start of another one is refused, as is a start without a source that gives the
    /// time. On a cluster, only sources that the master runs ([`Files`](crate::files::Files)) can give it.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> dstreams::Result<()> {
    /// # let dir = std::env::temp_dir().join(format!("dstreams-of-sources-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir).unwrap();
    /// # std::fs::write(dir.join("old.csv"), "at,page\n100,a\n900,a\n1100,b\n5900,a\n").unwrap();
    /// use std::time::Duration;
    /// use dstreams::{Clock, Record, StreamContext, files::{Files, Format}};
    ///
    /// #[derive(Record, Clone)]
    /// struct View { at: i64, page: String }
    ///
    /// // `dir` has views of the first six seconds of 1970.
    /// let files = Files::dir(&dir, Format::Csv).once().by_time("at", Duration::ZERO);
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// ctx.set_clock(Clock::of_sources());
    /// let mut views = ctx.files::<View>("views", files)?.count()?.collect();
    /// ctx.stop_when_sources_end();
    /// ctx.start().await?.await_termination(None).await?;
    /// for (second, views_in_it) in [(1, 2), (2, 1), (3, 0), (4, 0), (5, 0), (6, 1)] {
    ///     let rdd = views.recv().await.unwrap();
    ///     assert_eq!(rdd.batch_time().millis(), second * 1000);
    ///     assert_eq!(rdd.collect()?, [views_in_it]);
    /// }
    /// # std::fs::remove_dir_all(dir).unwrap();
    /// # Ok(()) }
    /// ```
    pub fn of_sources() -> Self {
        Clock(ClockKind::Sources(SourceTime::new()))
    }

    /// Whether it shows the time that sources give.
    #[doc(hidden)]
    pub fn is_of_sources(&self) -> bool {
        self.source_time().is_some()
    }

    /// The time that sources give, if this clock shows it.
    pub(crate) fn source_time(&self) -> Option<&SourceTime> {
        match &self.0 {
            ClockKind::Sources(time) => Some(time),
            ClockKind::Wall | ClockKind::Manual(_) => None,
        }
    }

    /// The time now. A clock of sources that have given none yet shows zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::Clock;
    ///
    /// let (_time, clock) = Clock::manual(Duration::from_millis(5));
    /// assert_eq!(clock.now().0, 5_000); // in microseconds
    /// ```
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            ClockKind::Wall => wall_time(),
            ClockKind::Manual(time) => *time.borrow(),
            ClockKind::Sources(time) => time.now().unwrap_or(Timestamp(0)),
        }
    }

    /// The time since a fixed moment, by a clock that nobody sets; `None` if a test or the sources move this clock.
    pub(crate) fn passed(&self) -> Option<Duration> {
        static BEGUN: OnceLock<Instant> = OnceLock::new();
        match &self.0 {
            ClockKind::Wall => Some(BEGUN.get_or_init(Instant::now).elapsed()),
            ClockKind::Manual(_) | ClockKind::Sources(_) => None,
        }
    }

    /// Waits until the time is `at` or later, or a manual clock is set back; with the wall clock no longer than
    /// [`LONGEST_SLEEP`].
    pub(crate) async fn wait_until(&mut self, at: Timestamp) {
        match &mut self.0 {
            ClockKind::Wall => tokio::time::sleep(at.since(wall_time()).min(LONGEST_SLEEP)).await,
            ClockKind::Sources(time) => time.wait_until(at, LONGEST_SLEEP).await,
            ClockKind::Manual(time) => {
                let begun = *time.borrow();
                let due = |now: &Timestamp| *now >= at || *now < begun;
                if time.wait_for(due).await.is_err() {
                    // Nothing can move the clock any more.
                    std::future::pending().await
                }
            }
        }
    }
}

impl ManualClock {
    /// A clock at zero, where the first test of a program begins.
    ///
    /// ```
    /// use dstreams::ManualClock;
    ///
    /// assert_eq!(ManualClock::new().clock().now().0, 0);
    /// ```
    pub fn new() -> Self {
        Clock::manual(Duration::ZERO).0
    }

    /// A clock that shows this time, for a context. Contexts that run one after the other may have one each.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::{ManualClock, StreamContext};
    ///
    /// let time = ManualClock::new();
    /// let mut ctx = StreamContext::new(Duration::from_secs(1))?;
    /// ctx.set_clock(time.clock());
    /// time.advance(Duration::from_secs(1)); // the first interval ends
    /// # Ok::<(), dstreams::Error>(())
    /// ```
    pub fn clock(&self) -> Clock {
        Clock(ClockKind::Manual(self.0.subscribe()))
    }

    /// Moves the time on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::Clock;
    ///
    /// let (time, clock) = Clock::manual(Duration::from_secs(1));
    /// time.advance(Duration::from_secs(2));
    /// assert_eq!(clock.now().0, 3_000_000);
    /// ```
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.plus(by));
    }

    /// Sets the time, forth or back.
    ///
    /// ```
    /// use std::time::Duration;
    /// use dstreams::Clock;
    ///
    /// let (time, clock) = Clock::manual(Duration::from_secs(9));
    /// time.set(Duration::from_secs(2)); // as when a wall clock is set back
    /// assert_eq!(clock.now().0, 2_000_000);
    /// ```
    pub fn set(&self, since_epoch: Duration) {
        self.0.send_replace(timestamp(since_epoch));
    }

    pub(crate) fn set_at_least(&self, time: Timestamp) {
        self.0.send_modify(|now| *now = time.max(*now));
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

fn timestamp(since_epoch: Duration) -> Timestamp {
    Timestamp::from_micros(0).plus(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_read_again_during_a_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        let mut clock = Clock::wall();
        let day = Timestamp(clock.now().0 + 24 * 3_600 * 1_000_000);
        // Hangs if it fails.
        runtime.block_on(clock.wait_until(day));
        assert!(clock.now() < day);
    }
}
