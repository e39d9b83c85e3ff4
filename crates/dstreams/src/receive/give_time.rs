//! An intake whose source gives the time: see [`Clock::of_sources`](crate::Clock::of_sources).

use dstreams_control::Timestamp;

use super::intake::Intake;
use super::source_time::SourceTime;
use crate::error::{Error, Result};

impl Intake {
    /// Its source gives the time of this input.
    pub(crate) fn with_time(mut self, time: SourceTime, input: u32) -> Self {
        self.time = Some((time, input));
        self
    }

    /// See [`Ingest::time_is`](super::Ingest::time_is).
    pub(crate) async fn time_is(&self, at: Timestamp) -> Result<bool> {
        let Some((time, input)) = &self.time else {
            return Ok(true);
        };
        // Blocks that are not safe when their interval ends may come into the next one.
        let last = self.last_block();
        if let Some(last) = last {
            self.safe(last).await?;
        }
        Ok(time.give(*input, at).await)
    }

    /// Its source has ended, and gives no time any more.
    pub(crate) fn end_time(&self) {
        if let Some((time, input)) = &self.time {
            time.end(*input);
        }
    }

    /// Whether its source gives the time.
    pub(crate) fn gives_time(&self) -> bool {
        self.time.is_some()
    }

    /// The result of a future that waits for memory.
    pub(crate) async fn unless_stuck<T>(&self, waits: impl Future<Output = T>) -> Result<T> {
        let Some((time, _)) = &self.time else {
            return Ok(waits.await);
        };
        tokio::select! {
            biased;
            done = waits => Ok(done),
            () = time.stuck() => Err(Error::Config {
                setting: "block_memory",
                message: format!(
                    "what one interval has does not fit into {} bytes, and no interval ends before stream `{}` brings \
                     a later record: raise it, or shorten the interval",
                    self.budget.total(), self.stream
                ),
            }),
        }
    }
}
