//! [`BlockJournal`]: the blocks that one worker of a cluster received, on disk.
//!
//! Each life of a worker has a journal in a directory of its own, below that of the program. A master that goes on
//! takes these away before it reads them: see [`Journal::fenced`]. It removes them when checkpoints have all that
//! counts of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::durable::{Covered, Needs};
use dstreams_control::{BatchTime, ReceiverId};

use crate::error::{Error, Result};
use crate::node::journal::{Entry, Journal, Ticket};
use crate::receive::Block;

/// What the names of directories that are written begin with, and those that were taken away.
const WRITTEN: &str = "received-";
const TAKEN: &str = "taken-";

/// See the module.
pub struct BlockJournal {
    journal: Journal,
    needs: Mutex<Needs<Ticket>>,
    dir: PathBuf,
}

impl BlockJournal {
    /// Begins the journal of a worker, in a directory that nobody had.
    pub fn begin(dir: PathBuf) -> Result<Self> {
        Ok(BlockJournal {
            journal: Journal::fenced(&dir)?,
            needs: Mutex::default(),
            dir,
        })
    }

    /// Writes a block that was received, or had been before what was asked. It is safe when its ticket is synced.
    pub fn block(&self, input: u32, block: &Block, schema: &SchemaRef) -> Result<Ticket> {
        let bytes = block.to_bytes(schema)?;
        let mut needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = self.journal.append(Entry::Block { input, bytes });
        needs.block(block.meta.id, ticket);
        Ok(ticket)
    }

    /// Waits until a block is on disk. Fails for good where it cannot be, or the journal was taken away.
    pub async fn synced(&self, ticket: Ticket) -> Result<()> {
        self.journal.synced(ticket).await
    }

    /// A checkpoint of `batch` has these blocks.
    pub fn covered(&self, batch: BatchTime, blocks: &Covered) {
        let mut needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        let first = needs.let_go(batch, blocks);
        self.journal.let_go_before(first.unwrap_or(Ticket::END));
    }

    /// Whether a master has taken it away: this worker is of no cluster any more.
    pub fn was_taken(&self) -> bool {
        !self.dir.exists()
    }
}

/// Where a worker of the n-th process of a program writes.
pub fn dir_of(program: &Path, incarnation: u64, worker: u32) -> PathBuf {
    program.join(format!("{WRITTEN}{incarnation}-{worker}"))
}

/// Takes away the journals of all workers of earlier processes; those of interrupted restarts are among them.
pub(super) fn take_all(program: &Path) -> Result<Vec<PathBuf>> {
    let mut taken = Vec::new();
    let failed = |error| Error::file("read", program, error);
    for entry in std::fs::read_dir(program).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(of) = name.strip_prefix(WRITTEN) {
            let to = program.join(format!("{TAKEN}{of}"));
            std::fs::rename(&path, &to).map_err(|error| Error::file("rename", &path, error))?;
            taken.push(to);
        } else if name.starts_with(TAKEN) {
            taken.push(path);
        }
    }
    let synced = std::fs::File::open(program).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::file("sync", program, error))?;
    taken.sort();
    Ok(taken)
}

/// Journals that nobody writes to any more, each with the receivers it has blocks of.
#[derive(Default)]
pub(super) struct Ended(Vec<(PathBuf, BTreeSet<ReceiverId>)>);

impl Ended {
    pub fn add(&mut self, journal: PathBuf, receivers: BTreeSet<ReceiverId>) {
        self.0.push((journal, receivers));
    }

    /// Removes those of which checkpoints have all that counts.
    pub fn remove(&mut self, covered: &Covered) {
        self.0.retain(|(journal, receivers)| {
            if !receivers.iter().all(|receiver| covered.is_closed(*receiver)) {
                return true;
            }
            match std::fs::remove_dir_all(journal) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(journal = %journal.display(), %error, "a journal was not removed");
                    true
                }
                _ => false,
            }
        });
    }
}
