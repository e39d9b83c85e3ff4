//! The invariants, one per file.
//!
//! Each command is judged against the ledger as it was before it; after a step's last command, missing commands are
//! found too; at the end, the whole run is judged.

mod block_once;
mod boundaries;
mod commit_once;
mod completed;
mod cut_waits;
mod failed;
mod forget;
mod nothing_left_out;
mod runs;
mod set_aside;
mod skips;
mod stopped;
mod stopping;
mod wakes;

use std::collections::BTreeSet;

use dstreams_control::{BlockId, Command};

use crate::ledger::Ledger;
pub use nothing_left_out::is_complete;

/// `Err` describes the violation.
pub type Verdict = Result<(), String>;

/// The world's view of a finished run.
pub struct End<'a> {
    pub received: &'a BTreeSet<BlockId>,
    /// Reports in flight when the last cut was made.
    pub reports_behind_last_cut: usize,
}

pub trait Invariant {
    /// Its name in failures.
    fn name(&self) -> &'static str;

    /// Before `command` is recorded; its event and the earlier commands of the step are.
    fn command(&self, _ledger: &Ledger, _command: &Command) -> Verdict {
        Ok(())
    }

    /// After a step.
    fn after(&self, _ledger: &Ledger, _commands: &[Command]) -> Verdict {
        Ok(())
    }

    /// After the last step.
    fn end(&self, _ledger: &Ledger, _end: &End) -> Verdict {
        Ok(())
    }
}

/// All of them. Where one command breaks several, the first is named.
pub fn all() -> &'static [&'static dyn Invariant] {
    &[
        &stopped::Stopped,
        &failed::Failed,
        &stopping::Stopping,
        &skips::Skips,
        &boundaries::Boundaries,
        &cut_waits::CutWaits,
        &block_once::BlockOnce,
        &nothing_left_out::NothingLeftOut,
        &runs::Runs,
        &set_aside::SetAside,
        &commit_once::CommitOnce,
        &completed::Completed,
        &forget::Forget,
        &wakes::Wakes,
    ]
}

/// `Err` with the text unless `holds`.
pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(text()) }
}
