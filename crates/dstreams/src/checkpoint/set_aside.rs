//! Batches that are set aside: their records and the reason, in `failed/batch=<milliseconds>/` of the directory.
//!
//! `blocks` has the records: a line that names the format; for each block the length of its entry (u64, little
//! endian) and a journal entry; then the checksum of all of it. `error.txt` has the reason. A directory appears
//! atomically, and counts once a journal entry names it: until then, a restart runs the batch with its records.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::durable::{CheckpointMeta, Entry, Replay};
use dstreams_control::{BatchTime, BlockMeta};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::block_journal;
use super::location::Store;
use super::manifest::Manifest;
use super::recover::without_records;
use super::writer::{PartAt, on_disk};
use crate::blocks::Block;
use crate::crash::point;
use crate::error::{Error, Result};
use crate::execute::BatchSequence;
use crate::journal::{
    EntryPlace, JournalEntry, Owner, look_at_each, random_name, read_entry, sync_dir,
};

const FAILED_DIR: &str = "failed";
const BATCH_PREFIX: &str = "batch=";
const HEADER: &[u8] = b"dstreams set aside 2\n";
/// Without the checksum. Earlier programs wrote it.
const HEADER_1: &[u8] = b"dstreams set aside 1\n";

/// Attempts to read a journal: during each, its writer may have removed another file, which is rare.
const READ_ATTEMPTS: u32 = 5;

/// The blocks of a batch, with their inputs.
pub type Blocks = Vec<(u32, Arc<Block>)>;

/// What the state as of the last batch that took effect is made from.
#[derive(Debug)]
pub struct RecoverySource {
    /// The newest checkpoint, and its store.
    pub state: Option<(Manifest, Store)>,
    /// The batches after it that took effect, in order. Their blocks are read when they are needed.
    pub batches: Vec<RecoveryBatch>,
    /// The columns of each input.
    schemas: Arc<[SchemaRef]>,
}

/// A batch that took effect, and where its blocks are.
#[derive(Debug)]
pub struct RecoveryBatch {
    pub batch: BatchTime,
    blocks: Vec<(BlockMeta, JournaledBlock)>,
}

/// A block in a journal.
#[derive(Debug, Clone)]
struct JournaledBlock {
    journal: Arc<Path>,
    entry: EntryPlace,
}

impl JournaledBlock {
    fn read(&self) -> Result<JournalEntry> {
        let read = read_entry(&self.journal, self.entry);
        // A worker that was lost meanwhile: its journal was adopted, which gives it another name.
        match (read, block_journal::once_taken(&self.journal)) {
            (Err(error), Some(taken)) if is_not_found(&error) => read_entry(&taken, self.entry),
            (read, _) => read,
        }
    }
}

impl RecoveryBatch {
    /// Its blocks, without their records.
    pub fn blocks(&self) -> impl Iterator<Item = &BlockMeta> {
        self.blocks.iter().map(|(meta, _)| meta)
    }
}

impl RecoverySource {
    /// The batch of the checkpoint; 0 if there is none.
    pub fn batch(&self) -> BatchTime {
        let state = self.state.as_ref();
        state.map_or(BatchTime(0), |(manifest, _)| manifest.batch())
    }

    /// From the checkpoint on.
    pub fn sequence(&self, interval_ms: u64) -> BatchSequence {
        let state = self.state.as_ref();
        BatchSequence::after(state.map(|(manifest, _)| manifest.batch()), interval_ms)
    }

    /// The parts from which to restore a partition, by state; empty without a checkpoint.
    pub fn sources(&self, partition: usize) -> Vec<Vec<PartAt>> {
        let state = self.state.as_ref();
        state.map_or_else(Vec::new, |(manifest, _)| manifest.sources(partition))
    }

    /// Reads the blocks of one of the batches.
    pub async fn blocks(&self, batch: &RecoveryBatch) -> Result<Blocks> {
        let places: Vec<_> = batch
            .blocks
            .iter()
            .map(|(_, place)| place.clone())
            .collect();
        let schemas = Arc::clone(&self.schemas);
        let read = async move {
            let mut blocks = Vec::with_capacity(places.len());
            for place in places {
                let entry = place.read()?;
                blocks.extend(block_of(entry, &schemas)?);
            }
            Ok(blocks)
        };
        on_disk(read).await
    }

