//! Skipped intervals have no effect: results equal those of a run that skips nothing. Intervals are skipped only if many
//! were missed at once, and then all that have no effect. The controller asks once all earlier batches took effect.

use dstreams_control::{BatchTime, Command, Due};

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct Skips;

impl Invariant for Skips {
    fn name(&self) -> &'static str {
        "skips"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        match command {
            Command::Seal { batch } => nothing_is_lost(ledger, *batch),
            Command::Cut { batch, .. } if ledger.open.is_none() && ledger.is_answered() => {
                let unknown = |due: Due| due.from <= *batch && *batch <= due.to;
                let told = ledger.due.flatten().is_some_and(unknown);
                let marks = ledger.config.mark_intervals && ledger.answered == Some(*batch);
                let idle = !told && !marks && !ledger.is_due(*batch) && ledger.uncut.is_empty();
                ensure(!idle, || format!("{batch} does nothing and is not skipped"))?;
                nothing_is_lost(ledger, *batch)
            }
            Command::AskDue { after } => {
                let last = ledger.cuts.last().map(|cut| cut.batch);
                let pending = ledger.first_pending().map(|cut| cut.batch);
                ensure(last == Some(*after) && pending.is_none(), || {
                    format!("due after {after} is asked; cut last: {last:?}, pending: {pending:?}")
                })?;
                let asked = ledger.asked;
                ensure(ledger.waits_for_due() && asked != Some(*after), || {
                    format!("due after {after} is asked without need; before: {asked:?}")
                })
            }
            _ => Ok(()),
        }
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        let live = ledger.stop.is_none() && ledger.stopped.is_none() && ledger.failed.is_none();
        let ready = live && ledger.waits_for_due() && ledger.first_pending().is_none();
        let last = ledger.cuts.last().map(|cut| cut.batch);
        ensure(!ready || ledger.asked == last, || {
            format!("what is due after {last:?} is not asked")
        })
    }
}

/// Of the intervals from the first one without a batch to before this one.
fn nothing_is_lost(ledger: &Ledger, batch: BatchTime) -> Verdict {
    let interval = ledger.config.interval_ms;
    let Some(first) = ledger.expected.filter(|first| *first < batch) else {
        return Ok(());
    };
    let Some(most) = ledger.config.skip_missed else {
        return Err(format!("{first} is skipped, and each interval counts"));
    };
    let last_missed = ledger.answered.filter(|_| ledger.config.mark_intervals);
    ensure(last_missed.is_none_or(|last| batch <= last), || {
        format!("{batch} follows skipped intervals, of which the last has no batch")
    })?;
    ensure(ledger.uncut.is_empty(), || {
        let block = ledger.uncut.keys().next();
        format!("{first} is skipped, and {block:?} belongs to it")
    })?;
    let last = BatchTime(batch.0 - interval);
    ensure(last.timestamp() <= ledger.sealed_at, || {
        format!("{last} is skipped and had not come at the last Seal")
    })?;
    let missed = ledger.missed;
    ensure(missed > most, || {
        format!("{first} is skipped, and {missed} were missed")
    })?;
    let skipped = (first.0..batch.0).step_by(usize::try_from(interval).unwrap());
    let due = skipped.map(BatchTime).find(|batch| ledger.is_due(*batch));
    ensure(due.is_none(), || format!("{due:?} is skipped, and is due"))
}
