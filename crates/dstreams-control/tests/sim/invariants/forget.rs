//! The input of a batch is released after the batch took effect.
//!
//! Once, at once, all of it and nothing else.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct Forget;

impl Invariant for Forget {
    fn name(&self) -> &'static str {
        "forget"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let Command::Forget { batch, blocks } = command else {
            return Ok(());
        };
        // In order and once each: the n-th belongs to the n-th batch that took effect.
        let nth = ledger.forgotten.len();
        let committed = ledger.committed.get(nth).map(|(attempt, _)| attempt.batch);
        ensure(committed == Some(*batch), || {
            format!("{batch} is forgotten, but the turn is that of {committed:?}")
        })?;
        let cut = ledger.cuts[nth].blocks.iter().map(|block| &block.id);
        ensure(cut.eq(blocks), || {
            format!("{batch} is forgotten with blocks {blocks:?}, not those of its cut")
        })
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        let (forgotten, committed) = (ledger.forgotten.len(), ledger.committed.len());
        ensure(forgotten == committed, || {
            format!("{committed} batches took effect, {forgotten} are forgotten")
        })
    }
}
