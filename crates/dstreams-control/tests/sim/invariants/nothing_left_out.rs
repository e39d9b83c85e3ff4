//! A cut takes every block reported until then. After an undisturbed graceful stop, each received block is in
//! exactly one cut, and every cut is committed.

use dstreams_control::Command;

use super::{End, Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct NothingLeftOut;

impl Invariant for NothingLeftOut {
    fn name(&self) -> &'static str {
        "nothing-left-out"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let Command::Cut { batch, blocks } = command else {
            return Ok(());
        };
        // `block-once` has checked that they are sorted and were reported.
        let left_out = ledger
            .uncut
            .keys()
            .find(|&id| blocks.binary_search_by_key(id, |block| block.id).is_err());
        ensure(left_out.is_none(), || {
            format!("block {left_out:?} was reported and is not in the cut of {batch}")
        })
    }

    fn end(&self, ledger: &Ledger, end: &End) -> Verdict {
        if !is_complete(ledger, end) {
            return Ok(());
        }
        let left_out = end.received.difference(&ledger.cut_blocks).next();
        ensure(left_out.is_none(), || {
            format!("block {left_out:?} was received and is in no cut")
        })?;
        let (cut, committed) = (ledger.cuts.len(), ledger.committed.len());
        ensure(cut == committed, || {
            format!("{cut} batches were cut, {committed} committed")
        })
    }
}

/// Whether this was an undisturbed graceful stop.
pub fn is_complete(ledger: &Ledger, end: &End) -> bool {
    let graceful = ledger.stop.as_ref().is_some_and(|stop| stop.graceful);
    graceful
        && ledger.all_cut()
        && ledger.failed.is_none()
        && !ledger.deadline_passed()
        && end.reports_behind_last_cut == 0
}
