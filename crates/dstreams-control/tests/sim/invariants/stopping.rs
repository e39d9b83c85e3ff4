//! A stop follows its kind. Graceful: one more seal, at once after the outstanding one, then `Stopped` when all is
//! committed; sources are waited for no longer when they have had their time. Abrupt, or at the deadline: running
//! attempts are aborted, nothing new begins, and only a commit in progress is waited for, until the deadline at
//! most.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::{Ledger, Open};

pub struct Stopping;

impl Invariant for Stopping {
    fn name(&self) -> &'static str {
        "stopping"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let over = ledger.stop_is_abrupt() || ledger.deadline_passed();
        match command {
            Command::Seal { .. } => ensure(!over && !ledger.last_sealed, || {
                format!("{command:?} after the last seal or a stop")
            }),
            Command::StopWaiting { batch } => {
                let due = |open: &Open| {
                    open.last
                        && !open.stopped_waiting
                        && open.batch == *batch
                        && open.sources_until <= ledger.forward
                };
                ensure(!over && ledger.open.as_ref().is_some_and(due), || {
                    format!("{command:?} that is not due")
                })
            }
            Command::Cut { .. } | Command::Run { .. } | Command::SetAside { .. } => {
                ensure(!over, || {
                    format!("{command:?} after an abrupt stop or the deadline")
                })
            }
            Command::Commit { .. } => {
                let repeats = ledger.commit.is_some() && !ledger.deadline_passed();
                ensure(!over || repeats, || {
                    format!("{command:?} after an abrupt stop or the deadline")
                })
            }
            Command::Abort { batch, attempt } => {
                let runs = ledger
                    .attempts
                    .get(batch)
                    .filter(|now| ledger.commit.is_none_or(|commit| commit.batch != now.batch))
                    .map(|now| now.attempt);
                let over = over || ledger.failed.is_some();
                ensure(over && runs == Some(*attempt), || {
                    format!("{command:?} while attempt {runs:?} runs")
                })
            }
            Command::Stopped { .. } => {
                let mut attempts = ledger.attempts.values();
                let running = attempts.find(|now| now.outcome.is_none());
                ensure(running.is_none(), || {
                    format!("Stopped without aborting {running:?}")
                })?;
                let over = ledger.failed.is_some() || ledger.deadline_passed();
                ensure(over || is_finished(ledger), || {
                    "Stopped too early".to_owned()
                })
            }
            _ => Ok(()),
        }
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        if ledger.stop.is_none() || ledger.stopped.is_some() {
            return Ok(());
        }
        ensure(ledger.closed == 1, || {
            "receivers are open after a stop".to_owned()
        })?;
        ensure(!ledger.deadline_passed(), || {
            "the deadline has passed".to_owned()
        })?;
        ensure(!is_finished(ledger), || {
            "nothing is left to wait for".to_owned()
        })?;
        let late = |open: &Open| {
            open.last && !open.stopped_waiting && open.sources_until <= ledger.forward
        };
        let late = !ledger.stop_is_abrupt() && ledger.open.as_ref().is_some_and(late);
        ensure(!late, || "sources are waited for too long".to_owned())?;
        let sealing = ledger.last_sealed || ledger.open.is_some() || ledger.stop_is_abrupt();
        ensure(sealing, || {
            "the last batch is not sealed at once".to_owned()
        })
    }
}

/// Whether everything the stop waits for is done, the deadline apart.
fn is_finished(ledger: &Ledger) -> bool {
    if ledger.stop_is_abrupt() {
        return ledger.commit.is_none();
    }
    ledger.stop.is_some() && ledger.all_cut() && ledger.first_pending().is_none()
}
