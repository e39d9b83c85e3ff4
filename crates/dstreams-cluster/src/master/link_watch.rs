//! [`LinkWatch`]: whether the worker at the other end of a link is there.

use std::time::{Duration, Instant};

use dstreams_control::cluster::{Liveness, Look, Suspicion};
use tokio::time::{Interval, MissedTickBehavior};

use super::losses::LossReason;
use crate::link::{Sender, ToMaster, ToWorker};

/// Watches a link for its reader: [`Liveness`] with a monotonic clock.
pub struct LinkWatch {
    begun: Instant,
    liveness: Liveness,
}

impl LinkWatch {
    /// A worker that was heard just now, and is given up within `bound`.
    pub fn new(bound: Duration) -> Self {
        LinkWatch {
            begun: Instant::now(),
            liveness: Liveness::new(bound, Duration::ZERO),
        }
    }

    /// When to look.
    pub fn ticks(&self) -> Interval {
        let mut ticks = tokio::time::interval(self.liveness.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// A message has come.
    pub fn heard(&mut self, message: &ToMaster) {
        let now = self.begun.elapsed();
        match message {
            ToMaster::Answer { probe } => self.liveness.answered(*probe, now),
            _ => self.liveness.heard(now),
        }
    }

    /// Nothing has come. Sends a probe if one is due; returns why the worker is given up, and after how long.
    pub fn look(&mut self, link: &Sender<ToWorker>) -> Option<(LossReason, Duration)> {
        let can_send = link.unsent() == 0;
        match self.liveness.look(self.begun.elapsed(), can_send) {
            Look::Wait => None,
            Look::Probe(number) => {
                link.send(&ToWorker::Probe { number });
                None
            }
            Look::Suspect(Suspicion::Silent(after)) => Some((LossReason::Silent, after)),
            Look::Suspect(Suspicion::Unanswered(after)) => Some((LossReason::Unanswered, after)),
        }
    }

    /// How long ago the worker was last heard.
    pub fn silent(&mut self) -> Duration {
        self.liveness.silent(self.begun.elapsed())
    }
}
