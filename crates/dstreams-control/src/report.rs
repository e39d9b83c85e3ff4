//! [`BatchReport`]: what listeners get about a finished batch.
//!
//! Times are readings of a clock that may step back; differences of them saturate at zero.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BatchTime, Timestamp};

/// A committed batch: its size, and the times of its steps.
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchReport {
    /// The batch.
    pub batch: BatchTime,
    /// How many times it was run.
    pub attempts: u32,
    /// Records in its blocks; none if they were set aside.
    pub records: u64,
    /// Records that were set aside, all of them or none: see [`Command::SetAside`](crate::Command::SetAside).
    pub set_aside: u64,
    /// Bytes of its blocks in memory.
    pub bytes: u64,
    /// When it was cut.
    pub cut_at: Timestamp,
    /// When `Run` was given for its first attempt.
    pub first_started_at: Timestamp,
    /// When `Run` was given for its last attempt.
    pub started_at: Timestamp,
    /// When its last attempt finished.
    pub finished_at: Timestamp,
    /// When all its outputs had taken effect.
    pub committed_at: Timestamp,
}

impl BatchReport {
    /// A batch without records whose times are all the end of its interval: for tests of what reads reports.
    #[must_use]
    pub const fn of(batch: BatchTime) -> Self {
        let at = batch.timestamp();
        BatchReport {
            batch,
            attempts: 1,
            records: 0,
            set_aside: 0,
            bytes: 0,
            cut_at: at,
            first_started_at: at,
            started_at: at,
            finished_at: at,
            committed_at: at,
        }
    }

    /// From the end of the interval to the start of the first attempt.
    #[must_use]
    pub const fn scheduling_delay(&self) -> Duration {
        self.first_started_at.since(self.batch.timestamp())
    }

    /// From the start of the first attempt to the commit.
    #[must_use]
    pub const fn processing_time(&self) -> Duration {
        self.committed_at.since(self.first_started_at)
    }

    /// From the end of the interval to the commit.
    #[must_use]
    pub const fn total_delay(&self) -> Duration {
        self.committed_at.since(self.batch.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_count_from_the_first_attempt_and_saturate() {
        let mut report = BatchReport {
            batch: BatchTime(1_000),
            attempts: 2,
            records: 0,
            set_aside: 0,
            bytes: 0,
            cut_at: Timestamp::from_millis(1_001),
            first_started_at: Timestamp::from_millis(1_002),
            started_at: Timestamp::from_millis(1_010),
            finished_at: Timestamp::from_millis(1_020),
            committed_at: Timestamp::from_millis(1_030),
        };
        assert_eq!(report.scheduling_delay(), Duration::from_millis(2));
        assert_eq!(report.processing_time(), Duration::from_millis(28));
        assert_eq!(report.total_delay(), Duration::from_millis(30));
        report.batch = BatchTime(2_000);
        assert_eq!(report.scheduling_delay(), Duration::ZERO);
    }
}
