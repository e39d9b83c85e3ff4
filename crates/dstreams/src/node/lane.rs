//! The way of one receiver's blocks, from sealed to safe, where that takes time: its [`Lane`].

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

/// How long records wait for more of them before their block is sealed and made safe: an acknowledgement is
/// that much later, and there are so many fewer blocks.
const LINGER: Duration = Duration::from_millis(1);

/// How long an answer waits for blocks that are being made safe, where only safe ones are in it. Those that are not by
/// then go into the next batch: their copies may wait for room that this batch makes.
const GRACE: Duration = Duration::from_millis(50);

/// Asks a receiver to seal for a batch; it answers with [`Durability::report`].
#[derive(Debug, Clone, Copy)]
pub struct Seal {
    /// Whose blocks these will be.
    pub batch: BatchTime,
    /// Nothing is taken after it.
    pub last: bool,
}

/// A receiver whose blocks are sealed as records come, and made safe.
pub struct Lane {
    input: u32,
    intake: Arc<Intake>,
    durability: Arc<dyn Durability>,
    /// Sealed, and not kept yet.
    waiting: Vec<Arc<Block>>,
    /// Being made safe, where only safe blocks are reported.
    keeping: Vec<BlockMeta>,
    /// Ends when they are, and all before this block.
    kept: Option<BoxFuture<'static, Result<()>>>,
    safe_below: u64,
    /// To be in the next answer.
    unreported: Vec<BlockMeta>,
    /// The seal that is not answered, and until when it waits.
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
            keeping: Vec::new(),
            kept: None,
            safe_below: 0,
            unreported: Vec::new(),
            asked: None,
        }
    }

    /// Until the last seal, or until nobody can ask for one any more.
    pub async fn run(mut self, mut seals: mpsc::UnboundedReceiver<Seal>) {
        let at_once = self.durability.reported_when() != ReportedWhen::Safe;
        loop {
            self.keep();
            if (at_once || self.kept.is_none())
                && let Some((seal, _)) = self.asked.take()
            {
                self.report(seal);
                if seal.last {
                    return self.finish().await;
                }
            }
            let patience = self.asked.as_ref().filter(|(seal, _)| !seal.last);
            let until = patience.map(|(_, until)| *until);
            tokio::select! {
                biased;
                Some(kept) = OptionFuture::from(self.kept.as_mut()) => {
                    if !self.are_kept(kept) {
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
                () = self.intake.fresh(), if self.kept.is_none() && self.asked.is_none() => {
                    tokio::time::sleep(LINGER).await;
                    self.seal(false);
                }
            }
        }
    }

    fn seal(&mut self, last: bool) {
        let gone = self.intake.take_gone();
        if !gone.is_empty() {
            self.durability.forget(self.input, &gone);
        }
        let blocks = self.intake.seal(last);
        if self.durability.reported_when() == ReportedWhen::Safe && !blocks.is_empty() {
            point("receive:sealed");
        }
        self.waiting.extend(blocks);
    }

    /// Has sealed blocks made safe: each at once where they are written one after the other, else what has come
    /// meanwhile once those before are.
    fn keep(&mut self) {
        let only_safe = self.durability.reported_when() == ReportedWhen::Safe;
        if only_safe && self.kept.is_some() {
            return;
        }
        let Some(newest) = self.waiting.last() else {
            return;
        };
        self.safe_below = newest.meta.id.seq + 1;
        let blocks = std::mem::take(&mut self.waiting);
        let metas = blocks.iter().map(|block| block.meta);
        match only_safe {
            true => self.keeping.extend(metas),
            false => self.unreported.extend(metas),
        }
        let durability = Arc::clone(&self.durability);
        self.kept = Some(durability.keep(self.input, &self.intake, blocks));
    }

    /// What was being made safe is; or nothing will be any more, and nothing is acknowledged.
    fn are_kept(&mut self, kept: Result<()>) -> bool {
        self.kept = None;
        match kept {
            Ok(()) => {
                self.intake.set_safe(self.safe_below);
                self.unreported.append(&mut self.keeping);
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

    /// After the last answer.
    async fn finish(&mut self) {
        if let Some(kept) = self.kept.take() {
            let kept = kept.await;
            self.are_kept(kept);
        }
    }

    /// When no more blocks will be safe. Where they were reported before, the next commit ends the program.
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
