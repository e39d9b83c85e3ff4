//! [`Judge`]: checks what happens against every invariant, and records it in the ledger.
//!
//! The first broken invariant ends the run.

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
    /// Judge by this invariant alone.
    pub only: Option<&'static str>,
    /// The first violation.
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

    /// Reports a broken invariant, if it is judged.
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
