//! [`RetainedJournal`]: a journal that retains what no checkpoint has, and releases the rest.

use std::sync::Mutex;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::durable::{CheckpointedBlocks, JournalRetention};
use dstreams_control::{BatchTime, BlockId, ReceiverId};

use super::lock;
use crate::blocks::Block;
use crate::error::{Error, Result};
use crate::journal::{Journal, JournalEntry, Ticket};

/// A journal, and where in it is what no checkpoint has. An entry and the note that it is needed are one step.
pub(super) struct RetainedJournal {
    journal: Journal,
    // Lock order L2 in ARCHITECTURE.md: before the journal's queue.
    retention: Mutex<JournalRetention<Ticket>>,
}

impl RetainedJournal {
    /// A journal with what a restart needs of it.
    pub fn new(journal: Journal, retention: JournalRetention<Ticket>) -> Self {
        let retention = Mutex::new(retention);
        RetainedJournal { journal, retention }
    }

    /// Writes a block; it is durable when its ticket is synced.
    pub fn block(&self, input: u32, block: &Block, schema: &SchemaRef) -> Result<Ticket> {
        let bytes = block.to_pieces(schema)?;
        let mut retention = lock(&self.retention);
        let ticket = self.journal.append(JournalEntry::Block { input, bytes });
        retention.block(block.meta.id, ticket);
        Ok(ticket)
    }

    /// A receiver was lost; of its blocks that are in no cut, only these count.
    pub fn receiver_lost(&self, receiver: ReceiverId, blocks: &[BlockId]) -> Ticket {
        let mut retention = lock(&self.retention);
        let ticket = self.journal.append(JournalEntry::ReceiverLost {
            receiver,
            blocks: blocks.to_vec(),
        });
        retention.receiver_lost(receiver, blocks, ticket);
        ticket
    }

    /// The blocks of a batch, and the batch before it if intervals in between were skipped.
    pub fn cut(&self, batch: BatchTime, after: Option<BatchTime>, blocks: Vec<BlockId>) -> Ticket {
        let mut retention = lock(&self.retention);
        // I2 (ARCHITECTURE.md): a restart reads these blocks, and no others.
        let ticket = self.journal.append(JournalEntry::Cut {
            batch,
            after,
            blocks: blocks.clone(),
        });
        retention.cut(batch, blocks, ticket);
        ticket
    }

    /// Writes an entry that is released with the cut of its batch.
    pub fn append(&self, entry: JournalEntry) -> Ticket {
        self.journal.append(entry)
    }

    /// The blocks of all batches up to this one.
    pub fn checkpointed(&self, batch: BatchTime) -> CheckpointedBlocks {
        lock(&self.retention).checkpointed(batch)
    }

    /// A checkpoint of `batch` covers these blocks; the journal of the program also records its number.
    pub fn release(
        &self,
        batch: BatchTime,
        checkpointed_blocks: &CheckpointedBlocks,
        checkpoint: Option<u64>,
    ) {
        let mut retention = lock(&self.retention);
        let first = retention.release(batch, checkpointed_blocks);
        // Before later entries, which are needed, are appended.
        self.journal.release_before(first, checkpoint);
    }

    /// Waits until an entry is on disk.
    pub async fn synced(&self, ticket: Ticket) -> Result<()> {
        self.journal.synced(ticket).await
    }

    /// Waits until all entries so far are on disk.
    pub async fn flush(&self) -> Result<()> {
        self.journal.synced(self.journal.last()).await
    }

    /// Nothing is synced any more.
    pub fn fail(&self, error: Error) {
        self.journal.fail(error);
    }

    /// Writes what was appended; later entries are not written.
    pub fn close(&self) {
        self.journal.close();
    }
}
