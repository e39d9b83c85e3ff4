//! One batch runs at a time: the first that is cut and not committed. Attempts count from 1; the next follows a
//! retryable failure of the current one, up to the bound. No batch waits while none runs.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::{Ledger, Outcome};

pub struct OneRun;

impl Invariant for OneRun {
    fn name(&self) -> &'static str {
        "one-run"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let Command::Run { batch, attempt } = command else {
            return Ok(());
        };
        let current = ledger.attempt;
        if *attempt == 1 {
            ensure(current.is_none(), || {
                format!("{batch} is run beside {current:?}")
            })?;
            let first = ledger.first_pending().map(|cut| cut.batch);
            return ensure(first == Some(*batch), || {
                format!("{batch} is run, but the first pending is {first:?}")
            });
        }
        let failed = Some(Outcome::Failed { retryable: true });
        let repeats = current.is_some_and(|now| {
            (now.batch, now.attempt + 1, now.outcome) == (*batch, *attempt, failed)
                && ledger.commit.is_none()
        });
        ensure(repeats && *attempt <= ledger.config.max_attempts, || {
            format!("attempt {attempt} of {batch} is run after {current:?}")
        })
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        let may_run = ledger.stopped.is_none() && !ledger.stop_is_abrupt();
        let idle = ledger.attempt.is_none();
        match ledger.first_pending().filter(|_| may_run && idle) {
            Some(cut) => Err(format!("{} waits and nothing runs", cut.batch)),
            None => Ok(()),
        }
    }
}
