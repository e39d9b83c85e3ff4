//! A batch whose attempts failed for good, the last one because of its content, is set aside when all before it
//! took effect, while fewer than the bound are: once, at once, and only then. Next comes a run of it, and no effect
//! of it is visible before.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct SetAside;

impl Invariant for SetAside {
    fn name(&self) -> &'static str {
        "set-aside"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let asked = ledger.setting_aside;
        match command {
            Command::SetAside { batch, attempts } => {
                let lost = ledger.lost().filter(|lost| ledger.may_be_set_aside(lost));
                let fits =
                    lost.is_some_and(|lost| (lost.batch, lost.attempt) == (*batch, *attempts));
                ensure(fits && asked.is_none(), || {
                    format!("{command:?}, and lost is {lost:?}, asked {asked:?}")
                })
            }
            Command::Commit { batch, .. } => {
                ensure(asked.is_none_or(|asked| asked.0 != *batch), || {
                    format!("{command:?} while it is set aside")
                })
            }
            _ => Ok(()),
        }
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        if ledger.stopped.is_some() || ledger.stop_is_abrupt() {
            return Ok(());
        }
        let lost = ledger.lost().filter(|lost| ledger.may_be_set_aside(lost));
        ensure(lost.is_none() || ledger.setting_aside.is_some(), || {
            format!("{lost:?} should be set aside")
        })?;
        let waits = ledger.attempts.values().find(|now| now.waits_for_its_run());
        ensure(waits.is_none(), || {
            format!("{waits:?} is set aside and not run")
        })
    }
}
