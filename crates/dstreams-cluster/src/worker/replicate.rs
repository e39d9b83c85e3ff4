//! Makes the blocks of one receiver safe: in the store, on disk, at a peer, known to the master.

use std::sync::Arc;
use std::time::Duration;

use dstreams::arrow::datatypes::SchemaRef;
use dstreams::internal::{Block, point};
use futures::StreamExt;
use tonic::{Code, Status};

use super::replicas::Replicas;
use crate::link::{BlockReport, ToMaster};

/// The most copies in flight per receiver.
const COPIES_IN_FLIGHT: usize = 4;
/// Pause before a failed copy is retried, with the peer at that time.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause, for a block that the peer refuses for its contents.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Stores the blocks, writes them to the journal if there is one, sends copies to a peer, and informs the master.
pub async fn replicate(replicas: &Replicas, input: u32, schema: &SchemaRef, blocks: &[Arc<Block>]) {
    for block in blocks {
        replicas.store_block(Arc::clone(block)).await;
    }
    point("replicate:held");
    // Not concurrently: a peer's copy counts when this worker is lost, and must be on disk here by then.
    write(replicas, input, schema, blocks).await;
    let copies: Vec<_> = blocks.iter().map(|block| copy(replicas, block)).collect();
    let copies = futures::stream::iter(copies).buffer_unordered(COPIES_IN_FLIGHT);
    let peers = copies.collect::<Vec<_>>().await;
    point("replicate:copied");
    let blocks = blocks.iter().map(|block| block_report(input, block));
    replicas.link.send(&ToMaster::Stored {
        blocks: blocks.collect(),
    });
    // A peer refuses copies once this worker is given up, and then reports the earlier ones to the master. Without a
    // peer, or if the master has given it up too, the master must know of the blocks from here.
    let unsure = |peer: &Option<u32>| peer.is_none_or(|peer| replicas.refuses(peer));
    if peers.iter().any(unsure) {
        replicas.master_caught_up().await;
    }
    point("replicate:told");
}

/// Writes the blocks to the journal, if there is one; returns once they are on disk.
async fn write(replicas: &Replicas, input: u32, schema: &SchemaRef, blocks: &[Arc<Block>]) {
    let Some(journal) = &replicas.journal else {
        return;
    };
    let written = match journal.blocks(input, blocks, schema) {
        Ok(ticket) => journal.synced(ticket).await,
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        replicas.fail(error).await;
    }
}

/// Whether the peer will refuse the block again: it is malformed, or one of its records is too large for a message.
fn is_final(status: &Status) -> bool {
    let code = status.code();
    matches!(
        code,
        Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted
    )
}

/// Returns the peer once it has stored the block; `None` without a peer.
async fn copy(replicas: &Replicas, block: &Arc<Block>) -> Option<u32> {
    // Doubles while the peer refuses the block for its contents.
    let mut pause = RETRY_PAUSE;
    loop {
        let (peer, address) = replicas.peer.borrow().clone()?;
        match replicas.send_copy(block, &address).await {
            Ok(()) => return Some(peer),
            Err(status) => {
                let block = block.meta.id;
                if is_final(&status) {
                    // A broken connection looks the same, but only once.
                    if pause == 4 * RETRY_PAUSE {
                        tracing::error!(%block, peer, %status, "a peer refuses a block: its stream makes no progress");
                    }
                    pause = (2 * pause).min(MAX_RETRY_PAUSE);
                }
                tracing::debug!(%block, peer, %status, "cannot copy a block yet");
                let mut peers = replicas.peer.subscribe();
                let _ = tokio::time::timeout(pause, peers.changed()).await;
            }
        }
    }
}

/// The report of a block to the master.
pub fn block_report(input: u32, block: &Block) -> BlockReport {
    let marks = block.offsets.iter();
    BlockReport {
        meta: block.meta,
        marks: marks
            .map(|(producer, last)| (input, producer.to_string(), *last))
            .collect(),
    }
}
