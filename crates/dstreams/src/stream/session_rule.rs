//! When sessions begin, are cut, and end.

use dstreams_control::BatchTime;

use super::event_time::millis;

/// A session is a run of records of a key, each less than `gap` after the one before it. All in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionRule {
    /// The time between two RDDs of the stream.
    pub every: i64,
    /// No shorter than that, so that records of one interval of the stream are always of one session.
    pub gap: i64,
    /// How long a session waits for records, once its gap is over: its slack, and what the stream is late by.
    pub slack: i64,
    /// The length at which a session is cut, a multiple of `every`.
    pub longest: Option<i64>,
}

/// What becomes of a session with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionStatus {
    Open,
    /// It ends with this batch.
    Over,
    /// It would have ended with an earlier batch.
    WasOver,
}

impl SessionRule {
    /// The times that must not change between two runs.
    pub fn times(&self) -> String {
        let (gap, slack) = (self.gap, self.slack);
        match self.longest {
            Some(longest) => format!("gap {gap} ms, slack {slack} ms, cut after {longest} ms"),
            None => format!("gap {gap} ms, slack {slack} ms"),
        }
    }

    /// The beginning of the interval of the stream that a time is in.
    pub fn interval_of(&self, time: i64) -> i64 {
        time.div_euclid(self.every).saturating_mul(self.every)
    }

    /// The time at which a session that begins at `start` is cut, if there is one: the beginning of an interval.
    pub fn cut(&self, start: i64) -> Option<i64> {
        self.interval_of(start).checked_add(self.longest?)
    }

    /// How many of these belong to the same session as the first, and the time of its last record. Each is the first
    /// and the last time of records of one session; they are in order of the first.
    pub fn session(&self, mut spans: impl Iterator<Item = (i64, i64)>) -> (usize, i64) {
        let Some((start, mut last)) = spans.next() else {
            return (0, i64::MIN);
        };
        let (cut, mut count) = (self.cut(start), 1);
        for (next, until) in spans {
            let is_apart = next.saturating_sub(last) >= self.gap;
            if is_apart || cut.is_some_and(|cut| next >= cut) {
                break;
            }
            last = last.max(until);
            count += 1;
        }
        (count, last)
    }

    /// The time at which a session ends whose last record is of `last`: with the first batch that is not before it.
    pub fn over_at(&self, last: i64) -> i64 {
        last.saturating_add(self.gap + self.slack)
    }

    /// What becomes of a session with a batch.
    pub fn status(&self, last: i64, batch: BatchTime) -> SessionStatus {
        let (over_at, batch) = (self.over_at(last), millis(batch));
        if over_at > batch {
            SessionStatus::Open
        } else if over_at > batch - self.every {
            SessionStatus::Over
        } else {
            SessionStatus::WasOver
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: SessionRule = SessionRule {
        every: 100,
        gap: 200,
        slack: 100,
        longest: None,
    };

    #[test]
    fn a_gap_divides_sessions() {
        let count = |times: &[i64]| RULE.session(times.iter().map(|time| (*time, *time)));
        assert_eq!(count(&[]).0, 0);
        assert_eq!(count(&[0, 199, 398, 598]), (3, 398));
        assert_eq!(count(&[i64::MIN, i64::MAX]), (1, i64::MIN));
        assert_eq!(count(&[i64::MAX - 1, i64::MAX]), (2, i64::MAX));
        // A span within another one does not shorten it.
        let spans = [(0, 900), (100, 100), (1099, 1099)];
        assert_eq!(RULE.session(spans.into_iter()), (3, 1099));
    }

    #[test]
    fn a_cut_is_at_the_beginning_of_an_interval() {
        let cut = SessionRule {
            longest: Some(300),
            ..RULE
        };
        let session = |times: &[i64]| cut.session(times.iter().map(|time| (*time, *time))).0;
        assert_eq!(session(&[150, 250, 399, 400]), 3);
        assert_eq!(session(&[199, 250, 399, 400]), 3);
        assert_eq!(session(&[-1, 100, 199, 200]), 3);
        // Records of one time are never apart.
        assert_eq!(session(&[i64::MAX, i64::MAX]), 2);
        assert_eq!(cut.cut(i64::MAX), None);
        assert_eq!(RULE.cut(0), None);
    }

    #[test]
    fn a_session_ends_with_one_batch() {
        let status = |last, batch| RULE.status(last, BatchTime(batch));
        let ends = [200, 300, 400, 500].map(|batch| status(100, batch));
        use SessionStatus::{Open, Over, WasOver};
        assert_eq!(ends, [Open, Open, Over, WasOver]);
        let ends = [300, 400, 500].map(|batch| status(1, batch));
        assert_eq!(ends, [Open, Over, WasOver]);
        assert_eq!(status(i64::MAX, 1_000_000), Open);
        assert_eq!(status(i64::MIN, 0), WasOver);
    }
}
