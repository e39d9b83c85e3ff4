//! The two kinds of time: [`Timestamp`], a reading of the node's clock, and [`BatchTime`], the end of an interval,
//! which names a batch.
//!
//! Both saturate instead of overflowing; no reading of a clock, however wrong, makes the controller panic.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point of time: microseconds since the Unix epoch, of the node's clock (which may step back).
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The timestamp of `millis` milliseconds since the Unix epoch (saturating).
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// The timestamp of `micros` microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// The time `wait` later (saturating).
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(wait))
    }

    /// Time from `earlier` to this one; zero if `earlier` is later (the clock stepped back).
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us", self.0)
    }
}

/// End of an interval: milliseconds since the Unix epoch, a multiple of the interval. Names the batch.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct BatchTime(pub u64);

impl BatchTime {
    /// The latest there is.
    pub const MAX: Self = Self(u64::MAX);

    /// The batch whose interval ends `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The time `millis` milliseconds later (saturating).
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The time `millis` milliseconds earlier; `None` before the Unix epoch.
    #[must_use]
    pub const fn minus(self, millis: u64) -> Option<Self> {
        match self.0.checked_sub(millis) {
            Some(millis) => Some(Self(millis)),
            None => None,
        }
    }

    /// Whether something that is there every `slide_ms` milliseconds is there at this time.
    #[must_use]
    pub const fn is_multiple_of(self, slide_ms: u64) -> bool {
        self.0.is_multiple_of(slide_ms)
    }

    /// The first multiple of `interval_ms` strictly after `now`; `None` where no [`Timestamp`] can express it.
    #[must_use]
    pub const fn first_after(now: Timestamp, interval_ms: u64) -> Option<Self> {
        let Some(whole) = (now.0 / 1_000).checked_div(interval_ms) else {
            return None;
        };
        let Some(millis) = whole.saturating_add(1).checked_mul(interval_ms) else {
            return None;
        };
        Self(millis).if_expressible()
    }

    /// The last multiple of `interval_ms` that `now` has reached; the epoch if `interval_ms` is 0.
    #[must_use]
    pub const fn last_reached(now: Timestamp, interval_ms: u64) -> Self {
        match (now.0 / 1_000).checked_div(interval_ms) {
            Some(whole) => Self(whole * interval_ms),
            None => Self(0),
        }
    }

    /// The first multiple of `interval_ms` that is not before this time; `None` where no [`Timestamp`] can express it.
    #[must_use]
    pub(crate) const fn rounded_up(self, interval_ms: u64) -> Option<Self> {
        let Some(whole) = self.0.checked_next_multiple_of(interval_ms) else {
            return None;
        };
        Self(whole).if_expressible()
    }

    /// The batch time one interval later; `None` where no [`Timestamp`] can express it.
    #[must_use]
    pub const fn next(self, interval_ms: u64) -> Option<Self> {
        let Some(millis) = self.0.checked_add(interval_ms) else {
            return None;
        };
        Self(millis).if_expressible()
    }

    /// The point of time at which this interval ends (saturating).
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.0)
    }

    const fn if_expressible(self) -> Option<Self> {
        match self.0.checked_mul(1_000) {
            Some(_) => Some(self),
            None => None,
        }
    }
}

impl fmt::Display for BatchTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_after_is_strictly_after() {
        for (now_us, first_ms) in [(0, 250), (249_999, 250), (250_000, 500), (250_001, 500)] {
            assert_eq!(
                BatchTime::first_after(Timestamp(now_us), 250),
                Some(BatchTime(first_ms)),
                "now {now_us} us"
            );
        }
    }

    #[test]
    fn last_reached_is_not_after_now() {
        for (now_us, last_ms) in [(0, 0), (249_999, 0), (250_000, 250), (499_999, 250)] {
            let last = BatchTime::last_reached(Timestamp(now_us), 250);
            assert_eq!(last, BatchTime(last_ms), "now {now_us} us");
        }
        let up = [0, 1, 250, 251].map(|ms| BatchTime(ms).rounded_up(250));
        assert_eq!(up, [0, 250, 250, 500].map(|ms| Some(BatchTime(ms))));
        assert_eq!(BatchTime::MAX.rounded_up(250), None);
    }

    #[test]
    fn end_of_time_is_none() {
        assert_eq!(BatchTime::first_after(Timestamp(u64::MAX), 1), None);
        assert_eq!(BatchTime::first_after(Timestamp(0), u64::MAX), None);
        assert_eq!(BatchTime::first_after(Timestamp(0), 0), None);
        assert_eq!(BatchTime(u64::MAX / 1_000).next(1), None);
    }

    #[test]
    fn arithmetic_ends_with_the_times_there_are() {
        let batch = BatchTime::from_millis(600);
        assert_eq!(
            (batch.plus(300).millis(), batch.minus(600)),
            (900, Some(BatchTime(0)))
        );
        assert_eq!(
            (batch.minus(601), BatchTime::MAX.plus(1)),
            (None, BatchTime::MAX)
        );
        assert!(batch.is_multiple_of(300) && !batch.is_multiple_of(400));
        let at = Timestamp::from_micros(5).plus(Duration::from_millis(2));
        assert_eq!(
            (at.micros(), at.plus(Duration::MAX)),
            (2_005, Timestamp(u64::MAX))
        );
    }

    #[test]
    fn prints_the_number_and_its_unit() {
        assert_eq!(BatchTime(1_500).to_string(), "1500 ms");
        assert_eq!(BatchTime(1_500).timestamp().to_string(), "1500000 us");
    }
}
