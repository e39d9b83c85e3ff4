//! Each batch that took effect is reported to listeners.
//!
//! Once, at once, with the right numbers.

use dstreams_control::{BatchReport, Command};

use super::{Invariant, Verdict, ensure};
use crate::ledger::{Ledger, Outcome};

pub struct Completed;

impl Invariant for Completed {
    fn name(&self) -> &'static str {
        "completed"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let Command::Completed(report) = command else {
            return Ok(());
        };
        ensure(
            ledger.completed + 1 == ledger.committed.len() as u64,
            || format!("{report:?} is one too many"),
        )?;
        let expected = expected(ledger);
        ensure(expected.as_ref() == Some(report), || {
            format!("{report:?} instead of {expected:?}")
        })
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        let (completed, committed) = (ledger.completed, ledger.committed.len());
        ensure(completed == committed as u64, || {
            format!("{committed} batches took effect, {completed} are reported")
        })
    }
}

fn expected(ledger: &Ledger) -> Option<BatchReport> {
    let (attempt, committed_at) = *ledger.committed.last()?;
    let cut = &ledger.cuts[ledger.committed.len() - 1];
    let Some(Outcome::Finished { at }) = attempt.outcome else {
        return None;
    };
    let rows = cut.blocks.iter().map(|block| block.rows).sum();
    let (records, set_aside) = match attempt.set_aside {
        Some(_) => (0, rows),
        None => (rows, 0),
    };
    let mut report = BatchReport::of(cut.batch);
    report.attempts = attempt.attempt;
    report.records = records;
    report.set_aside = set_aside;
    report.bytes = cut.blocks.iter().map(|block| block.bytes).sum();
    report.cut_at = cut.at;
    report.first_started_at = attempt.first_started_at;
    report.started_at = attempt.started_at;
    report.finished_at = at;
    report.committed_at = committed_at;
    Some(report)
}
