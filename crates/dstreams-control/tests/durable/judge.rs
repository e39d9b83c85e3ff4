//! [`Judge`]: what happens, held against every invariant and recorded in the ledger.
//!
//! The first invariant that is broken ends the run.

use crate::disk::{Checkpoint, Journal};
use crate::invariants::{self, Scene};
use crate::ledger::{Fact, Ledger};

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
    /// Judge by this one alone.
    pub only: Option<&'static str>,
    /// What was broken first.
    pub broken: Option<Violation>,
}

impl Judge {
    pub fn new(clients: usize, trace: bool, only: Option<&'static str>) -> Self {
        Self {
            ledger: Ledger::new(clients),
            steps: 0,
            trace,
            only,
            broken: None,
        }
    }

    pub fn fact(&mut self, fact: Fact, journals: &[Journal], checkpoints: &[Checkpoint]) {
        let scene = Scene {
            ledger: &self.ledger,
            journals,
            checkpoints,
        };
        let broken: Vec<_> = invariants::all()
            .iter()
            .filter_map(|it| Some((it.name(), it.check(&scene, &fact).err()?)))
            .collect();
        for (invariant, detail) in broken {
            self.broken(invariant, detail);
        }
        self.ledger.record(fact);
    }

    /// An invariant is broken, if it is judged by.
    pub fn broken(&mut self, invariant: &'static str, detail: String) {
        if self.only.is_some_and(|only| only != invariant) {
            return;
        }
        let step = self.steps;
        self.broken.get_or_insert(Violation {
            step,
            invariant,
            detail,
        });
    }
}
