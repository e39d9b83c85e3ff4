//! [`Durability`]: makes the blocks of receivers safe. In the process of the master: in memory, or in a journal.

use std::sync::Arc;

use dstreams_control::{BatchTime, BlockMeta, Event, ReceiverId};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::mailbox::Mailbox;
use crate::blocks::{Block, BlockStore};
use crate::checkpoint::Durable;
use crate::error::Result;
use crate::receive::Intake;

/// When a block is included in the answer to a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedWhen {
    /// As soon as it is stored, which makes it safe: the caller that seals gets the answer at once, and receivers
    /// have no lanes.
    Stored,
    /// When it is sealed. A batch still takes effect only when its blocks are safe.
    Sealed,
    /// When it is safe. Blocks that are not safe soon enough go into the next batch.
    Safe,
}

/// Makes the blocks of receivers safe, and takes the answers of receivers.
pub trait Durability: Send + Sync + 'static {
    /// Never changes.
    fn reported_when(&self) -> ReportedWhen;

    /// Stores blocks of the receiver of an input, in their order. They are safe when the future has completed; if
    /// it fails, no more blocks of this receiver will become safe.
    ///
    /// With [`ReportedWhen::Sealed`], the blocks are stored when this returns and their place in the journal is
    /// fixed, so that the entry of their batch comes after them; each future also waits for what earlier ones wait
    /// for. With [`ReportedWhen::Safe`], a receiver has one future at a time.
    fn store(
        self: Arc<Self>,
        input: u32,
        intake: &Intake,
        blocks: Vec<Arc<Block>>,
    ) -> BoxFuture<'static, Result<()>>;

    /// Answers a seal.
    fn report(&self, batch: BatchTime, receiver: ReceiverId, blocks: Vec<BlockMeta>);

    /// Parts of an input's source will never come again: see [`Ingest::forget`](crate::Ingest::forget).
    fn forget(&self, input: u32, parts: &[Arc<str>]);
}

/// Makes blocks safe in the process of the master: with the journal, if there is one.
pub fn of_master(
    store: &Arc<BlockStore>,
    mailbox: &Mailbox,
    journal: Option<&Arc<Durable>>,
) -> Arc<dyn Durability> {
    let memory = InMemory {
        store: Arc::clone(store),
        mailbox: mailbox.clone(),
    };
    match journal {
        Some(durable) => Arc::new(InJournal {
            memory,
            durable: Arc::clone(durable),
        }),
        None => Arc::new(memory),
    }
}

/// Blocks are safe once they are in memory.
struct InMemory {
    store: Arc<BlockStore>,
    mailbox: Mailbox,
}

impl Durability for InMemory {
    fn reported_when(&self) -> ReportedWhen {
        ReportedWhen::Stored
    }

    fn store(
        self: Arc<Self>,
        _input: u32,
        _intake: &Intake,
        blocks: Vec<Arc<Block>>,
    ) -> BoxFuture<'static, Result<()>> {
        for block in blocks {
            self.store.insert(block);
        }
        ready(Ok(())).boxed()
    }

    fn report(&self, batch: BatchTime, receiver: ReceiverId, blocks: Vec<BlockMeta>) {
        self.mailbox.send(Event::Reported {
            batch,
            receiver,
            blocks,
        });
    }

    /// Nothing outlives this process.
    fn forget(&self, _input: u32, _parts: &[Arc<str>]) {}
}

/// Blocks are safe once they are on disk, too.
struct InJournal {
    memory: InMemory,
    durable: Arc<Durable>,
}

impl Durability for InJournal {
    fn reported_when(&self) -> ReportedWhen {
        ReportedWhen::Sealed
    }

    fn store(
        self: Arc<Self>,
        input: u32,
        intake: &Intake,
        blocks: Vec<Arc<Block>>,
    ) -> BoxFuture<'static, Result<()>> {
        let mut last = None;
        for block in blocks {
            last = Some(self.durable.block(input, &block, &intake.schema));
            self.memory.store.insert(block);
        }
        async move {
            match last {
                Some(ticket) => self.durable.synced(ticket).await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn report(&self, batch: BatchTime, receiver: ReceiverId, blocks: Vec<BlockMeta>) {
        self.memory.report(batch, receiver, blocks);
    }

    fn forget(&self, input: u32, parts: &[Arc<str>]) {
        self.durable.forget(input, parts);
    }
}
