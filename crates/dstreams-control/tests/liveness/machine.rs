//! [`Machine`]: the real machine, or one with an injected fault.

use std::time::Duration;

use dstreams_control::cluster::{Liveness, Look};

pub trait Machine {
    fn heard(&mut self, now: Duration);
    fn answered(&mut self, probe: u64, now: Duration);
    fn look(&mut self, now: Duration, can_send: bool) -> Look;
}

/// The machine as it is.
pub struct Real(Liveness);

impl Real {
    pub fn boxed(bound: Duration, now: Duration) -> Box<dyn Machine> {
        Box::new(Real(Liveness::new(bound, now)))
    }
}

impl Machine for Real {
    fn heard(&mut self, now: Duration) {
        self.0.heard(now);
    }

    fn answered(&mut self, probe: u64, now: Duration) {
        self.0.answered(probe, now);
    }

    fn look(&mut self, now: Duration, can_send: bool) -> Look {
        self.0.look(now, can_send)
    }
}
