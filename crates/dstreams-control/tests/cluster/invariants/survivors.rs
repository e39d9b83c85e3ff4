//! A receiver is gone once every worker has answered, and its worker's journal was read if need be, with exactly its surviving blocks, except those after one that
//! was never stored; no other block of it is cut afterwards.

use dstreams_control::cluster::{ClusterCommand, ClusterEvent};
use dstreams_control::{BlockId, BlockMeta};

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
        let reads = worker.is_some_and(|worker| ledger.adopting.contains(&worker));
        ensure(!reads, || {
            format!("receiver {receiver} is gone, but the journal of {worker:?} was not read")
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
                && (scene.workers.values().any(holds) || ledger.adopted_blocks.contains(&block.id));
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
        })?;
        let id = |seq| BlockId {
            receiver: *receiver,
            seq,
        };
        let mut adopted = ledger.adopted_blocks.range(id(0)..=id(u64::MAX));
        let left_out = adopted.find(|id| {
            !ledger.forgotten.contains(id)
                && blocks.binary_search_by_key(*id, |block| block.id).is_err()
        });
        ensure(left_out.is_none(), || {
            format!("block {left_out:?} was in the journal and survives too")
        })
    }

    fn after(&self, scene: &Scene, event: &ClusterEvent) -> Verdict {
        if !matches!(
            event,
            ClusterEvent::Fenced { .. } | ClusterEvent::Lost { .. } | ClusterEvent::Adopted { .. }
        ) {
            return Ok(());
        }
        let ledger = scene.ledger;
        let over = ledger.receivers.iter().find(|(receiver, (worker, _))| {
            let fenced = ledger
                .fences
                .get(worker)
                .is_some_and(|silent| silent.is_empty());
            fenced && !ledger.adopting.contains(worker) && !ledger.left.contains_key(receiver)
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
