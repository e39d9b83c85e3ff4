//! [`Durable`]: a program on disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::durable::CheckpointedBlocks;
use dstreams_control::{BatchTime, BlockId, BlockMeta, ReceiverId};
use futures::stream::BoxStream;
use tokio::time::sleep;

use super::block_journal::{self, Ended, dir_of};
use super::lineage::Lineage;
use super::lock;
use super::manifest::{Program, StateId};
use super::offsets::{Bound, OffsetTable};
use super::publisher::Publisher;
use super::recover::{Restored, StateDirectory, is_ahead, recover};
use super::retained_journal::RetainedJournal;
use super::schedule::{CheckpointFailures, Schedule};
use super::set_aside::{self, Blocks, RecoverySource};
use super::writer::{CheckpointPlan, Writing, on_disk};
use crate::blocks::Block;
use crate::crash::point;
use crate::debug::debug_as;
use crate::error::{Error, Result};
use crate::journal::{DirLock, JournalEntry, Ticket};
use crate::stream::output::FencingToken;

/// How often the files are read at most, each time that a former process is found to have continued them.
const RECOVERY_TRIES: u32 = 5;
/// The time between two checks that the directory still belongs to this process, and the time that a program gets to
/// report a failed journal before it ends.
const OWNER_PAUSE: Duration = Duration::from_secs(1);

/// A program on disk: its journal and its checkpoints, in one directory.
pub struct Durable {
    dir: PathBuf,
    /// None once the directory is released.
    dir_lock: Mutex<Option<DirLock>>,
    incarnation: u64,
    /// The random name of the directory.
    program: String,
    // Locks are not nested, but for those within the journal: L2 in ARCHITECTURE.md.
    journal: RetainedJournal,
    checkpoints: Publisher,
    schedule: Mutex<Schedule>,
    offsets: Mutex<OffsetTable>,
    lineage: Mutex<Lineage>,
    /// In a cluster: the journals of workers that have ended.
    ended: Mutex<Ended>,
    /// Held while journals of workers are read: none is taken away from its worker meanwhile.
    reading: tokio::sync::Mutex<()>,
    /// Who waits for the checkpoint that is being written.
    closing: tokio::sync::Mutex<()>,
}

debug_as!(Durable);

impl Durable {
    /// Takes a directory, and reads it and the checkpoints, which may be elsewhere. `program` is this program; its
    /// number of partitions counts only if nothing was there before. A checkpoint is written after `every` batches.
    pub async fn open(
        lock: DirLock,
        state_directory: &StateDirectory,
        every: u64,
        program: Program,
        states: Vec<StateId>,
        schemas: &[SchemaRef],
        bound: Bound,
    ) -> Result<(Arc<Self>, Restored)> {
        let mut tries = RECOVERY_TRIES;
        let found = loop {
            let (program, states) = (program.clone(), states.clone());
            let found = recover(&lock, state_directory, program, states, schemas, &bound).await;
            tries -= 1;
            match found {
                // What the other process wrote counts.
                Err(error) if tries > 0 && is_ahead(&error) => lock.owner().check()?,
                found => break found?,
            }
        };
        let checkpoints = Publisher::new(state_directory.store(), &lock, found.newest.clone());
        let durable = Durable {
            dir: state_directory.dir.clone(),
            dir_lock: Mutex::new(Some(lock)),
            incarnation: found.restored.incarnation,
            program: found.newest.directory.clone().unwrap_or_default(),
            journal: found.journal,
            checkpoints,
            schedule: Mutex::new(Schedule::new(every)),
            offsets: Mutex::new(found.offsets),
            lineage: Mutex::new(found.lineage),
            ended: Mutex::new(found.ended),
            reading: Default::default(),
            closing: Default::default(),
        };
        Ok((Arc::new(durable), found.restored))
    }

    /// A block was received. It is durable when its ticket is synced. If it cannot be written, that never happens,
    /// and no further batch takes effect.
    pub fn block(&self, input: u32, block: &Block, schema: &SchemaRef) -> Ticket {
        lock(&self.offsets).received(input, block);
        self.journal
            .block(input, block, schema)
            .unwrap_or_else(|error| {
                self.journal.fail(error);
                Ticket::END
            })
    }

    /// The checkpoint and batches from which the newest state can be recovered.
    pub fn lineage(&self) -> Lineage {
        lock(&self.lineage).clone()
    }

    /// The n-th process of this directory.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Fails if another process has taken the directory.
    pub async fn check_owner(self: &Arc<Self>) -> Result<()> {
        let this = Arc::clone(self);
        on_disk(async move { this.checkpoints.owner().check() }).await
    }

