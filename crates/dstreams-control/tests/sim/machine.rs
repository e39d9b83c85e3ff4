//! [`Machine`]: the state machine that the world drives.
//!
//! The controller, or a sabotaged one.

use dstreams_control::{Command, Controller, Event, Timestamp};

pub trait Machine {
    fn step(&mut self, event: Event, now: Timestamp) -> Vec<Command>;
}

impl Machine for Controller {
    fn step(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        Controller::step(self, event, now)
    }
}
