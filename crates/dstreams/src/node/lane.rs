//! The way of one receiver's blocks where there is a journal: its lane.

use std::sync::Arc;
use std::time::Duration;

use dstreams_control::{BatchTime, BlockMeta, Event};
use tokio::sync::mpsc;

use super::mailbox::Mailbox;
use crate::blocks::Block;
use crate::blocks::BlockStore;
use crate::checkpoint::Durable;
use crate::journal::Ticket;
use crate::receive::Intake;

/// How long records wait for more of them before their block is sealed and made safe: an acknowledgement is
/// that much later, and there are so many fewer blocks.
pub const LINGER: Duration = Duration::from_millis(1);

/// Asks a lane to seal for a batch; it answers the controller.
pub struct Seal {
    /// Whose blocks these will be.
    pub batch: BatchTime,
    /// Nothing is taken after it.
    pub last: bool,
}

/// What a lane works with.
pub struct Lane {
    pub input: u32,
    pub intake: Arc<Intake>,
    pub store: Arc<BlockStore>,
    pub durable: Arc<Durable>,
    pub mailbox: Mailbox,
}

impl Lane {
    /// Until the last seal. What was sealed for a batch is reported at once; it is safe when it is on disk,
    /// and the batch takes effect no sooner.
    pub async fn run(self, mut seals: mpsc::UnboundedReceiver<Seal>) {
        let mut unreported: Vec<BlockMeta> = Vec::new();
        // Written, and not known to be on disk: up to which block.
        let mut writing: Option<(Ticket, u64)> = None;
        loop {
            let seal = tokio::select! {
                biased;
                seal = seals.recv() => match seal {
                    Some(seal) => Some(seal),
                    None => return,
                },
                synced = self.durable.synced(writing.map_or(Ticket::EARLIER, |(at, _)| at)), if writing.is_some() => {
                    let Some((_, safe)) = writing.take() else { continue };
                    match synced {
                        Ok(()) => self.intake.set_safe(safe),
                        // Nothing is acknowledged any more; the next commit ends the program.
                        Err(error) => {
                            self.intake.fail(error);
                            return self.report_only(seals, unreported).await;
                        }
                    }
                    continue;
                }
                () = self.intake.fresh(), if writing.is_none() => {
                    tokio::time::sleep(LINGER).await;
                    None
                }
            };
            let gone = self.intake.take_gone();
            if !gone.is_empty() {
                self.durable.forget(self.input, &gone);
            }
            let last = seal.as_ref().is_some_and(|seal| seal.last);
            let blocks = self.intake.seal(last);
            if let Some(written) = self.keep(&blocks) {
                writing = Some(written);
            }
            unreported.extend(blocks.iter().map(|block| block.meta));
            if let Some(Seal { batch, .. }) = seal {
                self.report(batch, std::mem::take(&mut unreported));
            }
            if last {
                if let Some((ticket, safe)) = writing {
                    match self.durable.synced(ticket).await {
                        Ok(()) => self.intake.set_safe(safe),
                        Err(error) => self.intake.fail(error),
                    }
                }
                return;
            }
        }
    }

    /// Holds blocks and writes them; returns the last one's entry, and up to which block that is.
    fn keep(&self, blocks: &[Arc<Block>]) -> Option<(Ticket, u64)> {
        let mut written = None;
        for block in blocks {
            let ticket = self.durable.block(self.input, block, &self.intake.schema);
            written = Some((ticket, block.meta.id.seq + 1));
            self.store.insert(Arc::clone(block));
        }
        written
    }

    fn report(&self, batch: BatchTime, blocks: Vec<BlockMeta>) {
        self.mailbox.send(Event::Reported {
            batch,
            receiver: self.intake.receiver(),
            blocks,
        });
    }

    /// After the journal has failed.
    async fn report_only(
        &self,
        mut seals: mpsc::UnboundedReceiver<Seal>,
        mut unreported: Vec<BlockMeta>,
    ) {
        while let Some(Seal { batch, last }) = seals.recv().await {
            self.report(batch, std::mem::take(&mut unreported));
            if last {
                return;
            }
        }
    }
}
