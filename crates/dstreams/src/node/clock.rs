//! The clock of the master's loop: the first boundary, the sources that give the time, and a clock that is behind.

use std::time::Duration;

use dstreams_control::{Event, Timestamp};

use super::master::Master;
use crate::error::Error;

impl Master {
    /// Fixes the first boundary. Called before [`Master::run`], so that moving the clock once the program has
    /// started ends an interval. A clock of sources stands nowhere before they have given a time.
    pub fn begin(&mut self) {
        let time = self.clock.source_time();
        if time.is_none_or(|time| time.now().is_some()) {
            self.start();
        }
    }

    pub(super) fn start(&mut self) {
        self.state.begun = true;
        if let Some(error) = self.refuses_to_begin() {
            self.state.failure.get_or_insert(error);
            return self.step(Event::Stop {
                graceful: false,
                deadline: None,
            });
        }
        let receivers = self.workers.receivers();
        self.step(Event::Start { receivers });
    }

    /// Batches that an output has already would be considered committed.
    fn refuses_to_begin(&self) -> Option<Error> {
        let time = self.clock.source_time()?.now()?;
        let newest = self.state.begin_after?;
        (newest.timestamp() > time).then(|| Error::Config {
            setting: "clock",
            message: format!(
                "the records begin at {} ms, and an output has the batch {newest} of an earlier run already: give the \
                 output another place, or run the program in a directory, so that it resumes",
                time.micros() / 1_000
            ),
        })
    }

    /// Before a stop: sources no longer wait for the time. What was received before they gave one is run; a program
    /// with a directory leaves it to the next process, which puts it into the same interval.
    pub(super) fn stop_source_time(&mut self) {
        let Some(time) = self.clock.source_time() else {
            return;
        };
        time.stop();
        let resumes = self.state.last_cut.is_some() || !self.state.cuts.is_empty();
        if !self.state.begun && (resumes || self.durable.is_none()) {
            self.start();
        }
    }

    /// Tells sources that give the time which interval is open.
    pub(super) fn note_interval(&self) {
        if let Some(time) = self.clock.source_time()
            && self.state.begun
        {
            let open = self.controller.open_interval();
            time.note(open, self.controller.pending() == 0);
        }
    }

    /// Batches follow the clock, and no batch time comes twice: a clock that was set back, or is behind that of an
    /// earlier process, must reach the next interval first.
    pub(super) fn warn_of_the_clock(&mut self, next: Timestamp) {
        let interval = Duration::from_millis(self.controller.config().interval_ms);
        let wait = next.since(self.clock.now());
        if self.controller.state() == dstreams_control::State::Running
            && wait > interval.saturating_mul(2)
            && self.state.behind.replace(next) != Some(next)
        {
            let seconds = wait.as_secs();
            tracing::warn!(
                seconds,
                "the clock is behind the last batch: the next one starts when it has caught up"
            );
        }
    }
}
