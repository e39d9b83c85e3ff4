//! [`BlockJournal`]: the blocks that one worker of a cluster received, on disk.
//!
//! Each epoch of a worker has a journal in its own directory, below that of the program. A resuming master takes
//! these away before it reads them: see [`Journal::fenced`]. The worker may still be running and writing to its
//! files, so the first read records their valid lengths ([`read_each_taken`]). The master removes them once checkpoints cover
//! all their blocks.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::durable::{CheckpointedBlocks, JournalRetention};
use dstreams_control::{BatchTime, BlockId, ReceiverId};

use super::retained_journal::RetainedJournal;
use super::set_aside::{Blocks, block_of};
use crate::blocks::Block;
use crate::crash::point;
use crate::debug::debug_as;
use crate::error::{Error, Result};
use crate::journal::{Journal, Owner, Ticket, read_each_taken, sync_dir};

/// Prefixes of directory names: journals being written, and those taken away from their writers.
const WRITTEN: &str = "received-";
const TAKEN: &str = "taken-";
/// Earlier programs took them away under this name.
const FENCED: &str = "fenced-";
/// Half a journal, which no restart reads: one that is being removed, or that an earlier program was copying.
const HALF: &str = ".taken-";

/// The blocks that one worker of a cluster received, on disk.
pub struct BlockJournal {
    journal: RetainedJournal,
    dir: PathBuf,
    /// The master of this worker.
    owner: Owner,
}

debug_as!(BlockJournal);

impl BlockJournal {
    /// Begins the journal of a worker, in a new directory.
    pub fn begin(dir: PathBuf, owner: Owner) -> Result<Self> {
        let journal = Journal::fenced(&dir, Some(owner.clone()))?;
        // A master that took over before the directory was there did not take it away.
        owner.check()?;
        Ok(BlockJournal {
            journal: RetainedJournal::new(journal, JournalRetention::default()),
            owner,
            dir,
        })
    }

    /// Writes a block; it is durable when its ticket is synced.
    pub fn block(&self, input: u32, block: &Block, schema: &SchemaRef) -> Result<Ticket> {
        self.journal.block(input, block, schema)
    }

    /// Waits until a block is on disk. Fails permanently if it cannot be, or the journal was taken away.
    pub async fn synced(&self, ticket: Ticket) -> Result<()> {
        self.journal.synced(ticket).await
    }

    /// A checkpoint of `batch` covers these blocks.
    pub fn checkpointed(&self, batch: BatchTime, blocks: &CheckpointedBlocks) {
        self.journal.release(batch, blocks, None);
    }

    /// Whether a master has taken it away, so that this worker is in no cluster. False if that cannot be
    /// determined.
    pub fn is_fenced(&self) -> bool {
        let is_gone = matches!(&std::fs::metadata(&self.dir), Err(error) if error.kind() == ErrorKind::NotFound);
        is_gone || self.owner.still_owns().is_ok_and(|owns| !owns)
    }
}

/// The directory to which a worker of the n-th process of a program writes.
pub fn dir_of(program: &Path, incarnation: u64, worker: u32) -> PathBuf {
    program.join(format!("{WRITTEN}{incarnation}-{worker}"))
}

/// Takes away the journals of all workers of earlier processes, including those of interrupted restarts.
pub(super) fn take_all(program: &Path, owner: &Owner) -> Result<Vec<PathBuf>> {
    for (of, path) in named(program, WRITTEN)? {
        owner.check()?;
        match std::fs::rename(&path, program.join(format!("{TAKEN}{of}"))) {
            // The process before this one, which may still run, was faster: it took over from a lost worker.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => done.map_err(|error| Error::file("rename", &path, error))?,
        }
    }
    for (of, fenced) in named(program, FENCED)? {
        let taken = program.join(format!("{TAKEN}{of}"));
        match taken.exists() {
            true => remove(&fenced)?,
            false => rename(&fenced, &taken)?,
        }
    }
    for (_, half) in named(program, HALF)? {
        remove_if_there(&half).map_err(|error| Error::file("remove", &half, error))?;
    }
    sync_dir(program)?;
    taken(program)
}

/// Takes away the journal of one worker of the n-th process, and reads the blocks in it that are `wanted`. Returns its
/// place, and these blocks with their inputs; none if it was never begun, or if checkpoints covered all of it.
pub(super) fn adopt(
    program: &Path,
    (incarnation, worker): (u64, u32),
    schemas: &[SchemaRef],
    wanted: impl Fn(BlockId) -> bool,
) -> Result<(PathBuf, Blocks)> {
    let taken = program.join(format!("{TAKEN}{incarnation}-{worker}"));
    match std::fs::rename(dir_of(program, incarnation, worker), &taken) {
        // A former master that still ran may have taken it.
        Err(error) if error.kind() == ErrorKind::NotFound && taken.exists() => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((taken, Vec::new())),
        done => done.map_err(|error| Error::file("rename", &taken, error))?,
    }
    sync_dir(program)?;
    point("takeover:taken");
    let mut blocks = Vec::new();
    read_each_taken(&taken, &mut |_, entry| {
        let block = block_of(entry, schemas)?;
        blocks.extend(block.filter(|(_, block)| wanted(block.meta.id)));
        Ok(())
    })?;
    Ok((taken, blocks))
}

