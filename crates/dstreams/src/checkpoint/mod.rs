//! Checkpoint: a program in a directory, so that it can be killed and restarted.
//!
//! **In**: received blocks, the cut of each batch, its commit, the state as of a batch. **Out**: after a restart,
//! the newest checkpoint, the batches after it that took effect (replayed for their state alone), and those that
//! did not. **Promise**: everything acknowledged is in the journal or in a checkpoint; only the program that wrote
//! a directory, or one with compatible states, reads it ([`recover`]). **On failure**: a checkpoint that cannot be
//! written is retried with the next batch, and the journal retains what it needs; damage is an error that names
//! the file.

pub(crate) mod block_journal;
pub(crate) mod compatibility;
pub(super) mod inspect;
pub(super) mod lineage;
pub(crate) mod location;
pub(crate) mod manifest;
pub(crate) mod offsets;
#[allow(missing_docs)] // public to `internal` only
pub(crate) mod recover;
#[allow(missing_docs)] // public to `internal` only
pub(crate) mod set_aside;
#[cfg(test)]
mod tests;
#[allow(missing_docs)] // public to `internal` only
pub(crate) mod writer;

pub use block_journal::{BlockJournal, dir_of};
pub use inspect::{CheckpointInfo, Inspection, JournalInfo, inspect};
pub use lineage::{BatchLineage, Lineage};
pub use location::Store;
pub use manifest::state_file;
pub use recover::Restored;
pub use set_aside::Earlier;
pub use writer::{
    CONCURRENT_READS, CheckpointPlan, PartAt, Writing, WrittenFile, blocking, load, on_disk, write,
};

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::durable::{Covered, Needs};
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};
use tokio::task::JoinHandle;

use self::block_journal::Ended;
use self::manifest::Manifest;
use self::offsets::OffsetTable;
use super::journal::{DirLock, Journal, JournalEntry, Owner, Ticket};
use crate::blocks::Block;
use crate::crash::point;
use crate::debug::debug_as;
use crate::error::{Error, Result};

/// A program on disk: its journal and its checkpoints, in one directory.
pub struct Durable {
    dir: PathBuf,
    store: Store,
    /// None once the directory is released.
    held: Mutex<Option<DirLock>>,
    owner: Owner,
    journal: Journal,
    /// Batches between two checkpoints.
    every: u64,
    incarnation: u64,
    /// The newest checkpoint, or an empty one.
    newest: Mutex<Manifest>,
    /// A manifest whose write was reported as failed.
    unconfirmed: Mutex<Option<Manifest>>,
    // Lock order L2 in ARCHITECTURE.md: before `newest` and the journal's queue. The others are not nested.
    tickets: Mutex<Tickets>,
    marks: Mutex<OffsetTable>,
    lineage: Mutex<Lineage>,
    /// In a cluster: the journals of workers that have ended.
    ended: Mutex<Ended>,
}

debug_as!(Durable);

/// Where in the journal is what no checkpoint has.
struct Tickets {
    needs: Needs<Ticket>,
    since: u64,
    /// The number of the last checkpoint attempt: each has files and answers of its own.
    tried: u64,
    writing: Option<JoinHandle<()>>,
    /// Failed attempts since the last successful checkpoint.
    failed: CheckpointFailures,
}

