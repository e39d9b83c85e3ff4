//! [`Elapsed`]: elapsed time, from a monotonic clock, or from one that may step back.
//!
//! Of a clock that may step back only forward steps count, so a timeout still fires after its time if the clock is set
//! back by hours meanwhile. One that is set forward fires timeouts early: with a monotonic clock beside it, it does not.

use crate::Timestamp;

/// Microseconds elapsed since the first reading.
#[derive(Debug)]
pub(crate) struct Elapsed {
    last: Option<Timestamp>,
    passed: u64,
}

impl Elapsed {
    pub(crate) const fn new() -> Self {
        Self {
            last: None,
            passed: 0,
        }
    }

    /// Takes a reading of the clock.
    pub(crate) fn observe(&mut self, now: Timestamp) {
        let step = self.last.map_or(0, |last| now.0.saturating_sub(last.0));
        self.passed = self.passed.saturating_add(step);
        self.last = Some(now);
    }

    /// Takes a reading of the clock, and of a monotonic one beside it.
    pub(crate) fn observe_both(&mut self, now: Timestamp, passed: u64) {
        self.passed = self.passed.max(passed);
        self.last = Some(now);
    }

    /// Microseconds elapsed.
    pub(crate) const fn passed(&self) -> u64 {
        self.passed
    }

    /// The elapsed time when the clock, running on from here, shows `at`.
    pub(crate) fn at_clock(&self, at: Timestamp) -> u64 {
        self.passed
            .saturating_add(at.0.saturating_sub(self.clock()))
    }

    /// The reading of the clock, running on from here, at elapsed time `passed`.
    pub(crate) fn clock_at(&self, passed: u64) -> Timestamp {
        Timestamp(
            self.clock()
                .saturating_add(passed.saturating_sub(self.passed)),
        )
    }

    fn clock(&self) -> u64 {
        self.last.map_or(0, |last| last.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_back_do_not_count() {
        let mut elapsed = Elapsed::new();
        elapsed.observe(Timestamp(1_000));
        let due = elapsed.at_clock(Timestamp(1_100));
        for (now, passed, wake) in [
            (1_040, 40, 1_100),
            (500, 40, 560),
            (530, 70, 560),
            (560, 100, 560),
        ] {
            elapsed.observe(Timestamp(now));
            assert_eq!(elapsed.passed(), passed, "clock {now}");
            assert_eq!(elapsed.clock_at(due), Timestamp(wake), "clock {now}");
        }
        assert!(elapsed.passed() >= due);
    }
}
