//! [`BlockJournal`]: the blocks that one worker of a cluster received, on disk.
//!
//! Each life of a worker has a journal in a directory of its own, below that of the program. A master that goes on
//! takes these away before it reads them: see [`Journal::fenced`]. What it reads are copies: the worker may live on and
//! write to its files, which would then have more when they are read once more, or be damaged where their end was cut.
//! It removes them when checkpoints have all that counts of them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::durable::{Covered, Needs};
use dstreams_control::{BatchTime, ReceiverId};

use crate::error::{Error, Result};
use crate::node::journal::{Entry, Journal, Owner, Ticket, sync_dir};
use crate::receive::Block;

/// What the names of directories begin with: those that are written, those that were taken away from who writes, copies
/// that are made of these, and those that are whole.
const WRITTEN: &str = "received-";
const FENCED: &str = "fenced-";
const COPYING: &str = ".taken-";
const TAKEN: &str = "taken-";

/// See the module.
pub struct BlockJournal {
    journal: Journal,
    needs: Mutex<Needs<Ticket>>,
    dir: PathBuf,
    /// The master that this worker is of.
    owner: Owner,
}

impl BlockJournal {
    /// Begins the journal of a worker, in a directory that nobody had.
    pub fn begin(dir: PathBuf, owner: Owner) -> Result<Self> {
        Ok(BlockJournal {
            journal: Journal::fenced(&dir, Some(owner.clone()))?,
            owner,
            needs: Mutex::default(),
            dir,
        })
    }

    /// Writes a block that was received, or had been before what was asked. It is safe when its ticket is synced.
    pub fn block(&self, input: u32, block: &Block, schema: &SchemaRef) -> Result<Ticket> {
        let bytes = block.to_pieces(schema)?;
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
        self.journal.let_go_before(first, None);
    }

    /// Whether a master has taken it away: this worker is of no cluster any more. Not where that cannot be known.
    pub fn was_taken(&self) -> bool {
        let is_gone = matches!(&std::fs::metadata(&self.dir), Err(error) if error.kind() == ErrorKind::NotFound);
        is_gone || self.owner.is_there().is_ok_and(|is_there| !is_there)
    }
}

/// Where a worker of the n-th process of a program writes.
pub fn dir_of(program: &Path, incarnation: u64, worker: u32) -> PathBuf {
    program.join(format!("{WRITTEN}{incarnation}-{worker}"))
}

/// Takes away the journals of all workers of earlier processes; those of interrupted restarts are among them.
pub(super) fn take_all(program: &Path) -> Result<Vec<PathBuf>> {
    for (of, path) in named(program, WRITTEN)? {
        rename(&path, &program.join(format!("{FENCED}{of}")))?;
    }
    sync_dir(program)?;
    for (of, fenced) in named(program, FENCED)? {
        let (copy, taken) = (
            program.join(format!("{COPYING}{of}")),
            program.join(format!("{TAKEN}{of}")),
        );
        if !taken.exists() {
            copy_files(&fenced, &copy)?;
            rename(&copy, &taken)?;
            sync_dir(program)?;
        }
        std::fs::remove_dir_all(&fenced).map_err(|error| Error::file("remove", &fenced, error))?;
    }
    taken(program)
}

/// Those that were taken away.
pub(super) fn taken(program: &Path) -> Result<Vec<PathBuf>> {
    let taken = named(program, TAKEN)?.into_iter();
    Ok(taken.map(|(_, path)| path).collect())
}

/// The directories with names that begin so, in order, with the rest of their names.
fn named(program: &Path, prefix: &str) -> Result<Vec<(String, PathBuf)>> {
    let failed = |error| Error::file("read", program, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(program).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let of = name.and_then(|name| name.strip_prefix(prefix));
        found.extend(of.map(str::to_owned).map(|of| (of, path)));
    }
    found.sort();
    Ok(found)
}

/// Copies the files of a directory; they are on disk when this returns.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        if to.exists() {
            std::fs::remove_dir_all(to)?;
        }
        std::fs::create_dir(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let path = to.join(entry.file_name());
            std::fs::copy(entry.path(), &path)?;
            let file = std::fs::File::options().write(true).open(&path)?;
            file.sync_all()?;
        }
        std::fs::File::open(to)?.sync_all()
    };
    copy().map_err(|error| Error::file("copy", from, error))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| Error::file("rename", from, error))
}

/// Journals that nobody writes to any more, each with the receivers it has blocks of.
#[derive(Default)]
pub(super) struct Ended(Vec<(PathBuf, BTreeSet<ReceiverId>)>);

impl Ended {
    pub fn add(&mut self, journal: PathBuf, receivers: BTreeSet<ReceiverId>) {
        self.0.push((journal, receivers));
    }

    /// Takes out those of which checkpoints have all that counts.
    pub fn covered(&mut self, covered: &Covered) -> Ended {
        let done = |(_, receivers): &mut (PathBuf, BTreeSet<ReceiverId>)| {
            receivers
                .iter()
                .all(|receiver| covered.is_closed(*receiver))
        };
        Ended(self.0.extract_if(.., done).collect())
    }

    /// Removes them; returns those that could not be, to be tried again. A shared disk may take long: no lock is to be
    /// held meanwhile.
    pub fn remove(mut self) -> Ended {
        self.0.retain(|(journal, _)| match std::fs::remove_dir_all(journal) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(journal = %journal.display(), %error, "a journal was not removed");
                true
            }
            _ => false,
        });
        self
    }

    /// Puts back what was taken out.
    pub fn append(&mut self, mut others: Ended) {
        self.0.append(&mut others.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::journal::read;

    fn committed(batch: u64) -> Entry {
        let batch = BatchTime(batch);
        Entry::Committed { batch }
    }

    /// What is found is the same when a master reads it again, whatever its worker went on to write.
    #[test]
    fn who_lives_on_does_not_change_what_was_taken() {
        let program = std::env::temp_dir().join(format!("dstreams-taken-{}", std::process::id()));
        let journal = Journal::fenced(&dir_of(&program, 3, 1), None).unwrap();
        let on = |ticket| futures::executor::block_on(journal.synced(ticket));
        on(journal.append(committed(1))).unwrap();
        for batch in 2..5 {
            let taken = take_all(&program).unwrap();
            assert_eq!(taken, [program.join("taken-3-1")]);
            let found = read(&taken[0]).unwrap().entries;
            let found: Vec<_> = found.into_iter().map(|(_, entry)| entry).collect();
            assert_eq!(found, [committed(1)]);
            assert!(on(journal.append(committed(batch))).is_err());
        }
        std::fs::remove_dir_all(&program).unwrap();
    }

    /// A restart that was interrupted left a copy that is not whole.
    #[test]
    fn half_a_copy_is_made_anew() {
        let program = std::env::temp_dir().join(format!("dstreams-half-{}", std::process::id()));
        let journal = Journal::fenced(&dir_of(&program, 3, 1), None).unwrap();
        let ticket = journal.append(committed(1));
        futures::executor::block_on(journal.synced(ticket)).unwrap();
        rename(&dir_of(&program, 3, 1), &program.join("fenced-3-1")).unwrap();
        std::fs::create_dir(program.join(".taken-3-1")).unwrap();
        std::fs::write(program.join(".taken-3-1/journal-0000000001.log"), b"half").unwrap();
        let taken = take_all(&program).unwrap();
        assert_eq!(read(&taken[0]).unwrap().entries.len(), 1);
        assert!(!program.join("fenced-3-1").exists());
        std::fs::remove_dir_all(&program).unwrap();
    }
}
