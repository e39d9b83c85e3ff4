//! Every multiple of the interval after the start is sealed and cut once, in order, not before its time (except the
//! last one of a graceful stop) and as soon as its turn comes: not while too many empty batches wait, of which
//! there are never more than the bound. Many that were missed need one `Seal`, and some no batch: see `skips`.

use dstreams_control::Command;

use super::{Invariant, Verdict, ensure};
use crate::ledger::Ledger;

pub struct Boundaries;

impl Invariant for Boundaries {
    fn name(&self) -> &'static str {
        "boundaries"
    }

    fn command(&self, ledger: &Ledger, command: &Command) -> Verdict {
        let open = ledger.open.map(|open| open.batch);
        match command {
            Command::Seal { batch } => {
                ensure(open.is_none(), || {
                    format!("{batch} is sealed while {open:?} is outstanding")
                })?;
                let expected = ledger.next();
                ensure(Some(*batch) == expected, || {
                    format!("{batch} is sealed instead of {expected:?}")
                })?;
                let answered = ledger.answered.filter(|_| ledger.stop.is_none());
                ensure(Some(*batch) > answered, || {
                    format!("{batch} is sealed, and the Seal before was for it too")
                })?;
                ensure(
                    batch.timestamp() <= ledger.now || ledger.stop.is_some(),
                    || format!("{batch} is sealed early, at {}", ledger.now),
                )
            }
            Command::Cut { batch, .. } if open.is_none() && ledger.is_answered() => {
                let expected = ledger.next();
                ensure(Some(*batch) == expected, || {
                    format!("{batch} is cut instead of {expected:?}")
                })
            }
            Command::Cut { batch, .. } => ensure(open == Some(*batch), || {
                format!("{batch} is cut while {open:?} is outstanding")
            }),
            Command::Run { batch, .. } => {
                let waiting = ledger.cuts.iter().filter(|cut| cut.batch >= *batch);
                let empty = waiting.filter(|cut| cut.blocks.is_empty()).count();
                // Those that run, and the one sealed while there was room for it.
                let most = ledger.config.max_empty_waiting.max(1) + ledger.max_running() + 1;
                ensure(empty <= most, || {
                    format!("{empty} batches without blocks wait")
                })
            }
            _ => Ok(()),
        }
    }

    fn after(&self, ledger: &Ledger, commands: &[Command]) -> Verdict {
        let due = ledger.next().filter(|next| next.timestamp() <= ledger.now);
        let idle = !ledger.is_held_back()
            && !ledger.waits_for_due()
            && ledger.open.is_none()
            && ledger.stop.is_none()
            && ledger.stopped.is_none();
        // Where nobody is asked there is one batch per step, or a stall would make a long list.
        let paced = (ledger.receivers.is_empty() || ledger.cut_unasked)
            && commands
                .iter()
                .any(|command| matches!(command, Command::Cut { .. }));
        ensure(due.is_none() || !idle || paced, || {
            format!("{due:?} is due at {} and not sealed", ledger.now)
        })
    }
}
