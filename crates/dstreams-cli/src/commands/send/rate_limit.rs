//! How many lines may be sent now.

use std::time::Duration;

use memchr::memchr_iter;
use tokio::time::Instant;

/// How far sending may fall behind and still catch up.
const CATCH_UP: Duration = Duration::from_millis(100);
/// The shortest pause: lines that are due meanwhile go together.
const PAUSE: Duration = Duration::from_millis(5);

/// Cuts text to a number of lines a second.
pub struct Pace {
    rate: Option<u64>,
    /// When the next line is due.
    next: Instant,
}

impl Pace {
    /// At most `rate` lines a second; none for as fast as possible.
    pub fn new(rate: Option<u64>) -> Self {
        Pace {
            rate,
            next: Instant::now(),
        }
    }

    /// Waits until a line is due; returns the lines of `text` that are, and the rest.
    pub async fn cut<'a>(&mut self, text: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let Some(rate) = self.rate else {
            return (text, &[]);
        };
        let now = Instant::now();
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next = self.next.max(earliest);
        if self.next > now {
            tokio::time::sleep_until(self.next.max(now + PAUSE)).await;
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
