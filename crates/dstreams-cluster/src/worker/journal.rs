//! [`WorkerJournal`]: the files of a worker in the state directory: its journal of blocks, and its parts of
//! checkpoints.

use std::sync::Arc;

use dstreams::Result;
use dstreams::internal::{
    Block, BlockJournal, Description, Owner, Store, Ticket, blocking, dir_of, on_disk, write,
};
use dstreams_control::BatchTime;
use dstreams_control::durable::CheckpointedBlocks;

use crate::execute::TaskRunner;
use crate::link::{Directory, Sender, ToMaster};

/// Writes the blocks and the parts of checkpoints of a worker to the state directory.
pub struct WorkerJournal {
    pub checkpoints: Store,
    journal: BlockJournal,
}

/// Partitions, and by state the version in the last checkpoint.
pub type CheckpointVersions = Vec<(u32, Vec<Option<BatchTime>>)>;

impl WorkerJournal {
    /// Opens the journal of this worker for the master process `incarnation`; `None` without a state directory.
    pub fn begin(
        parts: &Description,
        incarnation: Option<u64>,
        worker: u32,
        directory: Option<Directory>,
    ) -> Result<Option<Arc<Self>>> {
        let (Some(state_directory), Some(incarnation)) = (parts.directory(), incarnation) else {
            return Ok(None);
        };
        // The owner is the master that let it join: another one would have refused it.
        let name = directory.and_then(|directory| directory.owner.ok());
        let owner = Owner::new(&state_directory.dir, name.unwrap_or_default());
        Ok(Some(Arc::new(WorkerJournal {
            checkpoints: state_directory.store(),
            journal: BlockJournal::begin(dir_of(&state_directory.dir, incarnation, worker), owner)?,
        })))
    }

    /// Writes received blocks; returns the ticket of the last.
    pub fn blocks(
        &self,
        input: u32,
        blocks: &[Arc<Block>],
        schema: &dstreams::arrow::datatypes::SchemaRef,
    ) -> Result<Option<Ticket>> {
        let mut last = None;
        for block in blocks {
            last = Some(self.journal.block(input, block, schema)?);
        }
        Ok(last)
    }

    /// Waits until blocks are on disk.
    pub async fn synced(&self, ticket: Option<Ticket>) -> Result<()> {
        match ticket {
            Some(ticket) => self.journal.synced(ticket).await,
            None => Ok(()),
        }
    }

    /// Whether another master has taken over (fenced) the journal.
    pub fn is_fenced(&self) -> bool {
        self.journal.is_fenced()
    }

    /// There is a checkpoint of this batch that covers these blocks.
    pub fn checkpointed(
        &self,
        site: &Arc<TaskRunner>,
        batch: BatchTime,
        blocks: &CheckpointedBlocks,
    ) {
        self.journal.checkpointed(batch, blocks);
        // Waits for the lock of each partition, which a task or a copy may have for long: not on the link's task.
        let site = Arc::clone(site);
        tokio::task::spawn_blocking(move || site.states.checkpointed(batch));
    }

    /// Snapshots the state of partitions for a checkpoint, reports that, and writes it.
    pub async fn checkpoint(
        &self,
        site: &Arc<TaskRunner>,
        link: &Sender<ToMaster>,
        (checkpoint, file): (u64, String),
        since: CheckpointVersions,
    ) {
        let of = Arc::clone(site);
        let captured = on_disk(async move {
            let since = since.iter();
            of.states
                .capture(since.map(|(partition, since)| (*partition as usize, since)))
        })
        .await;
        link.send(&ToMaster::Taken { checkpoint });
        let store = self.checkpoints.clone();
        let written = match captured {
            Ok(captured) => blocking(move |runtime| write(&store, runtime, file, captured)).await,
            Err(error) => Err(error),
        };
        link.send(&ToMaster::Written {
            checkpoint,
            written: written.map_err(|error| error.to_string()),
        });
    }
}