    /// Reads the batches after a checkpoint, if there is one, from the journals of a program.
    pub(super) async fn read(
        dir: PathBuf,
        state: Option<(Manifest, Store)>,
        schemas: Vec<SchemaRef>,
    ) -> Result<Self> {
        // Offsets do not matter here.
        let point = state
            .as_ref()
            .map(|(manifest, _)| manifest.checkpoint_meta(&Default::default()));
        let schemas: Arc<[SchemaRef]> = schemas.into();
        let of = Arc::clone(&schemas);
        let read = move || read_batches(&dir, point, &of);
        let batches = on_disk(async move { read() }).await?;
        Ok(RecoverySource {
            state,
            batches,
            schemas,
        })
    }
}

fn read_batches(
    dir: &Path,
    point: Option<CheckpointMeta>,
    schemas: &[SchemaRef],
) -> Result<Vec<RecoveryBatch>> {
    let mut replay = Replay::new(point);
    let mut found = HashMap::new();
    // The master's first: the blocks in its cuts are on disk.
    let mut journals = vec![dir.to_owned()];
    journals.extend(block_journal::all(dir)?);
    for journal in journals {
        let journal: Arc<Path> = journal.into();
        for (entry, place) in look_with_retries(&journal, schemas)? {
            if let Entry::Block { meta, .. } = &entry {
                let journal = Arc::clone(&journal);
                let place = JournaledBlock {
                    journal,
                    entry: place,
                };
                found.insert(meta.id, place);
            }
            replay.take(entry);
        }
    }
    let restart = replay.decide().map_err(|error| Error::Bytes {
        what: format!("the journal in {}", dir.display()),
        message: error.to_string(),
    })?;
    let batches = restart.committed.into_iter().map(|(batch, metas)| {
        let of = |meta: BlockMeta| {
            let place = found.get(&meta.id)?;
            let known = restart.blocks.contains_key(&meta.id);
            known.then(|| (meta, place.clone()))
        };
        let blocks = match restart.controller.set_aside.contains(&batch) {
            true => Vec::new(),
            false => metas.into_iter().filter_map(of).collect(),
        };
        RecoveryBatch { batch, blocks }
    });
    Ok(batches.collect())
}

/// The block of an entry that has one, with its input.
pub(super) fn block_of(
    entry: JournalEntry,
    schemas: &[SchemaRef],
) -> Result<Option<(u32, Arc<Block>)>> {
    let input = match &entry {
        JournalEntry::Block { input, .. } | JournalEntry::SealedBlock { input, .. } => *input,
        _ => return Ok(None),
    };
    let (_, block) = without_records(entry, schemas)?;
    Ok(block.map(|block| (input, block)))
}

fn is_not_found(error: &Error) -> bool {
    let kind = std::io::ErrorKind::NotFound;
    matches!(error, Error::File { source, .. } if source.kind() == kind)
}

/// Reads the entries of a journal, without their records. Its writer may meanwhile remove files that checkpoints cover.
fn look_with_retries(journal: &Path, schemas: &[SchemaRef]) -> Result<Vec<(Entry, EntryPlace)>> {
    let mut tries = READ_ATTEMPTS;
    loop {
        let mut entries = Vec::new();
        let looked = look_at_each(journal, &mut |place, entry| {
            let (entry, _) = without_records(entry, schemas)?;
            entries.push((entry, place));
            Ok(())
        });
        match looked {
            Err(error) if is_not_found(&error) && tries > 1 => tries -= 1,
            // Removed, since its worker has ended.
            Err(error) if is_not_found(&error) && !journal.exists() => {
                return Ok(Vec::new());
            }
            looked => return looked.map(|()| entries),
        }
    }
}

/// The batches that are set aside in a directory, in order.
pub fn list(dir: &Path) -> Result<Vec<u64>> {
    let failed = dir.join(FAILED_DIR);
    let entries = match std::fs::read_dir(&failed) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", &failed, error)),
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let batch = |name: std::ffi::OsString| name.to_str()?.strip_prefix(BATCH_PREFIX)?.parse().ok();
    let mut batches: Vec<u64> = names.filter_map(batch).collect();
    batches.sort_unstable();
    Ok(batches)
}

