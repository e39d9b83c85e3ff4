//! A cut comes when every receiver has reported for it or the timeout has passed, neither earlier nor later. The
//! last cut of a graceful stop waits for overdue reports too, with a timeout of its own.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::{Ledger, Open};

pub struct CutWaits;

impl Invariant for CutWaits {
    fn name(&self) -> &'static str {
        "cut-waits"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        match (command, ledger.open) {
            (Command::Cut { batch, .. }, Some(open)) => ensure(is_ready(ledger, open), || {
                format!("{batch} is cut without waiting for {:?}", ledger.awaited)
            }),
            _ => Ok(()),
        }
    }

    fn after(&self, ledger: &Ledger, _: &[Command]) -> Verdict {
        let must_cut = ledger.stopped.is_none() && !ledger.stop_is_abrupt();
        match ledger.open.filter(|_| must_cut) {
            Some(open) => ensure(!is_ready(ledger, open), || {
                format!("{} is ready and not cut", open.batch)
            }),
            None => Ok(()),
        }
    }
}

fn is_ready(ledger: &Ledger, open: Open) -> bool {
    let asked = |batch| open.last || batch == open.batch;
    let missing = ledger.awaited.iter().any(|&(batch, _)| asked(batch));
    !missing || ledger.forward >= ledger.cut_until(open)
}
