//! [`Config`]: the interval, and the bounds of every wait and retry that the controller decides.
//!
//! Each field states its unit and the reason for its default. A bound of zero counts as one.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of a [`Controller`](crate::Controller).
#[derive(Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Length of an interval, milliseconds, at least 1. Batch times are its multiples since the Unix epoch.
    pub interval_ms: u64,
    /// Attempts per batch: runs, and separately commits of the run that finished. Default 4, as many as Spark gives
    /// a task: three failures in a row are no longer bad luck with one worker.
    pub max_attempts: u32,
    /// Batches that may be set aside after failing for good, those of earlier processes included; the next failure
    /// is given up. Default 0, none. Otherwise one bad record does not end the program; the bound is for a program
    /// that fails on every batch.
    pub max_set_aside: u32,
    /// Batches that run concurrently. Default 1. They still take effect in order; with 2, a batch does the work
    /// that needs no earlier state while the one before finishes.
    pub max_running: usize,
    /// How long a cut waits for the receivers' reports, milliseconds since its `Seal`. Default half the interval
    /// (at least 1): a silent receiver delays batches, but never makes them fall further and further behind. A late
    /// report is not lost; its blocks go into the next cut.
    pub report_timeout_ms: u64,
    /// How long sources may take to end in a graceful stop without a deadline, milliseconds since the last `Seal`;
    /// with one, half the remaining time. Then `StopWaiting` is given. Default 30 000: as long as brokers' long polls,
    /// and no source delays a stop indefinitely.
    pub source_timeout_ms: u64,
    /// How long the last cut of a graceful stop then waits for reports, milliseconds; not less than
    /// `report_timeout_ms`. Default 10 000: no later cut can take a late report, so this wait saves its blocks, yet
    /// a receiver that died silently must not delay the stop indefinitely.
    pub final_report_timeout_ms: u64,
    /// Overdue reports that are remembered, so that the last cut can wait for them. Default 1 024, some 16 KiB: a
    /// permanently silent receiver adds one per batch; the oldest are dropped.
    pub max_overdue_reports: usize,
    /// Empty batches that may wait to run; at the bound, no boundary is sealed. Default 16: after a long downtime,
    /// or during long retries, intervals wait on the clock instead of in memory, and a stop has only a few of them
    /// to finish. Batches with blocks are bounded by the memory for blocks.
    pub max_empty_waiting: usize,
    /// Boundaries that may be missed at once and still get a batch each; of more, those at which nothing happens are
    /// skipped: see [`Command::AskDue`](crate::Command::AskDue). Default none: each interval is a batch.
    pub skip_missed: Option<u64>,
    /// The boundary before the first one has a batch, too, and so has the last one of those that are skipped at once: a
    /// later process then knows from the cuts to which interval blocks belong that are in no cut. Default no: they
    /// belong to the first boundary without a batch, which is near. Where records move the clock it may not be.
    pub mark_intervals: bool,
}

/// Why a [`Config`] was refused.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The interval is zero.
    #[error("the batch interval is 0 ms; it must be at least 1 ms")]
    IntervalZero,
}

impl Config {
    /// The defaults for an interval of `interval_ms` milliseconds.
    ///
    /// # Errors
    ///
    /// [`ConfigError::IntervalZero`].
    pub const fn new(interval_ms: u64) -> Result<Self, ConfigError> {
        if interval_ms == 0 {
            return Err(ConfigError::IntervalZero);
        }
        let half = interval_ms / 2;
        Ok(Self {
            interval_ms,
            max_attempts: 4,
            max_set_aside: 0,
            max_running: 1,
            report_timeout_ms: if half == 0 { 1 } else { half },
            source_timeout_ms: 30_000,
            final_report_timeout_ms: 10_000,
            max_overdue_reports: 1_024,
            max_empty_waiting: 16,
            skip_missed: None,
            mark_intervals: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_interval_is_refused() {
        assert_eq!(Config::new(0), Err(ConfigError::IntervalZero));
    }

    #[test]
    fn defaults_follow_the_interval() {
        let timeouts = [1, 2, 1_000].map(|ms| Config::new(ms).map(|c| c.report_timeout_ms));
        assert_eq!(timeouts, [Ok(1), Ok(1), Ok(500)]);
    }
}
