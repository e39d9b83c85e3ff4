//! The clock: the wall clock, or one that a test moves by hand.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dstreams_control::Timestamp;
use tokio::sync::watch;

/// Upper bound of one sleep, after which a changed clock or a suspended machine is noticed: timers count neither.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Where a context takes its time from.
#[derive(Debug, Clone)]
pub struct Clock(ClockKind);

#[derive(Debug, Clone)]
enum ClockKind {
    Wall,
    Manual(watch::Receiver<Timestamp>),
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

    /// The time now.
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
            ClockKind::Wall => timestamp(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            ),
            ClockKind::Manual(time) => *time.borrow(),
        }
    }

    /// Waits until the time is `at` or later, or a manual clock is set back; with the wall clock no longer than
    /// [`LONGEST_SLEEP`].
    pub(crate) async fn wait_until(&mut self, at: Timestamp) {
        match &mut self.0 {
            ClockKind::Wall => {
                let now = timestamp(
                    SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .unwrap_or_default(),
                );
                tokio::time::sleep(at.since(now).min(LONGEST_SLEEP)).await
            }
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
