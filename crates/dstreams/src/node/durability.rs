//! [`Durability`]: what makes the blocks of receivers safe. In the process of the master: memory, or a journal.

use std::sync::Arc;

use dstreams_control::{BatchTime, BlockMeta, Event, ReceiverId};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::mailbox::Mailbox;
use crate::blocks::{Block, BlockStore};
use crate::checkpoint::Durable;
use crate::error::Result;
use crate::receive::Intake;

/// When the answer to a seal has a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedWhen {
    /// It is held, and safe with that: whoever asks for a seal has the answer at once, and receivers have no lanes.
    Held,
    /// It is sealed. A batch takes effect no sooner than its blocks are safe.
    Sealed,
    /// It is safe. Those that are not soon enough go into the next batch.
    Safe,
}

/// What makes the blocks of receivers safe, and whom receivers answer.
pub trait Durability: Send + Sync + 'static {
    /// The same for all its life.
    fn reported_when(&self) -> ReportedWhen;

    /// Holds blocks of the receiver of an input, in their order. They are safe when the future has ended; when it fails,
    /// no more blocks of this receiver will be.
    ///
    /// Where blocks are reported when they are sealed, they are held when this returns, and what is written of them is
    /// in its place, so that what is written of their batch comes after it; and what a future waits for, those before it
    /// waited for too. Where only safe blocks are reported, there is one future of a receiver at a time.
    fn keep(
        self: Arc<Self>,
        input: u32,
        intake: &Intake,
        blocks: Vec<Arc<Block>>,
    ) -> BoxFuture<'static, Result<()>>;

    /// Answers a seal.
    fn report(&self, batch: BatchTime, receiver: ReceiverId, blocks: Vec<BlockMeta>);

    /// Parts of an input's source are no more, and never come again: see [`Ingest::forget`](crate::Ingest::forget).
    fn forget(&self, input: u32, parts: &[Arc<str>]);
}

/// What makes blocks safe in the process of the master: the journal, where there is one.
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
        ReportedWhen::Held
    }

    fn keep(
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

    /// Nothing is known of them beyond this process.
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

    fn keep(
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