    /// Waits until this process can no longer keep the program: its journal has failed, or the directory is not its own
    /// any more. Returns the reason, a moment later: who waits for an entry learns it first.
    pub async fn lost(self: &Arc<Self>) -> Error {
        let taken = async {
            loop {
                sleep(OWNER_PAUSE).await;
                if let Err(lost @ Error::LostDirectory { .. }) = self.check_owner().await {
                    return lost;
                }
            }
        };
        tokio::select! {
            biased;
            end = self.synced(Ticket::END) => {
                sleep(OWNER_PAUSE).await;
                end.err().unwrap_or(Error::NotRunning)
            }
            lost = taken => lost,
        }
    }

    /// The fencing token of this process: its number among all processes of the program.
    pub fn fencing_token(&self) -> FencingToken {
        FencingToken {
            program: self.program.clone(),
            epoch: self.incarnation,
        }
    }

    /// A worker has persisted a block, with these offsets by input and producer.
    pub fn stored(&self, block: BlockId, offsets: impl Iterator<Item = ((u32, String), u64)>) {
        lock(&self.offsets).stored(block, offsets);
    }

    /// A receiver was lost with its worker; of its blocks that are in no cut, only these count. Until the ticket
    /// is synced, no record that it may have taken may be taken elsewhere.
    pub fn receiver_lost(&self, receiver: ReceiverId, blocks: &[BlockMeta]) -> Ticket {
        let blocks: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
        lock(&self.offsets).receiver_lost(receiver, &blocks);
        self.journal.receiver_lost(receiver, &blocks)
    }

    /// A worker with these receivers has ended.
    pub fn worker_ended(&self, worker: u32, receivers: BTreeSet<ReceiverId>) {
        let journal = dir_of(&self.dir, self.incarnation, worker);
        lock(&self.ended).add(journal, receivers);
    }

    /// The blocks of a batch, and the batch before it if intervals in between were skipped. It may take effect when its
    /// ticket is synced.
    pub fn cut(&self, batch: BatchTime, after: Option<BatchTime>, blocks: &[BlockMeta]) -> Ticket {
        lock(&self.lineage).cut(batch, blocks, false);
        let blocks = blocks.iter().map(|block| block.id).collect();
        self.journal.cut(batch, after, blocks)
    }

    /// A batch is about to take effect: it may when this is synced, and can no longer be set aside.
    pub fn committing(&self, batch: BatchTime) -> Ticket {
        self.journal.append(JournalEntry::Committing { batch })
    }

    /// Waits until an entry is on disk.
    pub async fn synced(&self, ticket: Ticket) -> Result<()> {
        self.journal.synced(ticket).await
    }

    /// A batch with these blocks has taken effect. Returns the plan of a checkpoint if one is due.
    pub fn committed(&self, batch: BatchTime, blocks: &[BlockId]) -> Option<CheckpointPlan> {
        self.journal.append(JournalEntry::Committed { batch });
        lock(&self.offsets).committed(batch, blocks);
        lock(&self.lineage).committed(batch);
        if !lock(&self.schedule).is_due_after_batch() {
            return None;
        }
        // None is being written: the newest stays the newest until this one is.
        let newest = self.checkpoints.number();
        let tried = lock(&self.schedule).next_attempt(newest);
        let checkpointed_blocks = self.journal.checkpointed(batch);
        let plan = self
            .checkpoints
            .plan((batch, checkpointed_blocks), tried, self.incarnation);
        Some(plan)
    }

    /// A batch with these blocks, which took effect in an earlier process, has been replayed.
    pub fn replayed(&self, batch: BatchTime, blocks: &[BlockId]) {
        lock(&self.offsets).committed(batch, blocks);
    }

    /// Writes a checkpoint in the background, and calls `checkpointed` once it is complete. A failure is logged,
    /// and the next batch retries; until then the journal retains the entries.
    pub fn checkpoint(
        self: &Arc<Self>,
        plan: CheckpointPlan,
        states: Writing,
        checkpointed: impl FnOnce(BatchTime, &CheckpointedBlocks) + Send + 'static,
    ) {
        let whole = self.checkpoints.needs_all_offsets();
        let offsets = lock(&self.offsets).capture(whole);
        let this = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        // Locked until the task is known: it may end before.
        let mut schedule = lock(&self.schedule);
        // Writing files blocks.
        schedule.begin(tokio::task::spawn_blocking(move || {
            let written = this.checkpoints.write(&plan, (offsets, whole), states);
            let written = runtime.block_on(written);
            lock(&this.offsets).captured(written.is_ok());
            match written {
                Ok(()) => this.checkpoint_written(&plan, checkpointed),
                Err(error) => {
                    tracing::error!(batch = %plan.batch, %error, "cannot write a checkpoint");
                    lock(&this.schedule).failed(error);
                }
            }
        }));
    }

