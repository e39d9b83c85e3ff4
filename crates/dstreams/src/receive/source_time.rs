//! [`SourceTime`]: the time that sources give: see [`Clock::of_sources`](crate::Clock::of_sources).
//!
//! The clock stands at the least time that a source has given, and each source waits until the interval of its time is
//! open. So nothing moves the clock while a batch is being sealed, and which interval a record is in follows from the
//! records alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dstreams_control::{BatchTime, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a source waits for memory after all batches took effect, before it is certain that no batch frees any: the
/// tasks of the last one may still hold some.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Stands for a source that lets the time run on after all others have ended.
const RUNS_ON: u32 = u32::MAX;

/// The time that sources give. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct SourceTime(Arc<watch::Sender<GivenTimes>>);

#[derive(Debug, Clone, PartialEq)]
struct GivenTimes {
    /// A context has this clock.
    begun: bool,
    /// The time that each source has given, by input.
    sources: BTreeMap<u32, Option<Timestamp>>,
    /// Where the clock stands; unknown until each source has given a time.
    stands: Option<Timestamp>,
    /// The end of the interval to which records belong that are received now; unknown while one is being sealed.
    open: Option<BatchTime>,
    /// No batch is cut and not done.
    idle: bool,
    /// Whether the clock stands still when the last source has ended.
    stays: bool,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// The sources move the clock.
    Sources,
    /// The program stops: the clock runs on from a time.
    RunsFrom(Timestamp, Instant),
    /// All sources have ended: the wall clock.
    Wall,
}

impl GivenTimes {
    fn now(&self) -> Option<Timestamp> {
        match self.mode {
            Mode::Sources => self.stands,
            Mode::RunsFrom(at, since) => Some(at.plus(since.elapsed())),
            Mode::Wall => Some(self.stands.map_or_else(wall_time, |at| at.max(wall_time()))),
        }
    }

    /// Moves the clock on to the least time of the sources.
    fn advance(&mut self) {
        let least = self.sources.values().copied().min().flatten();
        self.stands = self.stands.max(least);
    }

    fn opens(&self, at: Timestamp) -> bool {
        self.open.is_some_and(|open| open.timestamp() > at)
    }

    /// Whether nothing runs before the sources give a time, or a later one.
    fn waits(&self) -> bool {
        self.stands.is_none() || (self.idle && self.open.is_some())
    }
}

impl SourceTime {
    pub fn new() -> Self {
        let times = GivenTimes {
            begun: false,
            sources: BTreeMap::new(),
            stands: None,
            open: None,
            idle: false,
            stays: false,
            mode: Mode::Sources,
        };
        SourceTime(Arc::new(watch::Sender::new(times)))
    }

    /// The inputs whose sources give the time, before any of them runs; returns `false` if the clock has some already.
    /// With `stays`, it stands still after they have ended.
    pub fn begin(&self, inputs: impl Iterator<Item = u32>, stays: bool) -> bool {
        self.0.send_if_modified(|times| {
            let first = !std::mem::replace(&mut times.begun, true);
            if first {
                times.sources = inputs.map(|input| (input, None)).collect();
                times.stays = stays;
            }
            first
        })
    }

    /// Resumes after the last batch that an earlier process cut.
    pub fn resume(&self, last: Option<BatchTime>) {
        if let Some(last) = last {
            self.0.send_modify(|times| {
                times.stands = times.stands.max(Some(last.timestamp()));
            });
        }
    }

    /// Whether the program stops, so that the time runs on without its sources.
    pub fn is_stopping(&self) -> bool {
        matches!(self.0.borrow().mode, Mode::RunsFrom(..))
    }

    /// Whether the source of this input gives the time.
    pub fn has(&self, input: u32) -> bool {
        self.0.borrow().sources.contains_key(&input)
    }

    pub fn now(&self) -> Option<Timestamp> {
        self.0.borrow().now()
    }