/// Where the journal at this place is once it was taken away from its writer.
pub(super) fn once_taken(journal: &Path) -> Option<PathBuf> {
    let name = journal.file_name()?.to_str()?.strip_prefix(WRITTEN)?;
    Some(journal.with_file_name(format!("{TAKEN}{name}")))
}

/// The journals that were taken away.
pub(super) fn taken(program: &Path) -> Result<Vec<PathBuf>> {
    let taken = named(program, TAKEN)?.into_iter();
    Ok(taken.map(|(_, path)| path).collect())
}

/// The journals of all workers of this process and of earlier ones.
pub(super) fn all(program: &Path) -> Result<Vec<PathBuf>> {
    let mut all = taken(program)?;
    all.extend(named(program, WRITTEN)?.into_iter().map(|(_, path)| path));
    Ok(all)
}

/// The directories whose names have this prefix, in order, with the rest of their names.
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

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).map_err(|error| Error::file("remove", dir, error))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| Error::file("rename", from, error))
}

fn remove_if_there(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a journal that is to be removed a name that no restart reads: its files go one by one, and a process that is
/// killed in between must leave no half of a journal.
fn hide(journal: &Path) -> std::io::Result<PathBuf> {
    let name = journal.file_name().unwrap_or_default().to_string_lossy();
    let half = journal.with_file_name(format!(".{name}"));
    remove_if_there(&half)?;
    match std::fs::rename(journal, &half) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(half),
    }
}

/// Journals that nothing writes to, each with the receivers whose blocks it has.
#[derive(Default)]
pub(super) struct Ended(Vec<(PathBuf, BTreeSet<ReceiverId>)>);

impl Ended {
    pub fn add(&mut self, journal: PathBuf, receivers: BTreeSet<ReceiverId>) {
        self.0.push((journal, receivers));
    }

    /// A journal has another place now.
    pub fn moved(&mut self, from: &Path, to: PathBuf) {
        if let Some((journal, _)) = self.0.iter_mut().find(|(journal, _)| journal == from) {
            *journal = to;
        }
    }

    /// Takes out the journals that checkpoints cover completely.
    pub fn checkpointed(&mut self, checkpointed_blocks: &CheckpointedBlocks) -> Ended {
        let done = |(_, receivers): &mut (PathBuf, BTreeSet<ReceiverId>)| {
            receivers
                .iter()
                .all(|receiver| checkpointed_blocks.is_closed(*receiver))
        };
        Ended(self.0.extract_if(.., done).collect())
    }

    /// Removes them; returns those that could not be removed, to be retried. A shared disk may be slow: hold no
    /// lock meanwhile.
    pub fn remove(mut self) -> Ended {
        self.0.retain(
            |(journal, _)| match hide(journal).and_then(|half| remove_if_there(&half)) {
                Err(error) => {
                    tracing::warn!(journal = %journal.display(), %error, "cannot remove a journal");
                    true
                }
                Ok(()) => false,
            },
        );
        self
    }

