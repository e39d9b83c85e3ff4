//! [`Liveness`]: decides when a process that says nothing is given up.
//!
//! Each connection has one, which its reader feeds. It distinguishes three cases that look alike from a distance:
//!
//! * **The other is silent**: stopped, hung, or what it sends does not arrive. Nothing was heard for the bound.
//! * **The other does not hear**: what we send does not arrive. It is heard, but a probe has no answer for the bound.
//! * **We did not look**: this process was stopped, its machine slept, or it had no processor. Nothing follows from
//!   that. So time counts from one look to the next, and a longer gap counts as [`MAX_STEP`] ticks only: between two
//!   looks the reader had the chance to find what had come meanwhile.
//!
//! Times are since any fixed moment, by a monotonic clock: one that nobody sets.

use std::time::Duration;

/// Ticks in the bound.
const TICKS: u32 = 20;
/// The most ticks of time that count between two calls.
const MAX_STEP: u32 = 2;
/// Ticks by which a process is given up before the bound: one until the next probe, one until the next look.
const EARLY: u32 = 2;
/// The shortest tick.
const MIN_TICK: Duration = Duration::from_millis(1);

/// Why a process is given up, and after how long.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Suspicion {
    /// Nothing was heard of it for so long.
    Silent(Duration),
    /// It was heard, but has not answered for so long: it does not hear this process.
    Unanswered(Duration),
}

/// What the reader of a connection does next.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Look {
    /// Nothing, until the next tick.
    Wait,
    /// Send a probe with this number. It is answered with the number.
    Probe(u64),
    /// Give the process up for good. It may still run: fence it.
    Suspect(Suspicion),
}

/// Whether the process at the other end of a connection is there, as a pure state machine.
///
/// A process that is silent, or hears nothing, is given up within the bound. One that answers within nine tenths of
/// it never is. Both are in time in which this process looked; beyond that a stall of this process, however long,
/// counts as two ticks, a tenth of the bound.
///
/// ```
/// use std::time::Duration;
/// use dstreams_control::cluster::{Liveness, Look, Suspicion};
///
/// let at = Duration::from_millis;
/// let mut other = Liveness::new(at(2_000), at(0));
/// assert_eq!(other.tick(), at(100));
/// assert_eq!(other.look(at(100), true), Look::Probe(1));
/// other.answered(1, at(101));
///
/// // This process is stopped for an hour. Then it looks again.
/// assert_eq!(other.look(at(3_600_000), true), Look::Probe(2));
///
/// // Nothing comes any more.
/// let given_up = (3_600_100..).step_by(100).find_map(|now| match other.look(at(now), true) {
///     Look::Suspect(why) => Some((now, why)),
///     _ => None,
/// });
/// assert_eq!(given_up, Some((3_601_600, Suspicion::Silent(at(1_800)))));
/// ```
#[derive(Clone, Debug)]
pub struct Liveness {
    tick: Duration,
    limit: Duration,
    /// The last call.
    last: Duration,
    /// The time that has counted.
    passed: Duration,
    /// Of that, when the process was last heard.
    heard: Duration,
    /// Number of the newest probe, and when it was sent if it has no answer.
    probes: u64,
    open: Option<Duration>,
}

impl Liveness {
    /// A process that is given up within `bound`, and was heard just `now`. A bound below 20 ms counts as that.
    #[must_use]
    pub fn new(bound: Duration, now: Duration) -> Self {
        let tick = (bound / TICKS).max(MIN_TICK);
        Self {
            tick,
            limit: tick * (TICKS - EARLY),
            last: now,
            passed: Duration::ZERO,
            heard: Duration::ZERO,
            probes: 0,
            open: None,
        }
    }

    /// The time between two looks.
    #[must_use]
    pub const fn tick(&self) -> Duration {
        self.tick
    }

    /// Something came from the process.
    pub fn heard(&mut self, now: Duration) {
        self.pass(now);
        self.heard = self.passed;
    }

    /// The process has answered this probe. Answers to earlier ones, and repeated ones, say only that it is heard.
    pub fn answered(&mut self, probe: u64, now: Duration) {
        self.heard(now);
        if probe == self.probes {
            self.open = None;
        }
    }

    /// How long ago it was last heard, in time that counts.
    pub fn silent(&mut self, now: Duration) -> Duration {
        self.pass(now);
        self.passed.saturating_sub(self.heard)
    }

    /// Everything that had come was read, and now nothing is there. `can_send` is whether a probe would leave at once:
    /// one that waits behind other messages says nothing about the other process.
    pub fn look(&mut self, now: Duration, can_send: bool) -> Look {
        let silent = self.silent(now);
        let unanswered = self
            .open
            .map_or(Duration::ZERO, |sent| self.passed.saturating_sub(sent));
        if silent >= self.limit {
            Look::Suspect(Suspicion::Silent(silent))
        } else if unanswered >= self.limit {
            Look::Suspect(Suspicion::Unanswered(unanswered))
        } else if self.open.is_none() && can_send {
            self.probes += 1;
            self.open = Some(self.passed);
            Look::Probe(self.probes)
        } else {
            Look::Wait
        }
    }

    fn pass(&mut self, now: Duration) {
        let step = now.saturating_sub(self.last).min(self.tick * MAX_STEP);
        self.passed = self.passed.saturating_add(step);
        self.last = self.last.max(now);
    }
}
