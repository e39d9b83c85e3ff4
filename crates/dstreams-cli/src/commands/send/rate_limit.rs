//! [`Pace`]: limits the rate of sent lines.

use std::time::Duration;

use memchr::memchr_iter;
use tokio::time::Instant;

/// The longest delay that sending catches up with.
const MAX_CATCH_UP: Duration = Duration::from_millis(100);
/// The shortest pause; lines due meanwhile are sent together.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// Cuts text to a number of lines per second.
pub struct Pace {
    rate: Option<u64>,
    /// When the next line is due.
    next: Instant,
}

impl Pace {
    /// At most `rate` lines per second; `None` is unlimited.
    pub fn new(rate: Option<u64>) -> Self {
        Pace {
            rate,
            next: Instant::now(),
        }
    }

    /// Waits until a line is due; splits `text` into the lines due now and the rest.
    pub async fn cut<'a>(&mut self, text: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let Some(rate) = self.rate else {
            return (text, &[]);
        };
        let now = Instant::now();
        let earliest = now.checked_sub(MAX_CATCH_UP).unwrap_or(now);
        self.next = self.next.max(earliest);
        if self.next > now {
            tokio::time::sleep_until(self.next.max(now + MIN_PAUSE)).await;
        }
        let late = self.next.elapsed().as_secs_f64();
        let due = 1 + (late * rate as f64) as usize;
        let end = memchr_iter(b'\n', text)
            .nth(due - 1)
            .map_or(text.len(), |at| at + 1);
        let (now, later) = text.split_at(end);
        let lines = memchr_iter(b'\n', now).count().max(1);
        self.next += Duration::from_secs_f64(lines as f64 / rate as f64);
        (now, later)
    }
}
