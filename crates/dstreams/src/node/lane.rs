//! [`Lane`]: makes the sealed blocks of one receiver safe, where that takes time.

use std::sync::Arc;
use std::time::Duration;

use dstreams_control::{BatchTime, BlockMeta};
use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::durability::{Durability, ReportedWhen};
use crate::blocks::Block;
use crate::crash::point;
use crate::error::Result;
use crate::receive::Intake;

/// How long a block waits for more records before it is sealed and made safe: fewer blocks, at the cost of later
/// acknowledgements.
const LINGER: Duration = Duration::from_millis(1);

/// How long an answer waits for blocks that are being made safe, if it contains only safe ones. The others go into
/// the next batch: their replicas may wait for memory that this batch frees.
const GRACE: Duration = Duration::from_millis(50);

/// Asks a receiver to seal for a batch; it answers with [`Durability::report`].
#[derive(Debug, Clone, Copy)]
pub struct Seal {
    /// The batch that the blocks will belong to.
    pub batch: BatchTime,
    /// Whether it is the last one: no records are received after it.
    pub last: bool,
}

/// Seals the blocks of a receiver as records come, and makes them safe.
pub struct Lane {
    input: u32,
    intake: Arc<Intake>,
    durability: Arc<dyn Durability>,
    /// Sealed, but not yet passed to `durability`.
    waiting: Vec<Arc<Block>>,
    /// Being made safe, if only safe blocks are reported.
    in_flight: Vec<BlockMeta>,
    /// Completes when all blocks below `safe_below` are safe.
    saving: Option<BoxFuture<'static, Result<()>>>,
    safe_below: u64,
    /// Blocks for the next answer.
    unreported: Vec<BlockMeta>,
    /// The unanswered seal, and how long it waits.
    asked: Option<(Seal, Instant)>,
}

impl Lane {
    /// The lane of a receiver.
    pub fn new(input: u32, intake: Arc<Intake>, durability: Arc<dyn Durability>) -> Self {
        Lane {
            input,
            intake,
            durability,
            waiting: Vec::new(),
            in_flight: Vec::new(),
            saving: None,
            safe_below: 0,
            unreported: Vec::new(),
            asked: None,
        }
    }

    /// Runs until the last seal, or until no one can send another.
    pub async fn run(mut self, mut seals: mpsc::UnboundedReceiver<Seal>) {
        let at_once = self.durability.reported_when() != ReportedWhen::Safe;
        loop {
            self.store_sealed();
            if (at_once || self.saving.is_none())
                && let Some((seal, _)) = self.asked.take()
            {
                self.report(seal);
                if seal.last {
                    return self.finish().await;
                }
            }
            let waiting_seal = self.asked.as_ref().filter(|(seal, _)| !seal.last);
            let until = waiting_seal.map(|(_, until)| *until);
            tokio::select! {
                biased;
                Some(saved) = OptionFuture::from(self.saving.as_mut()) => {
                    if !self.on_saved(saved) {
                        return self.report_only(seals).await;
                    }
                }
                seal = seals.recv(), if self.asked.is_none() => {
                    let Some(seal) = seal else { return };
                    self.seal(seal.last);
                    self.asked = Some((seal, Instant::now() + GRACE));
                }
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    if let Some((seal, _)) = self.asked.take() {
                        self.report(seal);
                    }
                }
                () = self.intake.fresh(), if self.saving.is_none() && self.asked.is_none() => {
                    tokio::time::sleep(LINGER).await;
                    self.seal(false);
                }
            }
        }
    }

    fn seal(&mut self, last: bool) {
        let removed_parts = self.intake.take_removed_parts();
        if !removed_parts.is_empty() {
            self.durability.forget(self.input, &removed_parts);
        }
        let blocks = self.intake.seal(last);
        if self.durability.reported_when() == ReportedWhen::Safe && !blocks.is_empty() {
            point("receive:sealed");
        }
        self.waiting.extend(blocks);
    }

    /// Starts to make sealed blocks safe: at once if blocks are written one after the other, otherwise all waiting
    /// ones when the earlier ones are safe.
    fn store_sealed(&mut self) {
        let only_safe = self.durability.reported_when() == ReportedWhen::Safe;
        if only_safe && self.saving.is_some() {
            return;
        }
        let Some(newest) = self.waiting.last() else {
            return;
        };
        self.safe_below = newest.meta.id.seq + 1;
        let blocks = std::mem::take(&mut self.waiting);
        let metas = blocks.iter().map(|block| block.meta);
        match only_safe {
            true => self.in_flight.extend(metas),
            false => self.unreported.extend(metas),
        }
        let durability = Arc::clone(&self.durability);
        self.saving = Some(durability.store(self.input, &self.intake, blocks));
    }

    /// Marks the blocks as safe; or, after a failure, acknowledges nothing any more and returns `false`.
    fn on_saved(&mut self, saved: Result<()>) -> bool {
        self.saving = None;
        match saved {
            Ok(()) => {
                self.intake.set_safe_below(self.safe_below);
                self.unreported.append(&mut self.in_flight);
                true
            }
            Err(error) => {
                self.intake.fail(error);
                false
            }
        }
    }

    fn report(&mut self, seal: Seal) {
        let blocks = std::mem::take(&mut self.unreported);
        let receiver = self.intake.receiver();
        self.durability.report(seal.batch, receiver, blocks);
    }

    /// Waits for the last blocks, after the last answer.
    async fn finish(&mut self) {
        if let Some(saved) = self.saving.take() {
            let saved = saved.await;
            self.on_saved(saved);
        }
    }

    /// Only answers seals, when no more blocks will become safe. If blocks were already reported, the next commit
    /// ends the program.
    async fn report_only(&mut self, mut seals: mpsc::UnboundedReceiver<Seal>) {
        let mut asked = self.asked.take().map(|(seal, _)| seal);
        loop {
            let seal = match asked.take() {
                Some(seal) => seal,
                None => match seals.recv().await {
                    Some(seal) => seal,
                    None => return,
                },
            };
            self.report(seal);
            if seal.last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
