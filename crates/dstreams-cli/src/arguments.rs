//! Arguments shared by several commands, and their parsers.

use std::time::Duration;

use dstreams_cluster::app::duration;

use crate::error::Error;

/// Default window length, rounded up to a multiple of the interval.
const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

/// The batch interval and the window.
#[derive(Debug, Clone, clap::Args)]
pub struct Times {
    /// Batch interval, such as 500ms, 1s or 2m; 10ms or more
    #[arg(long, value_name = "D", default_value = "500ms", value_parser = interval)]
    pub interval: Duration,
    /// Window length, a multiple of --interval [default: 10s, rounded up to whole intervals]
    #[arg(long, value_name = "D", value_parser = duration)]
    window: Option<Duration>,
}

impl Times {
    /// The window, a whole number of intervals.
    pub fn window(&self) -> Result<Duration, Error> {
        let interval = self.interval;
        let wanted = self.window.unwrap_or(DEFAULT_WINDOW);
        let batches = wanted.as_nanos().div_ceil(interval.as_nanos()).max(1);
        let whole = interval.saturating_mul(u32::try_from(batches).unwrap_or(u32::MAX));
        if self.window.is_some_and(|window| window != whole) {
            return Err(Error::Usage(format!(
                "--window {} is not a multiple of --interval {}; {} would be",
                humantime::format_duration(wanted),
                humantime::format_duration(interval),
                humantime::format_duration(whole),
            )));
        }
        Ok(whole)
    }
}

/// Parses a batch interval; the library checks it.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    match dstreams::StreamContext::new(interval) {
        Ok(_) => Ok(interval),
        Err(dstreams::Error::Config { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
