//! No command follows `Stopped`, which counts what is unfinished. Receivers are closed once, before it, and only
//! with a stop or a failure.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct Stopped;

impl Invariant for Stopped {
    fn name(&self) -> &'static str {
        "stopped"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        ensure(ledger.stopped.is_none(), || {
            format!("{command:?} after Stopped")
        })?;
        match command {
            Command::CloseReceivers => {
                ensure(ledger.closed == 0, || {
                    "receivers are closed again".to_owned()
                })?;
                ensure(ledger.stop.is_some() || ledger.failed.is_some(), || {
                    "receivers are closed for no reason".to_owned()
                })
            }
            Command::Stopped { unfinished } => {
                ensure(ledger.closed == 1, || {
                    "Stopped with open receivers".to_owned()
                })?;
                let cut = ledger.last_sealed && ledger.open.is_none();
                let lacking = cut && !ledger.awaited.is_empty();
                let expected = ledger.seals - ledger.committed.len() as u64 + u64::from(lacking);
                ensure(*unfinished == expected, || {
                    format!("{unfinished} unfinished instead of {expected}")
                })
            }
            _ => Ok(()),
        }
    }
}