    fn checkpoint_written(
        &self,
        CheckpointPlan {
            batch,
            checkpointed_blocks,
            ..
        }: &CheckpointPlan,
        checkpointed: impl FnOnce(BatchTime, &CheckpointedBlocks),
    ) {
        lock(&self.schedule).succeeded();
        let number = self.checkpoints.number();
        self.journal
            .release(*batch, checkpointed_blocks, Some(number));
        lock(&self.lineage).checkpointed(*batch);
        // Lock order L1 in ARCHITECTURE.md: no lock of `Durable` is held here.
        checkpointed(*batch, checkpointed_blocks);
        lock(&self.offsets).checkpointed(checkpointed_blocks);
        // A journal that is being adopted has another name afterwards.
        let _alone = self.reading.blocking_lock();
        let ended = lock(&self.ended).checkpointed(checkpointed_blocks);
        let left = ended.remove();
        lock(&self.ended).append(left);
    }

    /// Takes the journal of a worker of this process that has ended away from it, as a restart does: it acknowledges
    /// nothing more, even if it still runs. Returns the blocks in it that are `wanted`, with their inputs; those that a
    /// checkpoint covers may be missing.
    pub async fn adopt(
        &self,
        worker: u32,
        schemas: Vec<SchemaRef>,
        wanted: impl Fn(BlockId) -> bool + Send + 'static,
    ) -> Result<Blocks> {
        let _alone = self.reading.lock().await;
        let (dir, incarnation) = (self.dir.clone(), self.incarnation);
        let read =
            async move { block_journal::adopt(&dir, (incarnation, worker), &schemas, wanted) };
        let (taken, blocks) = on_disk(read).await?;
        let written = dir_of(&self.dir, self.incarnation, worker);
        lock(&self.ended).moved(&written, taken);
        Ok(blocks)
    }

    /// Waits until everything that was appended to the journal is on disk.
    pub async fn flush(&self) -> Result<()> {
        self.journal.flush().await
    }

    /// Sets the records of a batch aside, durably, with the reason. Takes its blocks from `blocks` one at a time.
    pub async fn set_aside(
        &self,
        batch: BatchTime,
        blocks: BoxStream<'static, Result<(u32, Arc<Block>)>>,
        schemas: Vec<SchemaRef>,
        error: &Error,
    ) -> Result<PathBuf> {
        let (dir, text) = (self.dir.clone(), error.to_string());
        let owner = self.checkpoints.owner().clone();
        let written =
            async move { set_aside::write(&dir, batch, blocks, &schemas, &text, &owner).await };
        let path = on_disk(written).await?;
        point("aside:files");
        let ticket = self.journal.append(JournalEntry::SetAside { batch });
        self.journal.synced(ticket).await?;
        Ok(path)
    }

    /// The sources of the state as of the last commit. No checkpoint is written meanwhile, and none may begin.
    pub async fn recovery_source(&self, schemas: Vec<SchemaRef>) -> Result<RecoverySource> {
        self.close().await;
        let _alone = self.reading.lock().await;
        let dir = self.dir.clone();
        RecoverySource::read(dir, self.checkpoints.newest(), schemas).await
    }

    /// Parts of a source are gone permanently.
    pub fn forget(&self, input: u32, parts: &[Arc<str>]) {
        lock(&self.offsets).forget(input, parts);
    }

    /// The number of producers that were forgotten because of the limit.
    pub fn forgotten_producers(&self) -> u64 {
        lock(&self.offsets).forgotten()
    }

    /// Failed attempts since the last successful checkpoint.
    pub fn failures(&self) -> CheckpointFailures {
        lock(&self.schedule).failures()
    }

    /// Waits for the checkpoint being written, if any.
    pub async fn close(&self) {
        // A second caller waits for it too.
        let _one = self.closing.lock().await;
        let writing = lock(&self.schedule).take_writing();
        if let Some(writing) = writing {
            let _ = writing.await;
        }
    }

    /// The program has ended without a failure: no standby may take it over.
    pub async fn ended(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let told = tokio::task::spawn_blocking(move || {
            if let Some(taken) = &*lock(&this.dir_lock) {
                taken.end();
            }
        });
        let _ = told.await;
    }

    /// Releases the directory once all appended entries are written, even while others still use this. Later
    /// entries are not written, and never acknowledged.
    pub async fn free(self: Arc<Self>) {
        let freed = tokio::task::spawn_blocking(move || {
            self.journal.close();
            lock(&self.dir_lock).take();
        });
        let _ = freed.await;
    }
}
