//! [`Ending`]: a signal asks a command to end, a second one to end at once; each has a time limit.

use std::time::Duration;

use dstreams_cluster::app::Signals;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;

/// Time for the program to stop, beyond its drain time.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a command may take to end at once.
const AT_ONCE_TIMEOUT: Duration = Duration::from_millis(500);

/// The signals sent to a command, and the deadline that the last one set.
pub struct Ending {
    signals: Signals,
    drain: Duration,
    asked: u32,
    deadline: Option<Instant>,
}

/// How a command is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Count and show everything received, then end.
    Gracefully,
    /// End without that.
    AtOnce,
    /// The time is over: stop waiting.
    Now,
}

impl Ending {
    /// Catches signals from now on. `drain` is the time for records already received.
    pub fn new(drain: Duration) -> Result<Self, Error> {
        Ok(Ending {
            signals: Signals::catch()?,
            drain,
            asked: 0,
            deadline: None,
        })
    }

    /// Waits for a signal, or for the deadline set by the last one. Cancel-safe.
    pub async fn next(&mut self) -> End {
        let deadline = self.deadline;
        let over = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.signals.next() => {}
            () = over => return End::Now,
        }
        self.asked += 1;
        let (end, most) = match self.asked {
            1 => (End::Gracefully, self.drain.saturating_add(STOP_TIMEOUT)),
            2 => (End::AtOnce, AT_ONCE_TIMEOUT),
            _ => return End::Now,
        };
        self.deadline = Instant::now().checked_add(most);
        end
    }
}
