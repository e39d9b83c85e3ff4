//! Batches that are set aside: their records and the reason, in `failed/batch=<milliseconds>/` of the directory.
//!
//! `blocks` has the records: a line that names the format, then for each block the length of what follows (u64, little
//! endian) and an entry as a journal has it, with a checksum. `error.txt` says why. A directory is there as a whole or
//! not at all, and a journal entry after it makes it count: until then, a restart runs the batch with its records.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use dstreams_control::BatchTime;
use dstreams_control::durable::{Point, Replay};

use super::manifest::Manifest;
use super::received;
use super::restore::without_records;
use super::store::Store;
use super::{Durable, lock};
use crate::error::{Error, Result};
use crate::node::journal::{Entry, Ticket, look, sync_dir};
use crate::receive::Block;

const FAILED: &str = "failed";
const BATCH: &str = "batch=";
const HEADER: &[u8] = b"dstreams set aside 1\n";

/// The blocks of a batch, with their inputs.
pub type Blocks = Vec<(u32, Arc<Block>)>;

/// What the state as of the last batch that took effect is made from.
pub struct Earlier {
    /// The newest checkpoint, and where it is.
    pub state: Option<(Manifest, Store)>,
    /// The batches after it that took effect, in order.
    pub batches: Vec<(BatchTime, Blocks)>,
}

impl Durable {
    /// Sets the records of a batch aside, with the reason; they stay so when this returns.
    pub async fn set_aside(
        &self,
        batch: BatchTime,
        blocks: Blocks,
        schemas: Vec<SchemaRef>,
        error: &Error,
    ) -> Result<PathBuf> {
        let (dir, text) = (self.dir.clone(), error.to_string());
        let written = move || write(&dir, batch, &blocks, &schemas, &text);
        let path = super::checkpoint::on_disk(async move { written() }).await?;
        let ticket = self.journal.append(Entry::SetAside { batch });
        self.journal.synced(ticket).await?;
        Ok(path)
    }

    /// A batch is about to take effect: it may when this is synced, and can be set aside no more.
    pub fn committing(&self, batch: BatchTime) -> Ticket {
        self.journal.append(Entry::Committing { batch })
    }

    /// What the state before a batch that was set aside is made from. No checkpoint is being written meanwhile, and
    /// none may begin.
    pub async fn earlier(&self, schemas: Vec<SchemaRef>) -> Result<Earlier> {
        self.close().await;
        let newest = lock(&self.newest).clone();
        let state = (newest.number > 0).then(|| (newest, self.store.clone()));
        // Which producers came how far does not matter here.
        let point = state
            .as_ref()
            .map(|(manifest, _)| manifest.point(&Default::default()));
        let dir = self.dir.clone();
        let read = move || read_earlier(&dir, point, &schemas);
        let batches = super::checkpoint::on_disk(async move { read() }).await?;
        Ok(Earlier { state, batches })
    }
}

fn read_earlier(
    dir: &Path,
    point: Option<Point>,
    schemas: &[SchemaRef],
) -> Result<Vec<(BatchTime, Blocks)>> {
    let mut replay = Replay::new(point);
    let mut found = std::collections::HashMap::new();
    let mut journals = vec![dir.to_owned()];
    journals.extend(received::taken(dir)?);
    for journal in journals {
        for (_, entry) in look(&journal)?.entries {
            let (entry, block) = without_records(entry, schemas)?;
            replay.take(entry);
            found.extend(block.map(|block| (block.meta.id, block)));
        }
    }
    let restart = replay.decide().map_err(|error| Error::Bytes {
        what: format!("the journal in {}", dir.display()),
        message: error.to_string(),
    })?;
    let batches = restart.committed.into_iter().map(|(batch, metas)| {
        let of = |id| Some((*restart.blocks.get(id)?, Arc::clone(found.get(id)?)));
        let blocks = match restart.controller.set_aside.contains(&batch) {
            true => Vec::new(),
            false => metas.iter().filter_map(|meta| of(&meta.id)).collect(),
        };
        (batch, blocks)
    });
    Ok(batches.collect())
}

/// The batches that are set aside in a directory, in order.
pub fn list(dir: &Path) -> Result<Vec<u64>> {
    let failed = dir.join(FAILED);
    let entries = match std::fs::read_dir(&failed) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", &failed, error)),
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let batch = |name: std::ffi::OsString| name.to_str()?.strip_prefix(BATCH)?.parse().ok();
    let mut batches: Vec<u64> = names.filter_map(batch).collect();
    batches.sort_unstable();
    Ok(batches)
}

fn write(
    dir: &Path,
    batch: BatchTime,
    blocks: &Blocks,
    schemas: &[SchemaRef],
    error: &str,
) -> Result<PathBuf> {
    let failed = dir.join(FAILED);
    let (hidden, path) = (
        failed.join(format!(".{BATCH}{}", batch.0)),
        failed.join(format!("{BATCH}{}", batch.0)),
    );
    let remove = |path: &Path| match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let wrong = |error| Error::file("write", &path, error);
    // What a process left that was killed before its journal had it.
    remove(&hidden)
        .and_then(|()| remove(&path))
        .map_err(wrong)?;
    std::fs::create_dir_all(&hidden).map_err(wrong)?;
    let create = |name: &str| File::create(hidden.join(name));
    let mut file = create("blocks").map_err(wrong)?;
    file.write_all(HEADER).map_err(wrong)?;
    for (input, block) in blocks {
        let schema = schemas.get(*input as usize).ok_or(Error::NotRunning)?;
        let bytes = block.to_bytes(schema)?.into();
        let input = *input;
        let entry = Entry::SealedBlock { input, bytes }.to_pieces();
        let entry = entry.whole();
        let length = (entry.len() as u64).to_le_bytes();
        file.write_all(&length).map_err(wrong)?;
        file.write_all(&entry).map_err(wrong)?;
    }
    file.sync_all().map_err(wrong)?;
    let mut text = create("error.txt").map_err(wrong)?;
    let written = writeln!(text, "{error}").and_then(|()| text.sync_all());
    written.map_err(wrong)?;
    sync_dir(&hidden)?;
    std::fs::rename(&hidden, &path).map_err(wrong)?;
    sync_dir(&failed)?;
    sync_dir(dir)?;
    Ok(path)
}

/// The records of a batch that was set aside in a directory.
pub fn read(dir: &Path, batch: BatchTime, schemas: &[SchemaRef]) -> Result<Blocks> {
    let path = dir.join(FAILED).join(format!("{BATCH}{}", batch.0));
    let path = path.join("blocks");
    let bytes = std::fs::read(&path).map_err(|error| Error::file("read", &path, error))?;
    let wrong = |message: &str| Error::Bytes {
        what: path.display().to_string(),
        message: message.into(),
    };
    let rest = bytes.strip_prefix(HEADER);
    let mut rest = rest.ok_or_else(|| wrong("they do not begin as such a file does"))?;
    let mut blocks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok();
        let split = length.and_then(|length| after.split_at_checked(length));
        let (entry, after) = split.ok_or_else(|| wrong("they end too early"))?;
        let entry = Entry::from_bytes(entry)?;
        let input = match &entry {
            Entry::SealedBlock { input, .. } => *input,
            _ => return Err(wrong("they have something that is no block")),
        };
        let (_, block) = without_records(entry, schemas)?;
        blocks.extend(block.map(|block| (input, block)));
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(blocks),
        false => Err(wrong("they end too early")),
    }
}
