//! Checkpoint: a program in a directory, so that it can be killed and started again.
//!
//! **In**: received blocks, the cut of each batch, its commit, the state as of a batch. **Out**: after a restart, the
//! newest checkpoint, the batches after it that took effect (run again for their state alone), and those that did not.
//! **Promise**: whatever was acknowledged is in the journal or in a checkpoint; a directory is only read by the program
//! that wrote it, or one whose states fit ([`recover`]). **On failure**: a checkpoint that cannot be written is tried
//! again with the next batch, and the journal keeps what it needs; damage is an error that names the file.

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
    CheckpointPlan, PartAt, READ_AT_ONCE, Writing, WrittenFile, blocking, load, on_disk, write,
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
    /// None once it is closed.
    held: Mutex<Option<DirLock>>,
    owner: Owner,
    journal: Journal,
    /// Batches between two checkpoints.
    every: u64,
    incarnation: u64,
    /// The checkpoint that is there, or one of nothing.
    newest: Mutex<Manifest>,
    /// One that could not be written, or so it was said.
    doubtful: Mutex<Option<Manifest>>,
    // Lock order L2 in ARCHITECTURE.md: before `newest` and the journal's queue. The others are not nested.
    tickets: Mutex<Tickets>,
    marks: Mutex<OffsetTable>,
    lineage: Mutex<Lineage>,
    /// Of a cluster: what workers wrote that are no more.
    ended: Mutex<Ended>,
}

debug_as!(Durable);

/// Where in the journal is what no checkpoint has.
struct Tickets {
    needs: Needs<Ticket>,
    since: u64,
    /// The number of the checkpoint that was tried last: each try has files and answers of its own.
    tried: u64,
    writing: Option<JoinHandle<()>>,
    /// Tries to write a checkpoint that failed since the last that did not.
    failed: CheckpointFailures,
}

/// Tries to write a checkpoint that failed, one after another.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CheckpointFailures {
    /// How many; 0 when the last one is there, or none was due yet.
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

    /// A block was received. It is safe when its ticket is synced; never, and no batch takes effect any more, where
    /// it cannot be written.
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

    /// What the newest state can be made from again.
    pub fn lineage(&self) -> Lineage {
        lock(&self.lineage).clone()
    }

    /// The n-th process of this directory.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// A worker has a block on disk, with these marks, by input and producer.
    pub fn stored(&self, block: BlockId, marks: impl Iterator<Item = ((u32, String), u64)>) {
        lock(&self.marks).stored(block, marks);
    }

    /// A receiver was lost with its worker; of what no cut names, these of its blocks count. Nothing may be taken
    /// elsewhere of what it may have taken before the ticket is synced.
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

    /// A worker with these receivers is no more.
    pub fn worker_ended(&self, worker: u32, receivers: BTreeSet<ReceiverId>) {
        let journal = dir_of(&self.dir, self.incarnation, worker);
        lock(&self.ended).add(journal, receivers);
    }

    /// A batch has these blocks. It may take effect when its ticket is synced.
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

    /// A batch with these blocks has taken effect: what a checkpoint of it is to have, if one is due.
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

    /// A batch with these blocks, which took effect in an earlier process, has its state again.
    pub fn replayed(&self, batch: BatchTime, blocks: &[BlockId]) {
        lock(&self.marks).committed(batch, blocks);
    }

    /// Writes a checkpoint in the background, and calls `checkpointed` once it is complete. A failure is logged, and
    /// the next batch tries again: until then the journal keeps what the checkpoint would have.
    pub fn checkpoint(
        self: &Arc<Self>,
        plan: CheckpointPlan,
        states: Writing,
        checkpointed: impl FnOnce(BatchTime, &Covered) + Send + 'static,
    ) {
        let whole = !lock(&self.newest).goes_on_with_offsets();
        let offsets = lock(&self.marks).capture(whole);
        let this = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        let mut tickets = self.lock();
        tickets.since = 0;
        // Files are written by calls that block.
        tickets.writing = Some(tokio::task::spawn_blocking(move || {
            let batch = plan.batch;
            let written = runtime.block_on(this.write(&plan, (offsets, whole), states));
            lock(&this.marks).captured(written.is_ok());
            let mut tickets = this.lock();
            match written {
                Ok(()) => {
                    tickets.failed = CheckpointFailures::default();
                    let first = tickets.needs.let_go(batch, &plan.covered);
                    // Before anybody appends what is needed from now on.
                    let number = lock(&this.newest).number;
                    this.journal.let_go_before(first, Some(number));
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
                    tracing::error!(%batch, %error, "no checkpoint was written");
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
        // A process that was given up may still write state; no manifest names it.
        self.owner.check()?;
        match self.store.publish(&next.name(), next.to_bytes()?).await {
            Ok(true) => point("checkpoint:visible"),
            Ok(false) => return self.follow(&next.name()).await,
            Err(error) => {
                // It may be there nevertheless: the next one with this number finds it then.
                *lock(&self.doubtful) = Some(next);
                return Err(error);
            }
        }
        *lock(&self.newest) = next.clone();
        // I11 (ARCHITECTURE.md): the new manifest is visible.
        next.remove_others(&self.store).await
    }

    /// A checkpoint of this name is there. One of ours that was said to have failed is followed by the next try.
    async fn follow(&self, name: &str) -> Result<()> {
        let ours = lock(&self.doubtful).clone();
        let there = self.store.read(name, None).await?;
        let path = self.store.path(name).display().to_string();
        let message = match ours {
            Some(ours) if ours.name() == name && ours.to_bytes()? == there => {
                *lock(&self.newest) = ours;
                format!("{path} is there, though writing it failed; the next one follows it")
            }
            _ => format!(
                "{path} is there already: another program writes its checkpoints to the same place"
            ),
        };
        Err(Error::Checkpoints { message })
    }

    /// Parts of a source are no more, and never come again.
    pub fn forget(&self, input: u32, parts: &[Arc<str>]) {
        lock(&self.marks).forget(input, parts);
    }

    /// Producers that were forgotten because there were too many.
    pub fn forgotten_producers(&self) -> u64 {
        lock(&self.marks).forgotten()
    }

    /// Tries to write a checkpoint that failed since the last that did not.
    pub fn failures(&self) -> CheckpointFailures {
        self.lock().failed.clone()
    }

    /// Waits for a checkpoint that is being written.
    pub async fn close(&self) {
        let writing = self.lock().writing.take();
        if let Some(writing) = writing {
            let _ = writing.await;
        }
    }

    /// Frees the directory, once what was appended is written, whoever has a part in this still: what comes later is not
    /// written, and never said to be.
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
