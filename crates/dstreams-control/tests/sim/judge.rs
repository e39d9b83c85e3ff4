//! [`Judge`]: one step of a machine, recorded in the ledger and checked against every invariant.
//!
//! The first broken invariant ends the run.

use dstreams_control::{Command, Config, Event, Timestamp};

use crate::invariants::{self, End, Verdict};
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::program::Program;

/// An invariant was broken.
#[derive(Debug)]
pub struct Violation {
    pub step: u64,
    pub invariant: &'static str,
    pub detail: String,
}

pub struct Judge {
    pub ledger: Ledger,
    pub steps: u64,
    /// Print every step.
    pub trace: bool,
}

impl Judge {
    pub fn new(config: Config, program: Program, trace: bool) -> Self {
        Self {
            ledger: Ledger::new(config, program),
            steps: 0,
            trace,
        }
    }

    /// Lets `machine` take `event`. `note` gets each command with the ledger as it was before it.
    pub fn step(
        &mut self,
        machine: &mut dyn Machine,
        event: Event,
        now: Timestamp,
        mut note: impl FnMut(&Command, &Ledger),
    ) -> Result<Vec<Command>, Violation> {
        self.steps += 1;
        self.ledger.event(&event, now);
        if self.trace {
            println!("{:>5} {now} {event:?}", self.steps);
        }
        let commands = machine.step(event, now);
        if self.trace {
            println!("      -> {commands:?}");
        }
        for command in &commands {
            for invariant in invariants::all() {
                self.rule(invariant.name(), invariant.command(&self.ledger, command))?;
            }
            note(command, &self.ledger);
            self.ledger.command(command);
        }
        for invariant in invariants::all() {
            self.rule(invariant.name(), invariant.after(&self.ledger, &commands))?;
        }
        Ok(commands)
    }

    /// The judgement over a whole run.
    pub fn end(&self, end: &End) -> Result<(), Violation> {
        invariants::all()
            .iter()
            .try_for_each(|it| self.rule(it.name(), it.end(&self.ledger, end)))
    }

    /// A verdict as a violation.
    pub fn rule(&self, invariant: &'static str, verdict: Verdict) -> Result<(), Violation> {
        verdict.map_err(|detail| Violation {
            step: self.steps,
            invariant,
            detail,
        })
    }
}
