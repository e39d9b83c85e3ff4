//! [`Durable`]: what lets a program that was killed go on: a journal and checkpoints, in one directory.
//!
//! The journal has the blocks, the cut of each batch and its commit; every few batches a checkpoint has the
//! state, and what of the journal is older is let go. A restart takes the newest checkpoint, runs the batches
//! after it that took effect for their state alone, then those that did not, and goes on with the next
//! interval: see [`restore`].

pub(super) mod checkpoint;
pub(super) mod inspect;
pub(super) mod restore;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::{BatchTime, BlockId, BlockMeta};
use tokio::task::JoinHandle;

use self::checkpoint::{Manifest, Program};
use super::journal::{DirLock, Entry, Journal, Ticket};
use crate::error::Result;
use crate::receive::Block;

/// See the module.
pub struct Durable {
    dir: PathBuf,
    _lock: DirLock,
    journal: Journal,
    /// Batches between two checkpoints.
    every: u64,
    incarnation: u64,
    program: Program,
    tickets: Mutex<Tickets>,
}

/// Where in the journal is what no checkpoint has.
#[derive(Default)]
struct Tickets {
    blocks: HashMap<BlockId, Ticket>,
    /// Of each batch: its blocks, and the first entry it needs.
    batches: BTreeMap<BatchTime, (Vec<BlockId>, Ticket)>,
    since: u64,
    writing: Option<JoinHandle<()>>,
}

impl Durable {
    fn lock(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block was received. It is safe when its ticket is synced.
    pub fn block(&self, input: u32, block: &Block, schema: &SchemaRef) -> Result<Ticket> {
        let bytes = block.to_bytes(schema)?;
        let mut tickets = self.lock();
        let ticket = self.journal.append(Entry::Block { input, bytes });
        tickets.blocks.insert(block.meta.id, ticket);
        Ok(ticket)
    }

    /// A batch has these blocks. It may take effect when its ticket is synced.
    pub fn cut(&self, batch: BatchTime, blocks: &[BlockMeta]) -> Ticket {
        let blocks: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
        let mut tickets = self.lock();
        let ticket = self.journal.append(Entry::Cut {
            batch,
            blocks: blocks.clone(),
        });
        let of = |id| tickets.blocks.get(id).copied();
        let first = blocks.iter().filter_map(of).min().unwrap_or(ticket);
        tickets.batches.insert(batch, (blocks, first.min(ticket)));
        ticket
    }

    /// Waits until an entry is on disk.
    pub async fn synced(&self, ticket: Ticket) -> Result<()> {
        self.journal.synced(ticket).await
    }

    /// A batch has taken effect; whether a checkpoint is due.
    pub fn committed(&self, batch: BatchTime) -> bool {
        self.journal.append(Entry::Committed { batch });
        let mut tickets = self.lock();
        tickets.since += 1;
        let idle = tickets.writing.as_ref().is_none_or(JoinHandle::is_finished);
        tickets.since >= self.every && idle
    }

    /// Writes a checkpoint, in the background: the state as of `batch`. What fails is logged, and tried
    /// again with the next batch: until then the journal keeps what the checkpoint would have.
    pub fn checkpoint(
        self: &Arc<Self>,
        batch: BatchTime,
        states: Vec<Vec<u8>>,
        marks: Vec<(u32, String, u64)>,
    ) {
        let manifest = Manifest {
            batch: batch.0,
            incarnation: self.incarnation,
            program: self.program.clone(),
            marks,
            files: Vec::new(),
        };
        let this = Arc::clone(self);
        let mut tickets = self.lock();
        tickets.since = 0;
        tickets.writing = Some(tokio::task::spawn_blocking(move || {
            let written = checkpoint::write(&this.dir, manifest, &states);
            let mut tickets = this.lock();
            match written {
                Ok(()) => {
                    let before = tickets.let_go(batch);
                    this.journal.let_go_before(before);
                }
                Err(error) => {
                    tickets.since = this.every;
                    tracing::error!(%batch, %error, "no checkpoint was written");
                }
            }
        }));
    }

    /// Waits for a checkpoint that is being written. The directory is free when all else that has a part in
    /// this has let go of it.
    pub async fn close(&self) {
        let writing = self.lock().writing.take();
        if let Some(writing) = writing {
            let _ = writing.await;
        }
    }
}

impl Tickets {
    /// What a checkpoint of `batch` has is not needed here; returns the first entry that is.
    fn let_go(&mut self, batch: BatchTime) -> Ticket {
        let later = self.batches.split_off(&BatchTime(batch.0 + 1));
        let covered = std::mem::replace(&mut self.batches, later);
        for block in covered.into_values().flat_map(|(blocks, _)| blocks) {
            self.blocks.remove(&block);
        }
        let batches = self.batches.values().map(|(_, first)| *first);
        let blocks = self.blocks.values().copied();
        batches.chain(blocks).min().unwrap_or(Ticket::END)
    }
}
