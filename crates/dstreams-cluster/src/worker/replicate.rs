//! How the blocks of one receiver become safe: held, on disk, at a peer, known to the master.

use std::sync::Arc;
use std::time::Duration;

use dstreams::arrow::datatypes::SchemaRef;
use dstreams::internal::{Block, point};
use futures::StreamExt;
use tonic::{Code, Status};

use super::replicas::Replicas;
use crate::link::{HeldBlock, ToMaster};

/// Copies of one receiver on their way at once.
const COPYING: usize = 4;
/// Pause before a copy that failed is tried again, with the peer of then.
const AGAIN: Duration = Duration::from_millis(20);
/// The longest pause, before one that the peer refused for what it is.
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// Holds the blocks, writes them where the program is kept, has a peer hold them, and tells the master.
pub async fn replicate(replicas: &Replicas, input: u32, schema: &SchemaRef, blocks: &[Arc<Block>]) {
    for block in blocks {
        replicas.hold(Arc::clone(block)).await;
    }
    point("replicate:held");
    // Not both at once: what a peer holds counts when this worker is lost, and must be on disk then.
    write(replicas, input, schema, blocks).await;
    let copies: Vec<_> = blocks.iter().map(|block| copy(replicas, block)).collect();
    let copies = futures::stream::iter(copies).buffer_unordered(COPYING);
    let peers = copies.collect::<Vec<_>>().await;
    point("replicate:copied");
    let blocks = blocks.iter().map(|block| held(input, block));
    replicas.link.say(&ToMaster::Stored {
        blocks: blocks.collect(),
    });
    // A peer refuses what comes after this worker was given up, and the master asks it. Without one, or with one
    // that the master has given up and asks no more, it must have heard of the blocks itself.
    let unsure = |peer: &Option<u32>| peer.is_none_or(|peer| replicas.refuses(peer));
    if peers.iter().any(unsure) {
        replicas.heard().await;
    }
    point("replicate:told");
}

/// Returns when the blocks are on disk, if they are to be.
async fn write(replicas: &Replicas, input: u32, schema: &SchemaRef, blocks: &[Arc<Block>]) {
    let Some(on_disk) = &replicas.on_disk else {
        return;
    };
    let written = match on_disk.blocks(input, blocks, schema) {
        Ok(ticket) => on_disk.synced(ticket).await,
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        replicas.fail(error).await;
    }
}

/// Whether the peer will not take the block the next time either: it is no block, or a record of it is too large for a
/// message.
fn is_final(status: &Status) -> bool {
    let code = status.code();
    matches!(
        code,
        Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted
    )
}

/// Returns the peer, when it holds the block; none when there is no peer.
async fn copy(replicas: &Replicas, block: &Arc<Block>) -> Option<u32> {
    // It doubles while the peer refuses the block for what it is.
    let mut pause = AGAIN;
    loop {
        let (peer, address) = replicas.peer.borrow().clone()?;
        match replicas.send_copy(block, &address).await {
            Ok(()) => return Some(peer),
            Err(status) => {
                let block = block.meta.id;
                if is_final(&status) {
                    // A connection that broke looks the same, once.
                    if pause == 4 * AGAIN {
                        tracing::error!(%block, peer, %status, "a peer refuses a block: its stream stands still");
                    }
                    pause = (2 * pause).min(AGAIN_AT_MOST);
                }
                tracing::debug!(%block, peer, %status, "not copied yet");
                let mut peers = replicas.peer.subscribe();
                let _ = tokio::time::timeout(pause, peers.changed()).await;
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
