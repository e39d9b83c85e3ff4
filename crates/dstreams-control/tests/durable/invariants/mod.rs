//! The invariants, one per file.
//!
//! Each fact is judged against the ledger as it was before it, and against the disks.

mod acked_kept;
mod acked_once;
mod batch_fixed;
mod block_named_once;
mod contiguous;
mod effect_synced;
mod needs_kept;
mod nothing_leaks;
mod output_once;
mod record_once;
mod restart_possible;
mod safe_synced;
mod set_aside_stays;
mod state_folds;

use crate::disk::{Checkpoint, Journal};
use crate::ledger::{Fact, Ledger};

/// `Err` describes the violation.
pub type Verdict = Result<(), String>;

/// A fact, and the disks.
pub struct Scene<'a> {
    pub ledger: &'a Ledger,
    pub journals: &'a [Journal],
    pub checkpoints: &'a [Checkpoint],
}

pub trait Invariant {
    /// Its name in failures.
    fn name(&self) -> &'static str;

    /// Before `fact` is recorded.
    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict;
}

/// All of them. Where several are broken at once, the first is named.
pub fn all() -> &'static [&'static dyn Invariant] {
    &[
        &restart_possible::RestartPossible,
        &block_named_once::BlockNamedOnce,
        &safe_synced::SafeSynced,
        &effect_synced::EffectSynced,
        &batch_fixed::BatchFixed,
        &contiguous::Contiguous,
        &record_once::RecordOnce,
        &set_aside_stays::SetAsideStays,
        &state_folds::StateFolds,
        &output_once::OutputOnce,
        &needs_kept::NeedsKept,
        &acked_kept::AckedKept,
        &acked_once::AckedOnce,
        &nothing_leaks::NothingLeaks,
    ]
}

/// `Err` with the text unless `holds`.
pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(text()) }
}
