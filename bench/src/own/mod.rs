//! Measurements of `dstreams` alone, each next to its baseline in the same run: one line of JSON for each, on
//! standard output.

mod durable;
mod keyed;
mod tcp;
mod tick;
mod time;
mod watch;
mod windows;

pub use durable::durable;
pub use keyed::keyed;
pub use tcp::tcp;
pub use tick::tick;
pub use time::time;
pub use watch::Reports;
pub use windows::windows;

use std::error::Error;
use std::time::Duration;

/// The result of a measurement, or why it failed.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// The value of `--name` among the flags, or its default.
pub fn flag<T: std::str::FromStr>(flags: &[String], name: &str, default: T) -> Outcome<T> {
    let Some(at) = flags.iter().position(|flag| flag == name) else {
        return Ok(default);
    };
    let value = flags
        .get(at + 1)
        .ok_or_else(|| format!("{name} needs a value"))?;
    value
        .parse()
        .map_err(|_| format!("{name} {value} does not fit").into())
}

/// The percentile of sorted times, in milliseconds.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let time = sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default();
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Percentiles as a JSON object.
pub fn percentiles(mut times: Vec<Duration>) -> serde_json::Value {
    times.sort_unstable();
    serde_json::json!({
        "p50": percentile(&times, 0.5),
        "p90": percentile(&times, 0.9),
        "p99": percentile(&times, 0.99),
        "max": percentile(&times, 1.0),
    })
}
