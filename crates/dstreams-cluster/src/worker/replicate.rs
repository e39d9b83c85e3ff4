//! The way of one receiver's blocks, from sealed to safe: its lane.

use std::sync::Arc;
use std::time::Duration;

use dstreams::cluster::{Block, Intake, LINGER, Seal, point};
use dstreams_control::BlockMeta;
use futures::future::{BoxFuture, OptionFuture};
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::session::Epoch;
use crate::link::{HeldBlock, ToMaster};

/// Copies of one receiver on their way at once.
const COPYING: usize = 4;
/// Pause before a copy that failed is tried again, with the peer of then.
const AGAIN: Duration = Duration::from_millis(20);
/// The longest pause, before one that the peer refused for what it is.
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// How long an answer waits for copies that are being made. Blocks that are not safe by then go into
/// the next batch: their copies may wait for room that this batch makes.
const GRACE: Duration = Duration::from_millis(50);

/// What a lane knows of its blocks.
#[derive(Default)]
struct Sealed {
    /// Not being copied yet.
    waiting: Vec<Arc<Block>>,
    /// Being copied.
    copying: Vec<BlockMeta>,
    /// Safe, and in no answer.
    unreported: Vec<BlockMeta>,
}

/// Runs the lane of a receiver until its last seal.
pub async fn run(
    epoch: Arc<Epoch>,
    input: u32,
    intake: Arc<Intake>,
    mut seals: mpsc::UnboundedReceiver<Seal>,
) {
    let mut sealed = Sealed::default();
    let mut asked: Option<(Seal, Instant)> = None;
    let mut copying: Option<BoxFuture<'_, ()>> = None;
    loop {
        if copying.is_none() && !sealed.waiting.is_empty() {
            let blocks = std::mem::take(&mut sealed.waiting);
            sealed.copying = blocks.iter().map(|block| block.meta).collect();
            let epoch = Arc::clone(&epoch);
            let copies = async move { replicate(&epoch, input, &blocks).await };
            copying = Some(copies.boxed());
        }
        if copying.is_none()
            && let Some((seal, _)) = asked.take()
        {
            let last = seal.last;
            report(&epoch, &intake, seal, &mut sealed);
            if last {
                return;
            }
        }
        let patience = asked.as_ref().filter(|(seal, _)| !seal.last);
        let until = patience.map(|(_, until)| *until);
        tokio::select! {
            biased;
            Some(()) = OptionFuture::from(copying.as_mut()) => {
                copying = None;
                sealed.are_safe(&intake);
            }
            seal = seals.recv(), if asked.is_none() => {
                let Some(seal) = seal else { return };
                sealed.add(intake.seal(seal.last));
                asked = Some((seal, Instant::now() + GRACE));
            }
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                if let Some((seal, _)) = asked.take() {
                    report(&epoch, &intake, seal, &mut sealed);
                }
            }
            () = intake.fresh(), if copying.is_none() && asked.is_none() => {
                tokio::time::sleep(LINGER).await;
                sealed.add(intake.seal(false));
            }
        }
    }
}

impl Sealed {
    fn add(&mut self, blocks: Vec<Arc<Block>>) {
        if !blocks.is_empty() {
            point("receive:sealed");
        }
        self.waiting.extend(blocks);
    }

    /// What was being copied is safe.
    fn are_safe(&mut self, intake: &Intake) {
        point("replicate:told");
        if let Some(newest) = self.copying.last() {
            intake.set_safe(newest.id.seq + 1);
        }
        self.unreported.append(&mut self.copying);
    }
}

/// Answers the master with what is safe.
fn report(epoch: &Epoch, intake: &Intake, seal: Seal, sealed: &mut Sealed) {
    epoch.link.say(&ToMaster::Reported {
        batch: seal.batch,
        receiver: intake.receiver(),
        blocks: std::mem::take(&mut sealed.unreported),
    });
}

/// Holds the blocks, writes them where the program is kept, has a peer hold them, and tells the master.
async fn replicate(epoch: &Epoch, input: u32, blocks: &[Arc<Block>]) {
    for block in blocks {
        epoch.hold(Arc::clone(block)).await;
    }
    point("replicate:held");
    // Not both at once: what a peer holds counts when this worker is lost, and must be on disk then.
    write(epoch, input, blocks).await;
    let copies: Vec<_> = blocks.iter().map(|block| copy(epoch, block)).collect();
    let copies = futures::stream::iter(copies).buffer_unordered(COPYING);
    let peers = copies.collect::<Vec<_>>().await;
    point("replicate:copied");
    let blocks = blocks.iter().map(|block| held(input, block));
    epoch.link.say(&ToMaster::Stored {
        blocks: blocks.collect(),
    });
    // A peer refuses what comes after this worker was given up, and the master asks it. Without one, or with one
    // that the master has given up and asks no more, it must have heard of the blocks itself.
    let unsure = |peer: &Option<u32>| peer.is_none_or(|peer| epoch.refuses(peer));
    if peers.iter().any(unsure) {
        epoch.heard().await;
    }
}

/// Returns when the blocks are on disk, if they are to be.
async fn write(epoch: &Epoch, input: u32, blocks: &[Arc<Block>]) {
    let (Some(on_disk), Some(schema)) = (&epoch.on_disk, epoch.schema(input)) else {
        return;
    };
    let written = match on_disk.blocks(input, blocks, schema) {
        Ok(ticket) => on_disk.synced(ticket).await,
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        epoch.fail(error).await;
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
async fn copy(epoch: &Epoch, block: &Arc<Block>) -> Option<u32> {
    // It doubles while the peer refuses the block for what it is.
    let mut pause = AGAIN;
    loop {
        let (peer, address) = epoch.peer.borrow().clone()?;
        match epoch.send_copy(block, &address).await {
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
                let mut peers = epoch.peer.subscribe();
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
