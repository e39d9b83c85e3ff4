//! A block is lost when no worker stores it, and that is reported once. None is lost where workers have journals.

use dstreams_control::cluster::{ClusterCommand, ClusterEvent};

use super::{Invariant, Scene, Verdict, ensure};
use crate::world::Worker;

pub struct BlockLost;

impl Invariant for BlockLost {
    fn name(&self) -> &'static str {
        "block-lost"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::BlockLost { block } = command else {
            return Ok(());
        };
        let over =
            scene.ledger.lost_blocks.contains(block) || scene.ledger.forgotten.contains(block);
        ensure(!over, || {
            format!("block {block} is lost again, or was forgotten")
        })?;
        let journal = |worker: &Worker| worker.journal.contains_key(block);
        let on_disk = scene.ledger.config.journals && scene.workers.values().any(journal);
        ensure(!on_disk, || {
            format!("block {block} is lost, but in a journal")
        })?;
        let holds = |worker: &&Worker| {
            worker.is_in() && worker.store.get(block).is_some_and(|held| held.counts)
        };
        let worker = scene.workers.values().find(holds).map(|worker| worker.id);
        ensure(worker.is_none(), || {
            format!("block {block} is lost, but {worker:?} stores it")
        })
    }

    fn after(&self, scene: &Scene, _: &ClusterEvent) -> Verdict {
        // A block that was given up has no holders.
        let lost = scene.ledger.lost_blocks.iter();
        let held = lost
            .copied()
            .find(|&block| !scene.machine.stored_on(block).is_empty());
        ensure(held.is_none(), || {
            format!("block {held:?} is lost but has holders")
        })
    }
}