/// Writes the blocks of a batch and the reason; returns their directory.
pub(super) async fn write(
    dir: &Path,
    batch: BatchTime,
    mut blocks: BoxStream<'static, Result<(u32, Arc<Block>)>>,
    schemas: &[SchemaRef],
    error: &str,
    owner: &Owner,
) -> Result<PathBuf> {
    let failed = dir.join(FAILED_DIR);
    let name = format!("{BATCH_PREFIX}{}", batch.millis());
    let path = failed.join(&name);
    // Another process that sets it aside has another.
    let hidden = failed.join(format!(".{name}.{}", random_name()));
    let remove = |path: &Path| match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let wrong = |error| Error::file("write", &path, error);
    std::fs::create_dir_all(&hidden).map_err(wrong)?;
    let create = |name: &str| File::create(hidden.join(name));
    let mut file = create("blocks").map_err(wrong)?;
    let mut sum = Xxh3::new();
    let mut put = |bytes: &[u8]| {
        sum.update(bytes);
        file.write_all(bytes).map_err(wrong)
    };
    put(HEADER)?;
    while let Some((input, block)) = blocks.try_next().await? {
        let schema = schemas.get(input as usize);
        let schema = schema.ok_or_else(|| {
            Error::internal(format!(
                "a block is of input {input}, which the program does not have"
            ))
        })?;
        let bytes = block.to_bytes(schema)?.into();
        let entry = JournalEntry::SealedBlock { input, bytes }.to_pieces();
        let entry = entry.whole();
        point("aside:block");
        let length = (entry.len() as u64).to_le_bytes();
        put(&length)?;
        put(&entry)?;
    }
    let sum = sum.digest().to_le_bytes();
    file.write_all(&sum).map_err(wrong)?;
    file.sync_all().map_err(wrong)?;
    let mut text = create("error.txt").map_err(wrong)?;
    let written = writeln!(text, "{error}").and_then(|()| text.sync_all());
    written.map_err(wrong)?;
    sync_dir(&hidden)?;
    // A process that lost the directory may not replace what the present one has set aside.
    owner.check()?;
    // Left by a process that was killed before the journal entry.
    remove(&path).map_err(wrong)?;
    std::fs::rename(&hidden, &path).map_err(wrong)?;
    sync_dir(&failed)?;
    sync_dir(dir)?;
    let is_half = |file: &std::ffi::OsStr| {
        let file = file.to_str().and_then(|file| file.strip_prefix('.'));
        file.is_some_and(|file| file == name || file.starts_with(&format!("{name}.")))
    };
    for entry in std::fs::read_dir(&failed).map_err(wrong)?.flatten() {
        if is_half(&entry.file_name()) {
            remove(&entry.path()).map_err(wrong)?;
        }
    }
    Ok(path)
}

