//! Concurrent copies of blocks, and of states, stay within the bound. A block is copied from a worker that stores it
//! to one that does not, and to each target once at a time.

use dstreams_control::cluster::{ClusterCommand, ClusterEvent};

use super::{Invariant, Scene, Verdict, ensure};

pub struct CopiesBounded;

impl Invariant for CopiesBounded {
    fn name(&self) -> &'static str {
        "copies-bounded"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::Copy { block, from, to } = command else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let held = ledger.held.get(block);
        let holds = |worker| held.is_some_and(|held| held.contains(worker));
        let receives = ledger
            .receivers
            .get(&block.receiver)
            .map(|(worker, _)| worker);
        ensure(holds(from) || receives == Some(from), || {
            format!("block {block} is copied from {from}, but {held:?} store it")
        })?;
        ensure(!holds(to) && from != to, || {
            format!("block {block} is copied to {to}, which stores it")
        })?;
        ensure(!ledger.copying.contains_key(&(*to, *block)), || {
            format!("block {block} is already being copied to {to}")
        })
    }

    fn after(&self, scene: &Scene, _: &ClusterEvent) -> Verdict {
        let (ledger, max_copies) = (scene.ledger, scene.ledger.config.max_concurrent_copies);
        ensure(ledger.copying.len() <= max_copies, || {
            format!(
                "{:?} are copied, at most {max_copies} allowed",
                ledger.copying
            )
        })?;
        let states = ledger.parts.iter().filter(|(_, part)| part.copying);
        ensure(states.clone().count() <= max_copies, || {
            format!(
                "states {:?} are copied, at most {max_copies} allowed",
                states.collect::<Vec<_>>()
            )
        })
    }
}
