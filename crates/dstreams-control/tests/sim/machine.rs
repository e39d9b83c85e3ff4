//! [`Machine`]: what the world drives.
//!
//! It is the controller, or a controller that was tampered with.

use dstreams_control::{Command, Controller, Event, Timestamp};

pub trait Machine {
    fn step(&mut self, event: Event, now: Timestamp) -> Vec<Command>;
}

impl Machine for Controller {
    fn step(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        Controller::step(self, event, now)
    }
}
