//! [`OnDisk`]: what of a worker is on disk, where a program is kept in a directory: the blocks it received, and its
//! part of checkpoints.

use std::sync::Arc;

use dstreams::Result;
use dstreams::internal::{
    Block, BlockJournal, Description, Owner, Store, Ticket, blocking, dir_of, on_disk, write,
};
use dstreams_control::BatchTime;
use dstreams_control::durable::Covered;

use crate::execute::TaskRunner;
use crate::link::{Directory, Sender, ToMaster};

/// What a worker writes to disk for a program that is kept in a directory: its blocks and its parts of checkpoints.
pub struct OnDisk {
    pub checkpoints: Store,
    journal: BlockJournal,
}

/// Partitions, and by state the version that the last checkpoint has.
pub type Since = Vec<(u32, Vec<Option<BatchTime>>)>;

impl OnDisk {
    /// Begins what this worker of the n-th process of a program writes; none where the program is kept nowhere.
    pub fn begin(
        parts: &Description,
        incarnation: Option<u64>,
        worker: u32,
        directory: Option<Directory>,
    ) -> Result<Option<Arc<Self>>> {
        let (Some(kept), Some(incarnation)) = (parts.kept(), incarnation) else {
            return Ok(None);
        };
        // The master that let it join: another one would have refused it.
        let name = directory.and_then(|directory| directory.owner.ok());
        let owner = Owner::new(&kept.dir, name.unwrap_or_default());
        Ok(Some(Arc::new(OnDisk {
            checkpoints: kept.store(),
            journal: BlockJournal::begin(dir_of(&kept.dir, incarnation, worker), owner)?,
        })))
    }

    /// Writes blocks that were received; returns the last one's ticket.
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

    /// Whether another master has taken the journal away.
    pub fn was_taken(&self) -> bool {
        self.journal.was_taken()
    }

    /// A checkpoint of this batch is there, with these blocks.
    pub fn covered(&self, site: &Arc<TaskRunner>, batch: BatchTime, blocks: &Covered) {
        self.journal.covered(batch, blocks);
        // It waits for each partition, which a task or a copy may have for long: not on the link's task.
        let site = Arc::clone(site);
        tokio::task::spawn_blocking(move || site.states.covered(batch));
    }

    /// Takes the state of partitions for a checkpoint, says so, and writes it.
    pub async fn checkpoint(
        &self,
        site: &Arc<TaskRunner>,
        link: &Sender<ToMaster>,
        (checkpoint, file): (u64, String),
        since: Since,
    ) {
        let of = Arc::clone(site);
        let captured = on_disk(async move {
            let since = since.iter();
            of.states
                .capture(since.map(|(partition, since)| (*partition as usize, since)))
        })
        .await;
        link.say(&ToMaster::Taken { checkpoint });
        let store = self.checkpoints.clone();
        let written = match captured {
            Ok(captured) => blocking(move |runtime| write(&store, runtime, file, captured)).await,
            Err(error) => Err(error),
        };
        link.say(&ToMaster::Written {
            checkpoint,
            written: written.map_err(|error| error.to_string()),
        });
    }
}
