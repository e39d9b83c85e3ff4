//! A block is lost when nobody holds it, and that is said once.

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
            format!("block {block} is lost again, or forgotten")
        })?;
        let holds = |worker: &&Worker| {
            worker.is_in() && worker.store.get(block).is_some_and(|held| held.counts)
        };
        let holder = scene.workers.values().find(holds).map(|worker| worker.id);
        ensure(holder.is_none(), || {
            format!("block {block} is lost, {holder:?} holds it")
        })
    }

    fn after(&self, scene: &Scene, _: &ClusterEvent) -> Verdict {
        // What is given up is not said to be held.
        let lost = scene.ledger.lost_blocks.iter();
        let held = lost
            .copied()
            .find(|&block| !scene.machine.holders(block).is_empty());
        ensure(held.is_none(), || {
            format!("block {held:?} is lost and held")
        })
    }
}
