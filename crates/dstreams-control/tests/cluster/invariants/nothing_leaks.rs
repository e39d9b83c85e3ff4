//! Only finished blocks are dropped, and all of them: after a stop no worker stores anything.

use dstreams_control::cluster::{ClusterCommand, InputKind};

use super::{Calm, Invariant, Scene, Verdict, ensure};

pub struct NothingLeaks;

impl Invariant for NothingLeaks {
    fn name(&self) -> &'static str {
        "nothing-leaks"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Drop { worker, blocks } = command else {
            return Ok(());
        };
        ensure(!blocks.is_empty(), || format!("{worker} drops nothing"))?;
        for block in blocks {
            let left = scene.ledger.left.get(&block.receiver);
            let over = scene.ledger.forgotten.contains(block)
                || scene.ledger.lost_blocks.contains(block)
                || left.is_some_and(|left| !left.contains(block));
            ensure(over, || {
                format!("{worker} drops block {block}, which is still needed")
            })?;
        }
        Ok(())
    }

    fn calm(&self, scene: &Scene, calm: Calm) -> Verdict {
        if calm != Calm::Stopped {
            return Ok(());
        }
        for &worker in &scene.ledger.live {
            let held = scene.workers[&worker].held();
            ensure(held.is_empty(), || format!("{worker} stores {held:?}"))?;
        }
        let (blocks, producers) = (
            scene.machine.stored_blocks(),
            scene.machine.remembered_producers(),
        );
        let sources = scene.truth.inputs_of(InputKind::One).count();
        let max_producers = scene.clients.len() + sources;
        ensure(blocks == 0 && producers <= max_producers, || {
            format!("the machine holds {blocks} blocks and {producers} producers")
        })?;
        let known = |receiver| scene.machine.input_of(receiver).is_some();
        let gone = scene
            .ledger
            .left
            .keys()
            .copied()
            .find(|&receiver| known(receiver));
        ensure(gone.is_none(), || {
            format!("{gone:?} is gone but still remembered")
        })
    }
}
