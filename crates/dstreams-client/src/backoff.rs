//! When to try again, and when to give up: pure, the time is an argument.
//!
//! One round tries every address once without a pause (`route.rs` says when it is over); after that the pauses
//! double, each drawn between half and all of its value. Progress (an acknowledgement) resets the count.

use std::time::{Duration, Instant};

use crate::options::Retry;

#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    /// Failed tries since the last progress.
    tries: u32,
    /// Completed rounds of them.
    rounds: u32,
    first_failure: Option<Instant>,
    random: u64,
}

/// Give up: the tries made and the time they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedUp {
    pub(crate) tries: u32,
    pub(crate) elapsed: Duration,
}

impl Backoff {
    pub(crate) fn new(retry: Retry, seed: u64) -> Self {
        Self {
            retry,
            tries: 0,
            rounds: 0,
            first_failure: None,
            random: seed,
        }
    }

    pub(crate) fn progress(&mut self) {
        self.tries = 0;
        self.rounds = 0;
        self.first_failure = None;
    }

    /// Records a failed try; returns the pause before the next.
    pub(crate) fn failed(&mut self, now: Instant, round_over: bool) -> Result<Duration, UsedUp> {
        self.tries = self.tries.saturating_add(1);
        self.rounds += u32::from(round_over);
        let elapsed = now.saturating_duration_since(*self.first_failure.get_or_insert(now));
        if self.rounds > self.retry.tries || elapsed > self.retry.elapsed {
            return Err(UsedUp {
                tries: self.tries,
                elapsed,
            });
        }
        if !round_over {
            return Ok(Duration::ZERO); // the next address may be better
        }
        let doubled = 2u32.saturating_pow(self.rounds - 1);
        let pause = self
            .retry
            .first_pause
            .saturating_mul(doubled)
            .min(self.retry.longest_pause);
        Ok(pause / 2 + (pause / 2).mul_f64(self.unit()))
    }

    /// The next random number in [0, 1): splitmix64.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(tries: u32) -> Retry {
        Retry {
            tries,
            ..Retry::default()
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_with_jitter() {
        let now = Instant::now();
        let mut backoff = Backoff::new(retry(20), 7);
        let mut nominal = Duration::from_millis(50);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = backoff.failed(now, true).unwrap();
            assert!(
                nominal / 2 <= pause && pause <= nominal,
                "{pause:?} of {nominal:?}"
            );
            pauses.push(pause);
            nominal = (nominal * 2).min(Duration::from_secs(5));
        }
        let longest: Vec<_> = pauses.iter().skip(7).collect();
        assert!(
            longest.windows(2).any(|pair| pair[0] != pair[1]),
            "no jitter: {longest:?}"
        );
    }

    /// The numbers of the published generator, from seed 0.
    #[test]
    fn jitter_is_splitmix64() {
        let mut backoff = Backoff::new(retry(1), 0);
        let published = [
            0xE220_A839_7B1D_CDAF_u64,
            0x6E78_9E6A_A1B9_65F4,
            0x06C4_5D18_8009_454F,
        ];
        for number in published {
            let wanted = (number >> 11) as f64 / (1u64 << 53) as f64;
            assert_eq!(backoff.unit(), wanted);
        }
    }

    #[test]
    fn the_last_moment_still_counts() {
        let start = Instant::now();
        let mut backoff = Backoff::new(retry(9), 7);
        assert!(backoff.failed(start, true).is_ok());
        let limit = start + Retry::default().elapsed;
        assert!(backoff.failed(limit, true).is_ok());
        assert!(
            backoff
                .failed(limit + Duration::from_nanos(1), true)
                .is_err()
        );
    }

    #[test]
    fn no_pause_within_a_round_and_rounds_are_counted() {
        let now = Instant::now();
        let mut backoff = Backoff::new(retry(2), 7);
        for over in [false, false, true, false, true, false] {
            assert_eq!(backoff.failed(now, over).unwrap().is_zero(), !over);
        }
        assert_eq!(backoff.failed(now, true).map_err(|used| used.tries), Err(7));
    }

    #[test]
    fn tries_and_time_are_bounded_and_progress_resets_them() {
        let start = Instant::now();
        let mut backoff = Backoff::new(retry(2), 7);
        assert!(backoff.failed(start, true).is_ok());
        assert!(backoff.failed(start, true).is_ok());
        assert_eq!(
            backoff.failed(start, true),
            Err(UsedUp {
                tries: 3,
                elapsed: Duration::ZERO
            })
        );
        backoff.progress();
        assert!(backoff.failed(start, true).is_ok());
        let late = start + Duration::from_secs(121);
        // In any round.
        let used = backoff.failed(late, false).map_err(|used| used.tries);
        assert_eq!(used, Err(2));
    }
}
