//! The one line of JSON a program prints.

use crate::{Args, LINE_BYTES, SMALL_LINES, Work};
use std::time::Duration;

/// Percentiles of the time from handing a batch over to its complete result, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Half of the batches took no longer.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// Ninety-nine in a hundred.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// The percentiles of some times, by nearest rank; all zero for none.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let rank = (times.len() as f64 * share).ceil() as usize;
            times
                .get(rank.saturating_sub(1))
                .map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// One measurement whose answers were right.
#[derive(Debug)]
pub struct Report<'a> {
    /// Name of the program.
    pub program: &'a str,
    /// Version of the library it shows.
    pub version: &'a str,
    /// What it was asked to do.
    pub args: &'a Args,
    /// The variant that ran.
    pub variant: &'a str,
    /// From the start of the first batch to the complete result of the last; for `small`, the sum of the latencies.
    pub seconds: f64,
    /// For `small`.
    pub latency: Option<Latency>,
}

impl<'a> Report<'a> {
    /// The report of a throughput work.
    pub fn throughput(
        program: &'a str,
        version: &'a str,
        args: &'a Args,
        variant: &'a str,
        time: Duration,
    ) -> Self {
        Self {
            program,
            version,
            args,
            variant,
            seconds: time.as_secs_f64(),
            latency: None,
        }
    }

    /// The report of `small`: the times of all batches, of which those of the warm-up are left out.
    pub fn small(
        program: &'a str,
        version: &'a str,
        args: &'a Args,
        variant: &'a str,
        times: &[Duration],
    ) -> Self {
        let times = times.get(args.warm_up()..).unwrap_or_default().to_vec();
        let seconds = times.iter().sum::<Duration>().as_secs_f64();
        Self {
            program,
            version,
            args,
            variant,
            seconds,
            latency: Some(Latency::of(times)),
        }
    }

    /// The line of JSON.
    pub fn json(&self) -> String {
        let Args {
            work,
            lines,
            batches,
            threads,
            seed,
            ..
        } = self.args;
        let measured = if *work == Work::Small {
            (batches - self.args.warm_up()) * SMALL_LINES
        } else {
            *lines
        };
        let (seconds, rate) = (self.seconds, measured as f64 / self.seconds);
        let mut json = format!(
            "{{\"program\":\"{}\",\"version\":\"{}\",\"work\":\"{}\",\"variant\":\"{}\",\"lines\":{lines},\
             \"line_bytes\":{LINE_BYTES},\"batches\":{batches},\"threads\":{threads},\"seed\":{seed},\
             \"seconds\":{seconds:.6},\"lines_per_s\":{rate:.0},\"checked\":true",
            self.program,
            self.version,
            work.name(),
            self.variant,
        );
        if let Some(Latency { p50, p90, p99, max }) = self.latency {
            json += &format!(
                ",\"latency_ms\":{{\"p50\":{p50:.4},\"p90\":{p90:.4},\"p99\":{p99:.4},\"max\":{max:.4}}}"
            );
        }
        json + "}"
    }
}
