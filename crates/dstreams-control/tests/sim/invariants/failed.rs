//! A batch that is not set aside is given up after a non-retryable failure or the last try, when all before it took
//! effect, and only then; with it everything stops: no later seal, cut, run or commit.

use dstreams_control::{BatchTime, Command};

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct Failed;

impl Invariant for Failed {
    fn name(&self) -> &'static str {
        "failed"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        match command {
            Command::Fail { batch, attempts } => {
                let lost = lost(ledger);
                ensure(
                    lost == Some((*batch, *attempts)) && ledger.failed.is_none(),
                    || {
                        format!(
                            "{batch} is given up after {attempts} attempts; by the rules, {lost:?}"
                        )
                    },
                )
            }
            Command::Seal { .. }
            | Command::Cut { .. }
            | Command::Run { .. }
            | Command::SetAside { .. }
            | Command::Commit { .. } => ensure(ledger.failed.is_none(), || {
                format!("{command:?} after Fail")
            }),
            _ => Ok(()),
        }
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        ensure(ledger.failed.is_none() || ledger.stopped.is_some(), || {
            "Fail and not Stopped".to_owned()
        })?;
        let lost = lost(ledger).filter(|_| ledger.stopped.is_none());
        ensure(lost.is_none(), || format!("{lost:?} should be given up"))
    }
}

/// The batch that must be given up, and its attempts.
fn lost(ledger: &Ledger) -> Option<(BatchTime, u32)> {
    let most = ledger.config.max_attempts;
    let attempt = ledger.first_attempt()?;
    let refused = ledger.setting_aside == Some((attempt.batch, true));
    let run_lost = ledger
        .lost()
        .is_some_and(|lost| refused || !ledger.may_be_set_aside(&lost));
    let commit_lost = ledger.commit.is_some_and(|commit| {
        commit
            .failed
            .is_some_and(|retryable| !retryable || commit.tries >= most)
    });
    (run_lost || commit_lost).then_some((attempt.batch, attempt.attempt))
}
