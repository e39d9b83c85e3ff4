//! [`Ending`]: a signal asks a command to end, a second one to end at once; and each only for so long.

use std::time::Duration;

use dstreams_cluster::app::Signals;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;

/// Time that the program may take to stop, beyond its drain time.
const BEYOND: Duration = Duration::from_millis(1500);
/// How long a command may take that is to end at once.
const AT_ONCE: Duration = Duration::from_millis(500);

/// The signals that a command was sent, and the time that each leaves it.
pub struct Ending {
    signals: Signals,
    drain: Duration,
    asked: u32,
    deadline: Option<Instant>,
}

/// How a command is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Counts and shows everything that was received, then ends.
    Gracefully,
    /// Ends without doing so.
    AtOnce,
    /// It had its time: whatever it waits for does not come.
    Now,
}

impl Ending {
    /// Catches signals from now on; what was received has so long.
    pub fn new(drain: Duration) -> Result<Self, Error> {
        Ok(Ending {
            signals: Signals::catch()?,
            drain,
            asked: 0,
            deadline: None,
        })
    }

    /// Waits until a signal comes, or until the time is over that the last one gave. Can be cancelled.
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
            1 => (End::Gracefully, self.drain.saturating_add(BEYOND)),
            2 => (End::AtOnce, AT_ONCE),
            _ => return End::Now,
        };
        self.deadline = Instant::now().checked_add(most);
        end
    }
}
