//! No more copies of blocks, and of states, are under way at once than allowed. A copy goes from one who holds it to
//! one who does not, and each once at a time.

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
            format!("block {block} is copied from {from}; {held:?} hold it")
        })?;
        ensure(!holds(to) && from != to, || {
            format!("block {block} is copied to {to}, who holds it")
        })?;
        ensure(!ledger.copying.contains_key(&(*to, *block)), || {
            format!("block {block} is copied to {to} already")
        })
    }

    fn after(&self, scene: &Scene, _: &ClusterEvent) -> Verdict {
        let (ledger, most) = (scene.ledger, scene.ledger.config.max_copying);
        ensure(ledger.copying.len() <= most, || {
            format!("{:?} are copied, {most} may be", ledger.copying)
        })?;
        let states = ledger.parts.iter().filter(|(_, part)| part.copying);
        ensure(states.clone().count() <= most, || {
            format!(
                "states {:?} are copied, {most} may be",
                states.collect::<Vec<_>>()
            )
        })
    }
}
