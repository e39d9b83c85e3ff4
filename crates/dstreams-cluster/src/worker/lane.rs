//! The way of one receiver's blocks, from sealed to safe: its lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dstreams::cluster::{Block, Intake};
use dstreams_control::BatchTime;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::epoch::Epoch;
use crate::crash::point;
use crate::link::{HeldBlock, ToMaster};

/// How long records wait for more of them before their block is sealed and copied: an
/// acknowledgement is that much later, and there are so many fewer blocks.
const LINGER: Duration = Duration::from_millis(1);
/// Copies of one receiver on their way at once.
const COPYING: usize = 4;
/// Pause before a copy that failed is tried again, with the peer of then.
const AGAIN: Duration = Duration::from_millis(20);

/// Asks a lane to seal for a batch; it answers the master.
pub struct Seal {
    pub batch: BatchTime,
    pub last: bool,
}

/// Runs the lane of a receiver until its last seal.
pub async fn run(
    epoch: Arc<Epoch>,
    input: u32,
    intake: Arc<Intake>,
    mut seals: mpsc::UnboundedReceiver<Seal>,
) {
    let mut unreported = Vec::new();
    loop {
        let seal = tokio::select! {
            biased;
            seal = seals.recv() => match seal {
                Some(seal) => Some(seal),
                None => return,
            },
            () = intake.fresh() => {
                tokio::time::sleep(LINGER).await;
                None
            }
        };
        let last = seal.as_ref().is_some_and(|seal| seal.last);
        let blocks = match last {
            true => intake.seal_last(),
            false => intake.seal(),
        };
        if let Some(newest) = blocks.last() {
            point("receive:sealed");
            let safe = newest.meta.id.seq + 1;
            unreported.extend(blocks.iter().map(|block| block.meta));
            replicate(&epoch, input, &blocks).await;
            point("replicate:told");
            intake.set_safe(safe);
        }
        if let Some(Seal { batch, .. }) = seal {
            epoch.link.say(&ToMaster::Reported {
                batch,
                receiver: intake.receiver(),
                blocks: std::mem::take(&mut unreported),
            });
        }
        if last {
            return;
        }
    }
}

/// Holds the blocks, has a peer hold them, and tells the master.
async fn replicate(epoch: &Epoch, input: u32, blocks: &[Arc<Block>]) {
    for block in blocks {
        epoch.hold(Arc::clone(block)).await;
    }
    point("replicate:held");
    let alone = AtomicBool::new(false);
    futures::stream::iter(blocks)
        .for_each_concurrent(COPYING, |block| copy(epoch, block, &alone))
        .await;
    point("replicate:copied");
    let blocks = blocks.iter().map(|block| held(input, block));
    epoch.link.say(&ToMaster::Stored {
        blocks: blocks.collect(),
    });
    if alone.into_inner() {
        // A peer refuses what comes after this worker was given up. Without one it is the master who
        // must not have done so.
        epoch.heard().await;
    }
}

/// Returns when the peer holds the block, or when there is no peer: then `alone` is set.
async fn copy(epoch: &Epoch, block: &Arc<Block>, alone: &AtomicBool) {
    loop {
        let peer = epoch.peer.borrow().clone();
        let Some((peer, address)) = peer else {
            return alone.store(true, Ordering::Relaxed);
        };
        match epoch.send_copy(block, &address).await {
            Ok(()) => return,
            Err(status) => {
                let block = block.meta.id;
                tracing::debug!(%block, peer, %status, "not copied yet");
                let mut peers = epoch.peer.subscribe();
                let _ = tokio::time::timeout(AGAIN, peers.changed()).await;
            }
        }
    }
}

/// What the master is told of a block.
pub fn held(input: u32, block: &Block) -> HeldBlock {
    let marks = block.marks.iter();
    HeldBlock {
        meta: block.meta,
        marks: marks
            .map(|(producer, last)| (input, producer.to_string(), *last))
            .collect(),
    }
}