    /// Waits until the clock stands somewhere; for ever in a program that stops before.
    pub async fn known(&self) {
        let mut times = self.0.subscribe();
        let known = |times: &GivenTimes| match times.mode {
            Mode::Sources | Mode::Wall => times.now().is_some(),
            Mode::RunsFrom(..) => false,
        };
        // This is a sender, so the wait does not fail.
        let _ = times.wait_for(known).await;
    }

    /// Waits until the time is `at` or later; no longer than `longest` where nothing but time moves the clock.
    pub async fn wait_until(&self, at: Timestamp, longest: Duration) {
        let mut times = self.0.subscribe();
        let is_due = |times: &GivenTimes| {
            times.mode != Mode::Sources || times.now().is_some_and(|now| now >= at)
        };
        let wait = match times.wait_for(is_due).await {
            Ok(times) => at.since(times.now().unwrap_or(at)),
            Err(_) => return,
        };
        tokio::time::sleep(wait.min(longest)).await;
    }

    /// A source brings nothing older than `at` from now on. Waits until the interval of `at` is open; returns `false`
    /// if the program stops instead.
    pub async fn give(&self, input: u32, at: Timestamp) -> bool {
        let at = at.min(wall_time());
        self.moves_to(input, at).await
    }

    async fn moves_to(&self, input: u32, mut at: Timestamp) -> bool {
        self.0.send_if_modified(|times| {
            let given = times.sources.get_mut(&input);
            let moved = given.is_some_and(|given| {
                let before = *given;
                at = before.map_or(at, |before| at.max(before));
                *given = Some(at);
                *given != before
            });
            if moved {
                times.advance();
            }
            moved
        });
        let mut times = self.0.subscribe();
        let done = |times: &GivenTimes| times.mode != Mode::Sources || times.opens(at);
        let done = times.wait_for(done).await;
        done.is_ok_and(|times| times.mode == Mode::Sources)
    }

    /// The source of this input has ended.
    pub fn end(&self, input: u32) {
        self.0.send_if_modified(|times| {
            let ended = times.sources.remove(&input).is_some();
            if ended {
                times.advance();
                if times.sources.is_empty() && !times.stays && times.mode == Mode::Sources {
                    times.mode = Mode::Wall;
                }
            }
            ended
        });
    }

    /// All sources have ended: lets the time run on so far, until the batches up to then are cut.
    pub async fn run_on(&self, by: Duration) {
        let Some(stands) = self.0.borrow().stands else {
            return;
        };
        let at = stands.plus(by);
        self.0.send_modify(|times| {
            times.sources.insert(RUNS_ON, Some(stands));
        });
        self.moves_to(RUNS_ON, at).await;
    }

    /// The program stops: no source waits any more, and the clock runs on from where it stands.
    pub fn stop(&self) {
        self.0.send_if_modified(|times| {
            let stops = times.mode == Mode::Sources;
            if stops {
                let at = times.stands.unwrap_or_else(wall_time);
                times.mode = Mode::RunsFrom(at, Instant::now());
            }
            stops
        });
    }

    /// The end of the interval that is open, and whether no batch is left to do.
    pub fn note(&self, open: Option<BatchTime>, idle: bool) {
        self.0.send_if_modified(|times| {
            let before = (times.open, times.idle);
            (times.open, times.idle) = (open, idle);
            before != (open, idle)
        });
    }

    /// Completes if nothing will free memory for a source that gives the time: all batches are done, and the next one
    /// waits for that source.
    pub async fn stuck(&self) {
        let mut times = self.0.subscribe();
        loop {
            let before = times.wait_for(GivenTimes::waits).await;
            let Ok(before) = before.map(|times| times.open) else {
                return std::future::pending().await;
            };
            let goes_on = |now: &GivenTimes| !now.waits() || now.open != before;
            let changed = tokio::time::timeout(STUCK_AFTER, times.wait_for(goes_on)).await;
            if changed.is_err() && self.0.borrow().mode == Mode::Sources {
                return;
            }
        }
    }
}

/// The wall clock of this machine.
pub(crate) fn wall_time() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_micros(0).plus(since_epoch.unwrap_or_default())
}