/// Consecutive failed attempts to write a checkpoint.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CheckpointFailures {
    /// How many; 0 if the last attempt succeeded, or none was due yet.
    pub tries: u64,
    /// Why the last one failed.
    pub error: Option<Error>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Durable {
    fn lock(&self) -> MutexGuard<'_, Tickets> {
        lock(&self.tickets)
    }

    /// A block was received. It is durable when its ticket is synced. If it cannot be written, that never happens,
    /// and no further batch takes effect.
    pub fn block(&self, input: u32, block: &Block, schema: &SchemaRef) -> Ticket {
        let bytes = block.to_pieces(schema);
        lock(&self.marks).received(input, block);
        let mut tickets = self.lock();
        let ticket = match bytes {
            Ok(bytes) => self.journal.append(JournalEntry::Block { input, bytes }),
            Err(error) => {
                self.journal.fail(error);
                Ticket::END
            }
        };
        tickets.needs.block(block.meta.id, ticket);
        ticket
    }

    /// The checkpoint and batches from which the newest state can be recovered.
    pub fn lineage(&self) -> Lineage {
        lock(&self.lineage).clone()
    }

    /// The n-th process of this directory.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// A worker has persisted a block, with these offsets by input and producer.
    pub fn stored(&self, block: BlockId, marks: impl Iterator<Item = ((u32, String), u64)>) {
        lock(&self.marks).stored(block, marks);
    }

    /// A receiver was lost with its worker; of its blocks that are in no cut, only these count. Until the ticket
    /// is synced, no record that it may have taken may be taken elsewhere.
    pub fn gone(&self, receiver: ReceiverId, blocks: &[BlockMeta]) -> Ticket {
        let blocks: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
        lock(&self.marks).gone(receiver, &blocks);
        let mut tickets = self.lock();
        let ticket = self.journal.append(JournalEntry::Gone {
            receiver,
            blocks: blocks.clone(),
        });
        tickets.needs.gone(receiver, &blocks, ticket);
        ticket
    }

    /// A worker with these receivers has ended.
    pub fn worker_ended(&self, worker: u32, receivers: BTreeSet<ReceiverId>) {
        let journal = dir_of(&self.dir, self.incarnation, worker);
        lock(&self.ended).add(journal, receivers);
    }

    /// The blocks of a batch. It may take effect when its ticket is synced.
    pub fn cut(&self, batch: BatchTime, blocks: &[BlockMeta]) -> Ticket {
        lock(&self.lineage).cut(batch, blocks, false);
        let blocks: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
        let mut tickets = self.lock();
        // I2 (ARCHITECTURE.md): a restart reads these blocks, and no others.
        let ticket = self.journal.append(JournalEntry::Cut {
            batch,
            blocks: blocks.clone(),
        });
        tickets.needs.cut(batch, blocks, ticket);
        ticket
    }

    /// Waits until an entry is on disk.
    pub async fn synced(&self, ticket: Ticket) -> Result<()> {
        self.journal.synced(ticket).await
    }

    /// A batch with these blocks has taken effect. Returns the plan of a checkpoint if one is due.
    pub fn committed(&self, batch: BatchTime, blocks: &[BlockId]) -> Option<CheckpointPlan> {
        self.journal.append(JournalEntry::Committed { batch });
        lock(&self.marks).committed(batch, blocks);
        lock(&self.lineage).committed(batch);
        let mut tickets = self.lock();
        tickets.since += 1;
        let idle = tickets.writing.as_ref().is_none_or(JoinHandle::is_finished);
        if tickets.since < self.every || !idle {
            return None;
        }
        let newest = lock(&self.newest);
        tickets.tried = tickets.tried.max(newest.number) + 1;
        Some(CheckpointPlan {
            batch,
            covered: tickets.needs.covered(batch),
            number: newest.number + 1,
            tried: tickets.tried,
            incarnation: self.incarnation,
            store: self.store.clone(),
            since: newest.since(newest.program.partitions),
        })
    }

    /// A batch with these blocks, which took effect in an earlier process, has been replayed.
    pub fn replayed(&self, batch: BatchTime, blocks: &[BlockId]) {
        lock(&self.marks).committed(batch, blocks);
    }

    /// Writes a checkpoint in the background, and calls `checkpointed` once it is complete. A failure is logged,
    /// and the next batch retries; until then the journal retains the entries.
    pub fn checkpoint(
        self: &Arc<Self>,
        plan: CheckpointPlan,
        states: Writing,
        checkpointed: impl FnOnce(BatchTime, &Covered) + Send + 'static,
    ) {
        let whole = !lock(&self.newest).offsets_can_be_incremental();
        let offsets = lock(&self.marks).capture(whole);
        let this = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        let mut tickets = self.lock();
        tickets.since = 0;
        // Writing files blocks.
        tickets.writing = Some(tokio::task::spawn_blocking(move || {
            let batch = plan.batch;
            let written = runtime.block_on(this.write(&plan, (offsets, whole), states));
            lock(&this.marks).captured(written.is_ok());
            let mut tickets = this.lock();
            match written {
                Ok(()) => {
                    tickets.failed = CheckpointFailures::default();
                    let first = tickets.needs.release(batch, &plan.covered);
                    // Before later entries, which are needed, are appended.
                    let number = lock(&this.newest).number;
                    this.journal.release_before(first, Some(number));
                    drop(tickets);
                    lock(&this.lineage).covered(batch);
                    // Lock order L1 in ARCHITECTURE.md: no lock of `Durable` is held here.
                    checkpointed(batch, &plan.covered);
                    lock(&this.marks).covered(&plan.covered);
                    let ended = lock(&this.ended).covered(&plan.covered);
                    let left = ended.remove();
                    lock(&this.ended).append(left);
                }
                Err(error) => {
                    tickets.since = this.every;
                    tickets.failed.tries += 1;
                    tickets.failed.error = Some(error.clone());
                    tracing::error!(%batch, %error, "cannot write a checkpoint");
                }
            }
        }));
    }

    async fn write(
        &self,
        plan: &CheckpointPlan,
        (offsets, whole): (Vec<offsets::Written>, bool),
        states: Writing,
    ) -> Result<()> {
        let written = states.await?;
        let offsets = writer::write_offsets(plan, &offsets, whole).await?;
        let mut next = lock(&self.newest).clone().next(plan, written)?;
        offsets.into_iter().for_each(|file| next.add_offsets(file));
        next.covered = plan.covered.clone();
        // A fenced process may still write state files; no manifest names them.
        self.owner.check()?;
        match self.store.publish(&next.name(), next.to_bytes()?).await {
            Ok(true) => point("checkpoint:visible"),
            Ok(false) => return self.follow(&next.name()).await,
            Err(error) => {
                // It may have been written nevertheless; then the next attempt with this number finds it.
                *lock(&self.unconfirmed) = Some(next);
                return Err(error);
            }
        }
        *lock(&self.newest) = next.clone();
        // I11 (ARCHITECTURE.md): the new manifest is visible.
        next.remove_others(&self.store).await
    }

    /// A checkpoint of this name exists. If it is ours, reported as failed, the next attempt follows it.
    async fn follow(&self, name: &str) -> Result<()> {
        let ours = lock(&self.unconfirmed).clone();
        let there = self.store.read(name, None).await?;
        let path = self.store.path(name).display().to_string();
        let message = match ours {
            Some(ours) if ours.name() == name && ours.to_bytes()? == there => {
                *lock(&self.newest) = ours;
                format!(
                    "{path} exists, though the write was reported as failed; the next checkpoint follows it"
                )
            }
            _ => format!(
                "{path} already exists: another program writes its checkpoints to the same place"
            ),
        };
        Err(Error::Checkpoints { message })
    }

    /// Parts of a source are gone permanently.
    pub fn forget(&self, input: u32, parts: &[Arc<str>]) {
        lock(&self.marks).forget(input, parts);
    }

    /// The number of producers that were forgotten because of the limit.
    pub fn forgotten_producers(&self) -> u64 {
        lock(&self.marks).forgotten()
    }

    /// Failed attempts since the last successful checkpoint.
    pub fn failures(&self) -> CheckpointFailures {
        self.lock().failed.clone()
    }

    /// Waits for the checkpoint being written, if any.
    pub async fn close(&self) {
        let writing = self.lock().writing.take();
        if let Some(writing) = writing {
            let _ = writing.await;
        }
    }

    /// Releases the directory once all appended entries are written, even while others still use this. Later
    /// entries are not written, and never acknowledged.
    pub async fn free(self: Arc<Self>) {
        let freed = tokio::task::spawn_blocking(move || {
            self.journal.close();
            lock(&self.held).take();
        });
        let _ = freed.await;
    }
}

impl Tickets {
    fn of(needs: Needs<Ticket>) -> Self {
        Tickets {
            needs,
            since: 0,
            tried: 0,
            writing: None,
            failed: CheckpointFailures::default(),
        }
    }
}
