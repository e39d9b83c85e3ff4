//! The invariants, one per file.
//!
//! Each command is judged against the ledger as it was before it. More is checked after the last command of a step
//! (missing commands), at each cut of the controller, and whenever nothing is in progress.

mod acked_once;
mod block_lost;
mod complete_standby;
mod copies_bounded;
mod copies_restored;
mod drained;
mod inputs_covered;
mod known_last;
mod losses_told;
mod lost_left_alone;
mod newest_claim;
mod nothing_leaks;
mod nothing_waits;
mod one_owner;
mod producer_once;
mod ring;
mod spread;
mod state_lost;
mod survivors;
mod two_copies;
mod two_parts;

use std::collections::{BTreeMap, BTreeSet};

use dstreams_control::BlockMeta;
use dstreams_control::cluster::{Cluster, ClusterCommand, ClusterEvent, WorkerId};

use crate::ledger::Ledger;
use crate::world::{Client, Truth, Worker};

/// `Err` says what is wrong.
pub type Verdict = Result<(), String>;

/// The ledger, and the true state of the world.
pub struct Scene<'a> {
    pub ledger: &'a Ledger,
    pub workers: &'a BTreeMap<WorkerId, Worker>,
    pub truth: &'a Truth,
    pub clients: &'a [Client],
    pub machine: &'a Cluster,
}

/// A time when nothing is in progress.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Calm {
    /// Every record is acknowledged; no batch runs.
    EngineStands,
    /// All batches but the newest are committed.
    EngineRuns,
    /// After a graceful stop.
    Stopped,
}

pub trait Invariant {
    /// Its name in failures.
    fn name(&self) -> &'static str;

    /// Before `command` is recorded; its event and the earlier commands of the step are.
    fn command(&self, _scene: &Scene, _command: &ClusterCommand) -> Verdict {
        Ok(())
    }

    /// After the step of an event.
    fn after(&self, _scene: &Scene, _event: &ClusterEvent) -> Verdict {
        Ok(())
    }

    /// Before the blocks of a cut are recorded.
    fn cut(&self, _scene: &Scene, _blocks: &[BlockMeta]) -> Verdict {
        Ok(())
    }

    /// When a batch is about to be committed; the workers in `behind` could not get its changes, or those of one
    /// before it.
    fn finished(&self, _scene: &Scene, _behind: &BTreeSet<(u32, WorkerId)>) -> Verdict {
        Ok(())
    }

    /// When nothing is in progress.
    fn calm(&self, _scene: &Scene, _calm: Calm) -> Verdict {
        Ok(())
    }
}

/// All invariants. Where one command breaks several, the first is reported.
pub fn all() -> &'static [&'static dyn Invariant] {
    &[
        &lost_left_alone::LostLeftAlone,
        &one_owner::OneOwner,
        &newest_claim::NewestClaim,
        &known_last::KnownLast,
        &two_copies::TwoCopies,
        &two_parts::TwoParts,
        &complete_standby::CompleteStandby,
        &state_lost::StateLost,
        &copies_bounded::CopiesBounded,
        &ring::Ring,
        &drained::Drained,
        &block_lost::BlockLost,
        &losses_told::LossesTold,
        &survivors::Survivors,
        &nothing_leaks::NothingLeaks,
        &copies_restored::CopiesRestored,
        &inputs_covered::InputsCovered,
        &nothing_waits::NothingWaits,
        &spread::Spread,
        &producer_once::ProducerOnce,
        &acked_once::AckedOnce,
    ]
}

/// `Err` with the text unless `holds`.
pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(text()) }
}