/// The records of a batch that was set aside in a directory.
pub fn read(dir: &Path, batch: BatchTime, schemas: &[SchemaRef]) -> Result<Blocks> {
    let path = dir
        .join(FAILED_DIR)
        .join(format!("{BATCH_PREFIX}{}", batch.millis()));
    let path = path.join("blocks");
    let bytes = std::fs::read(&path).map_err(|error| Error::file("read", &path, error))?;
    let wrong = |at: usize, message: &str| Error::Bytes {
        what: format!("{} at byte {at}", path.display()),
        message: format!(
            "{message}; restore the file from a copy, or remove the directory of the batch to give its records up"
        ),
    };
    let whole = match bytes.strip_prefix(HEADER_1) {
        Some(_) => &*bytes,
        None => {
            let split = bytes.split_last_chunk();
            let (whole, sum) = split.ok_or_else(|| wrong(0, "it is too short"))?;
            if xxh3_64(whole) != u64::from_le_bytes(*sum) {
                return Err(wrong(0, "it is not what was written"));
            }
            whole
        }
    };
    let mut rest = [HEADER, HEADER_1]
        .iter()
        .find_map(|header| whole.strip_prefix(*header))
        .ok_or_else(|| wrong(0, "its header is wrong"))?;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let at = whole.len() - rest.len();
        let split = rest.split_first_chunk().and_then(|(length, after)| {
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            after.split_at_checked(length)
        });
        let (entry, after) = split.ok_or_else(|| wrong(at, "it ends too early"))?;
        let of_entry = |error: Error| wrong(at, &error.to_string());
        let entry = JournalEntry::from_bytes(entry).map_err(of_entry)?;
        let input = match &entry {
            JournalEntry::SealedBlock { input, .. } => *input,
            _ => return Err(wrong(at, "it has an entry that is not a block")),
        };
        let (_, block) = without_records(entry, schemas).map_err(of_entry)?;
        blocks.extend(block.map(|block| (input, block)));
        rest = after;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use dstreams_control::{BlockId, ReceiverId};
    use futures::executor::block_on;
    use futures::{StreamExt, stream};

    use super::*;
    use crate::journal::DirLock;
    use crate::journal::Journal;
    use crate::stream::record::{Record, batch_of, records_of};

    /// Blocks of two inputs with the same columns.
    fn blocks() -> Blocks {
        let block = |input: u32| {
            let rows = batch_of([format!("of input {input}")]).unwrap();
            let id = BlockId {
                receiver: ReceiverId(u64::from(input)),
                seq: 7,
            };
            (input, Arc::new(Block::new(id, vec![rows], 10, Vec::new())))
        };
        vec![block(0), block(1)]
    }

    fn texts(blocks: &Blocks) -> Vec<(u32, Vec<String>)> {
        let texts = |block: &Block| records_of::<String>(&block.batches[0]).unwrap();
        blocks
            .iter()
            .map(|(input, block)| (*input, texts(block)))
            .collect()
    }

    /// A worker may be lost while the state is rebuilt from its blocks.
    #[test]
    fn blocks_are_read_from_a_journal_that_was_adopted_meanwhile() {
        let program = tempfile::tempdir().unwrap();
        let schemas = vec![String::schema(), String::schema()];
        let written = |journal: &Journal, entries: Vec<JournalEntry>| {
            let tickets = entries.into_iter().map(|entry| journal.append(entry));
            block_on(journal.synced(tickets.last().unwrap())).unwrap();
        };
        let of_worker =
            Journal::fenced(&block_journal::dir_of(program.path(), 0, 1), None).unwrap();
        let entry = |(input, block): &(u32, Arc<Block>)| JournalEntry::SealedBlock {
            input: *input,
            bytes: block.to_bytes(&schemas[0]).unwrap().into(),
        };
        written(&of_worker, blocks().iter().map(entry).collect());
        let next = crate::journal::read(program.path()).unwrap().next();
        let of_master = Journal::open(program.path(), next, None, None).unwrap();
        let (batch, wanted) = (BatchTime(300), blocks());
        let metas: Vec<_> = wanted.iter().map(|(_, block)| block.meta).collect();
        let cut = JournalEntry::Cut {
            batch,
            after: None,
            blocks: metas.iter().map(|meta| meta.id).collect(),
        };
        let taken_effect = [
            JournalEntry::Committing { batch },
            JournalEntry::Committed { batch },
        ];
        let opened = JournalEntry::Opened { incarnation: 0 };
        let all = [opened, cut].into_iter().chain(taken_effect);
        written(&of_master, all.collect());

        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = program.path().to_owned();
        let source = RecoverySource::read(dir, None, schemas.clone());
        let source = runtime.block_on(source).unwrap();
        let [of_batch] = &source.batches[..] else {
            panic!("{source:?}")
        };
        assert_eq!(of_batch.batch, batch);
        assert_eq!(of_batch.blocks().copied().collect::<Vec<_>>(), metas);
        let found = || runtime.block_on(source.blocks(of_batch)).unwrap();
        assert_eq!(texts(&found()), texts(&blocks()));
        let adopted = block_journal::adopt(program.path(), (0, 1), &schemas, |_| true);
        let (_, adopted) = adopted.unwrap();
        assert_eq!(texts(&adopted), texts(&blocks()));
        assert_eq!(texts(&found()), texts(&blocks()));
    }

    #[test]
    fn every_change_of_a_set_aside_batch_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (batch, schemas) = (BatchTime(300), [String::schema(), String::schema()]);
        let written = stream::iter(blocks().into_iter().map(Ok)).boxed();
        let owner = DirLock::take(dir.path(), None).unwrap().owner().clone();
        let path = block_on(write(dir.path(), batch, written, &schemas, "why", &owner)).unwrap();
        let path = path.join("blocks");
        let found = || read(dir.path(), batch, &schemas);
        assert_eq!(texts(&found().unwrap()), texts(&blocks()));
        let bytes = std::fs::read(&path).unwrap();
        let refused = |changed: &[u8], what: &str| {
            std::fs::write(&path, changed).unwrap();
            let error = found()
                .err()
                .unwrap_or_else(|| panic!("{what} is not found"));
            let text = error.to_string();
            for words in [
                "batch=300/blocks",
                "at byte",
                "restore the file from a copy",
            ] {
                assert!(text.contains(words), "{text}");
            }
        };
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            refused(&changed, &format!("byte {at}"));
            refused(&bytes[..at], &format!("the end after {at} bytes"));
            changed = bytes.clone();
            changed[at..].fill(0);
            if changed != bytes {
                refused(&changed, &format!("zeros after {at} bytes"));
            }
        }
        let twice = [&bytes[..], &bytes[HEADER.len()..]].concat();
        refused(&twice, "a repeated entry");
        // The format of earlier programs.
        let old = [HEADER_1, &bytes[HEADER.len()..bytes.len() - 8]].concat();
        std::fs::write(&path, &old).unwrap();
        assert_eq!(texts(&found().unwrap()), texts(&blocks()));
        for at in 0..old.len() {
            std::fs::write(&path, &old[..at]).unwrap();
            let _ = found();
        }
        refused(&old[..old.len() - 1], "the end of an old one");
    }
}
