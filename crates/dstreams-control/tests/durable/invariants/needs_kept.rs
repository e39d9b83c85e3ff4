//! Journals without their released entries give the same restart as complete ones.

use dstreams_control::durable::{ReplayError, Restart};

use super::{Invariant, Scene, Verdict, ensure};
use crate::disk::{Journal, decide};
use crate::ledger::Fact;

pub struct NeedsKept;

impl Invariant for NeedsKept {
    fn name(&self) -> &'static str {
        "needs-kept"
    }

    fn check(&self, scene: &Scene, fact: &Fact) -> Verdict {
        if !matches!(fact, Fact::LetGo) {
            return Ok(());
        }
        let newest = scene.checkpoints.last();
        let all = scene.journals.iter().flat_map(Journal::all);
        let kept = scene.journals.iter().flat_map(Journal::kept);
        let (all, kept) = (decide(newest, all), decide(newest, kept));
        let needed = |restart: &Result<Restart, ReplayError>| {
            let restart = restart.as_ref().map_err(ToString::to_string)?;
            let batches = (restart.controller.clone(), restart.committed.clone());
            Ok::<_, String>((batches, restart.offsets.clone(), restart.incarnation))
        };
        let (all, kept) = (needed(&all), needed(&kept));
        ensure(all == kept, || {
            format!("what is left gives {kept:?}, all gives {all:?}")
        })
    }
}
