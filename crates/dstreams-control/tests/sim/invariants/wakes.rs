//! A timer runs whenever time alone will make something due: the next boundary, the end of the wait for reports,
//! the deadline of a stop. It is set for exactly then, and set again if a `Tick` used it up too early.

use dstreams_control::{Command, Timestamp};

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct Wakes;

impl Invariant for Wakes {
    fn name(&self) -> &'static str {
        "wakes"
    }

    fn after(&self, ledger: &Ledger, commands: &[Command]) -> Verdict {
        let Some(due) = due(ledger).filter(|_| ledger.stopped.is_none()) else {
            return Ok(());
        };
        let timer = ledger.timer;
        ensure(timer.is_some_and(|timer| timer <= due), || {
            format!("something is due at {due}, and the timer is {timer:?}")
        })?;
        let set = commands
            .iter()
            .any(|command| matches!(command, Command::WakeAt(_)));
        ensure(!set || timer == Some(due), || {
            format!("the timer is set to {timer:?} for {due}")
        })
    }
}

/// The clock reading at which time alone makes something due.
fn due(ledger: &Ledger) -> Option<Timestamp> {
    let at = |forward: u64| Timestamp(ledger.now.0 + forward.saturating_sub(ledger.forward));
    let deadline = ledger.stop.as_ref().and_then(|stop| stop.deadline).map(at);
    let intake = match ledger.open {
        _ if ledger.stop_is_abrupt() => None,
        Some(open) if open.last && !open.stopped_waiting => Some(at(open.sources_until)),
        Some(open) => Some(at(ledger.cut_until(open))),
        None if ledger.is_held_back() || ledger.waits_for_due() => None,
        None if ledger.stop.is_none() => ledger.next().map(|next| next.timestamp()),
        None => None,
    };
    [deadline, intake].into_iter().flatten().min()
}
