//! Arguments that several commands take, and how they are read.

use std::time::Duration;

use dstreams_cluster::app::duration;

use crate::error::Error;

/// Length of the window where none is given, or the next multiple of the interval.
const WINDOW: Duration = Duration::from_secs(10);

/// How the stream is cut.
#[derive(Debug, Clone, clap::Args)]
pub struct Times {
    /// Batch interval, such as 500ms, 1s or 2m; 10ms or more
    #[arg(long, value_name = "D", default_value = "500ms", value_parser = interval)]
    pub interval: Duration,
    /// How far back words count, a multiple of the interval [default: 10s, in whole intervals]
    #[arg(long, value_name = "D", value_parser = duration)]
    window: Option<Duration>,
}

impl Times {
    /// The window, which is made of whole intervals.
    pub fn window(&self) -> Result<Duration, Error> {
        let interval = self.interval;
        let wanted = self.window.unwrap_or(WINDOW);
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

/// A batch interval: the library's own rule.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    match dstreams::StreamContext::new(interval) {
        Ok(_) => Ok(interval),
        Err(dstreams::Error::Config { message, .. }) => Err(message),
        Err(error) => Err(error.to_string()),
    }
}