    /// Puts back what was taken out.
    pub fn append(&mut self, mut others: Ended) {
        self.0.append(&mut others.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::journal::{DirLock, JournalEntry, read_taken};

    /// The process that owns the directory.
    fn owner(program: &Path) -> Owner {
        DirLock::take(program, None).unwrap().owner().clone()
    }

    /// Number of names beside the lock.
    fn others(program: &Path) -> usize {
        std::fs::read_dir(program).unwrap().count() - 1
    }

    fn committed(batch: u64) -> JournalEntry {
        let batch = BatchTime(batch);
        JournalEntry::Committed { batch }
    }

    fn entries(dir: &Path) -> Vec<JournalEntry> {
        let found = read_taken(dir).unwrap().entries.into_iter();
        found.map(|(_, entry)| entry).collect()
    }

    fn file_of(dir: &Path) -> std::fs::Metadata {
        std::fs::metadata(dir.join("journal-0000000001.log")).unwrap()
    }

    /// A master always reads the same entries, whatever the worker wrote later, and even if a master was killed
    /// before. It is the same file, so that a restart needs no extra space.
    #[test]
    fn a_fenced_worker_cannot_alter_the_taken_journal() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path();
        let journal = Journal::fenced(&dir_of(program, 3, 1), None).unwrap();
        let on = |ticket| futures::executor::block_on(journal.synced(ticket));
        on(journal.append(committed(1))).unwrap();
        let file = file_of(&dir_of(program, 3, 1));
        // A master that was killed after it took the journal, while it wrote the lengths.
        let taken = take_all(program, &owner(program)).unwrap();
        assert_eq!(taken, [program.join("taken-3-1")]);
        std::fs::write(taken[0].join(".lengths.tmp"), b"half").unwrap();
        for batch in 2..5 {
            assert_eq!(take_all(program, &owner(program)).unwrap(), taken);
            assert_eq!(entries(&taken[0]), [committed(1)]);
            // Later entries are in the file, but not acknowledged.
            assert!(on(journal.append(committed(batch))).is_err());
            assert_eq!(file_of(&taken[0]).ino(), file.ino());
            let names = std::fs::read_dir(&taken[0]).unwrap();
            let names: BTreeSet<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            // That half is removed with the journal.
            let wanted = [".lengths.tmp", "journal-0000000001.log", "lengths"];
            assert_eq!(names, BTreeSet::from(wanted.map(std::ffi::OsString::from)));
            assert_eq!(others(program), 1);
        }
        assert!(
            file_of(&taken[0]).len() > file.len(),
            "the worker wrote nothing"
        );
    }

    /// An entry that is still being written when the journal is read does not count, even once it is complete.
    #[test]
    fn an_entry_completed_later_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path();
        let journal = Journal::fenced(&dir_of(program, 3, 1), None).unwrap();
        let on = |ticket| futures::executor::block_on(journal.synced(ticket));
        on(journal.append(committed(1))).unwrap();
        on(journal.append(committed(2))).unwrap();
        drop(journal);
        let path = dir_of(program, 3, 1).join("journal-0000000001.log");
        let whole = std::fs::read(&path).unwrap();
        // The empty entry after each sync is 32 bytes: this is within the second one.
        std::fs::write(&path, &whole[..whole.len() - 33]).unwrap();
        let taken = take_all(program, &owner(program)).unwrap();
        assert_eq!(entries(&taken[0]), [committed(1)]);
        std::fs::write(taken[0].join("journal-0000000001.log"), &whole).unwrap();
        assert_eq!(entries(&taken[0]), [committed(1)]);
        // Entries that counted must still be there.
        std::fs::write(taken[0].join("journal-0000000001.log"), &whole[..40]).unwrap();
        let error = read_taken(&taken[0]).unwrap_err().to_string();
        assert!(error.contains("bytes, and has 40"), "{error}");
    }

    /// A process may be killed while it removes a journal that checkpoints cover: whatever files are left, a restart
    /// does not read them.
    #[test]
    fn a_removal_that_is_interrupted_leaves_no_half_of_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path();
        for left in [&["lengths"][..], &["journal-0000000001.log"], &[]] {
            let journal = Journal::fenced(&dir_of(program, 3, 1), None).unwrap();
            let ticket = journal.append(committed(1));
            futures::executor::block_on(journal.synced(ticket)).unwrap();
            let taken = take_all(program, &owner(program)).unwrap();
            assert_eq!(entries(&taken[0]), [committed(1)]);
            let half = hide(&taken[0]).unwrap();
            for entry in std::fs::read_dir(&half).unwrap() {
                let entry = entry.unwrap();
                if !left.iter().any(|name| entry.file_name() == **name) {
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
            assert!(take_all(program, &owner(program)).unwrap().is_empty());
            assert_eq!(others(program), 0);
        }
        // A whole removal, and one of a journal that is gone already.
        let taken = program.join("taken-3-1");
        std::fs::create_dir(&taken).unwrap();
        for _ in 0..2 {
            let mut ended = Ended::default();
            ended.add(taken.clone(), BTreeSet::new());
            assert!(ended.remove().0.is_empty());
            assert_eq!(others(program), 0);
        }
    }

    /// Interrupted restarts of earlier programs, which made copies.
    #[test]
    fn journals_taken_by_earlier_programs_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path();
        let fenced = |worker, batch| {
            let dir = dir_of(program, 3, worker);
            let journal = Journal::fenced(&dir, None).unwrap();
            let ticket = journal.append(committed(batch));
            futures::executor::block_on(journal.synced(ticket)).unwrap();
            let name = dir.file_name().unwrap().to_str().unwrap();
            let fenced = program.join(name.replace(WRITTEN, FENCED));
            rename(&dir, &fenced).unwrap();
            fenced
        };
        let half = program.join(".taken-3-1");
        fenced(1, 1);
        std::fs::create_dir(&half).unwrap();
        std::fs::write(half.join("journal-0000000001.log"), b"half").unwrap();
        let copied = fenced(2, 2);
        rename(&copied, &program.join("taken-3-2")).unwrap();
        fenced(2, 3);
        let taken = take_all(program, &owner(program)).unwrap();
        assert_eq!(
            taken,
            ["taken-3-1", "taken-3-2"].map(|name| program.join(name))
        );
        assert_eq!(entries(&taken[0]), [committed(1)]);
        assert_eq!(entries(&taken[1]), [committed(2)]);
        assert_eq!(others(program), 2);
    }
}
