//! The first batches that are cut and not committed run, as many as may at once; each is started once, in order.
//! Attempts count from 1; the next follows a retryable failure of the current one, up to the bound, or the setting
//! aside of the batch, which resets the bound. No batch waits while there is room.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::{Ledger, Outcome};

pub struct Runs;

impl Invariant for Runs {
    fn name(&self) -> &'static str {
        "runs"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let Command::Run { batch, attempt } = command else {
            return Ok(());
        };
        let current = ledger.attempts.get(batch);
        if *attempt == 1 {
            let others = &ledger.attempts;
            let room = others.len() < ledger.max_running();
            ensure(current.is_none() && room, || {
                format!("{batch} is run beside {others:?}")
            })?;
            let next = ledger.next_to_run();
            return ensure(next == Some(*batch), || {
                format!("{batch} is run, but the next is {next:?}")
            });
        }
        let repeats = current.is_some_and(|now| {
            let commits = ledger.commit.is_some_and(|commit| commit.batch == *batch);
            let failed = matches!(
                now.outcome,
                Some(Outcome::Failed {
                    retryable: true,
                    ..
                })
            );
            let failed = failed || now.waits_for_its_run();
            now.attempt + 1 == *attempt && failed && !commits
        });
        let before = current.and_then(|now| now.set_aside).unwrap_or(0);
        let tries = *attempt - before;
        ensure(repeats && tries <= ledger.config.max_attempts, || {
            format!("attempt {attempt} of {batch} is run after {current:?}")
        })
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        let may_run = ledger.stopped.is_none() && !ledger.stop_is_abrupt();
        let room = ledger.attempts.len() < ledger.max_running();
        match ledger.next_to_run().filter(|_| may_run && room) {
            Some(batch) => Err(format!("{batch} waits and there is room")),
            None => Ok(()),
        }
    }
}
