//! A receiver is gone once every worker has answered, with exactly its surviving blocks, except those after one that
//! was never stored; no other block of it is cut afterwards.

use dstreams_control::BlockMeta;
use dstreams_control::cluster::{ClusterCommand, ClusterEvent};

use super::{Invariant, Scene, Verdict, ensure};
use crate::world::Worker;

pub struct Survivors;

impl Invariant for Survivors {
    fn name(&self) -> &'static str {
        "survivors"
    }

    fn command(&self, scene: &Scene, command: &ClusterCommand) -> Verdict {
        let ClusterCommand::ReceiverLost { receiver, blocks } = command else {
            return Ok(());
        };
        let ledger = scene.ledger;
        let worker = ledger.receivers.get(receiver).map(|&(worker, _)| worker);
        let silent = worker.and_then(|worker| ledger.fences.get(&worker));
        ensure(silent.is_some_and(|silent| silent.is_empty()), || {
            format!("receiver {receiver} of {worker:?} is gone, but {silent:?} have not answered")
        })?;
        ensure(!ledger.left.contains_key(receiver), || {
            format!("receiver {receiver} is gone again")
        })?;
        ensure(blocks.is_sorted_by(|a, b| a.id < b.id), || {
            format!("not sorted: {blocks:?}")
        })?;
        for block in blocks {
            let holds = |worker: &Worker| !worker.given_up && worker.store.contains_key(&block.id);
            let survives = block.id.receiver == *receiver
                && !ledger.forgotten.contains(&block.id)
                && scene.workers.values().any(holds);
            ensure(survives, || format!("block {} does not survive", block.id))?;
        }
        let gap = blocks.iter().find(|block| !ledger.follows(block.id));
        ensure(gap.is_none(), || format!("{gap:?} was not acknowledged"))?;
        let held = scene.workers.values().filter(|worker| !worker.given_up);
        let mut held = held.flat_map(|worker| &worker.store);
        let forgotten = held.find(|(id, held)| {
            id.receiver == *receiver
                && held.counts
                && !ledger.forgotten.contains(id)
                && !ledger.lost_blocks.contains(id)
                && ledger.follows(**id)
                && blocks.binary_search_by_key(*id, |block| block.id).is_err()
        });
        ensure(forgotten.is_none(), || {
            format!("block {:?} survives too", forgotten.map(|(id, _)| id))
        })
    }

    fn after(&self, scene: &Scene, event: &ClusterEvent) -> Verdict {
        if !matches!(
            event,
            ClusterEvent::Fenced { .. } | ClusterEvent::Lost { .. }
        ) {
            return Ok(());
        }
        let ledger = scene.ledger;
        let over = ledger.receivers.iter().find(|(receiver, (worker, _))| {
            let fenced = ledger
                .fences
                .get(worker)
                .is_some_and(|silent| silent.is_empty());
            fenced && !ledger.left.contains_key(receiver)
        });
        ensure(over.is_none(), || format!("{over:?} should be gone"))
    }

    fn cut(&self, scene: &Scene, blocks: &[BlockMeta]) -> Verdict {
        for block in blocks {
            let left = scene.ledger.left.get(&block.id.receiver);
            // The controller hears one by one of receivers that go together, and may cut in between.
            let survives = left.is_none_or(|left| left.contains(&block.id))
                || scene.ledger.lost_blocks.contains(&block.id);
            ensure(survives, || {
                format!("block {} is cut but did not survive its receiver", block.id)
            })?;
        }
        Ok(())
    }
}
