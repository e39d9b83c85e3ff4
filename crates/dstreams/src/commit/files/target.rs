//! [`Target`]: the directory of a [`FileSink`](super::FileSink), and how batches appear in it.
//!
//! A prepared file is `.attempts/<batch>-<partition>-<process>-<count>.<format>`: no two attempts have
//! one name. The commit moves the files of the batch into `.attempts/<batch>-<hash of their names>`,
//! so that a commit which is repeated goes on where it was, and one with other attempts begins anew.
//! Then one rename makes that `batch=<batch>`. A directory that is there and not empty cannot be
//! renamed to, so a batch appears once. Attempts at batches up to the newest that appeared, and no
//! others, are removed: nobody can need them. The process that commits holds a lock, `.attempts/lock`.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;
use xxhash_rust::xxh3::xxh3_64;

use super::disk::Disk;
use super::encode::encode;
use crate::error::{Error, Result};
use crate::stream::format::Format;
use crate::stream::output::Prepared;

/// Where files wait for their commit; hidden from whoever reads the target.
const ATTEMPTS: &str = ".attempts";
/// Among them; its name is no attempt's.
const LOCK: &str = "lock";
/// What names of committed batches begin with.
const BATCH: &str = "batch=";

pub(super) struct Target {
    directory: PathBuf,
    format: Format,
    /// Tells attempts of this process from those of others.
    process: u64,
    attempts: AtomicU64,
    // Lock order L7 in ARCHITECTURE.md: after `lock`.
    newest: Mutex<NewestBatch>,
    /// Held from the opening to the end.
    lock: Mutex<Option<File>>,
    pub(super) disk: Disk,
}

/// The newest batch in the target.
#[derive(Clone, Copy)]
enum NewestBatch {
    /// The target was not looked at.
    Unknown,
    Known(Option<BatchTime>),
}

impl Target {
    pub fn new(directory: PathBuf, format: Format) -> Self {
        Target {
            directory,
            format,
            process: RandomState::new().hash_one(std::process::id()),
            attempts: AtomicU64::new(0),
            newest: Mutex::new(NewestBatch::Unknown),
            lock: Mutex::default(),
            disk: Disk::default(),
        }
    }

    /// Takes the target for this process, and looks at what is there.
    pub fn open(&self) -> Result<Option<BatchTime>> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = self.directory.join(ATTEMPTS);
        self.disk.make_dir(&attempts)?;
        let free = lock.is_none();
        let taken = match free {
            true => self.disk.lock(&attempts.join(LOCK))?,
            false => None,
        };
        let Some(file) = taken else {
            return Err(Error::Locked {
                path: self.directory.display().to_string(),
                message: "written to by another output, of this program or of another process; give each a directory of \
                          its own"
                    .into(),
            });
        };
        let known = self.look()?;
        *self.newest() = NewestBatch::Known(known);
        *lock = Some(file);
        Ok(known)
    }

    /// Another process may have it.
    pub fn close(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.newest() = NewestBatch::Unknown;
    }

    fn newest(&self) -> MutexGuard<'_, NewestBatch> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the rows of a partition to a file of its own; returns its name.
    pub fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<String> {
        let attempts = self.directory.join(ATTEMPTS);
        self.disk.make_dir(&attempts)?;
        let count = self.attempts.fetch_add(1, Ordering::Relaxed);
        let (process, extension) = (self.process, self.format.extension());
        let start = start_of(batch, partition);
        let name = format!("{start}{process:016x}-{count}.{extension}");
        let path = attempts.join(&name);
        let mut file = self.disk.create(&path)?;
        let written = encode(self.format, rows, |bytes| {
            self.disk.write(&mut file, &path, bytes)
        });
        let written = written
            .and_then(|()| self.disk.sync(&file, &path))
            .and_then(|()| self.disk.sync_dir(&attempts));
        if let Err(error) = written {
            // It takes room; if it stays, it goes when its batch has committed.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok(name)
    }

    /// Makes a batch visible, unless it is.
    pub fn commit(&self, batch: BatchTime, prepared: &[Prepared]) -> Result<()> {
        let mut newest = self.newest();
        let known = match *newest {
            NewestBatch::Known(known) => known,
            NewestBatch::Unknown => self.look()?,
        };
        *newest = NewestBatch::Known(known);
        // I8 (ARCHITECTURE.md): a batch that is there is not committed again.
        if known.is_none_or(|known| known < batch) {
            let names = self.names(batch, prepared)?;
            if !names.is_empty() {
                self.publish(batch, &names)?;
            }
            *newest = NewestBatch::Known(Some(batch));
        }
        self.clean(known.map_or(batch, |known| known.max(batch)));
        Ok(())
    }

    /// The newest batch that is in the target, for sure.
    fn look(&self) -> Result<Option<BatchTime>> {
        let entries = self.disk.list(&self.directory)?;
        let batches = entries.iter().filter_map(|path| committed(path));
        let newest = batches.max();
        if newest.is_some() {
            // The process that renamed it may have ended before it was synced.
            self.disk.sync_dir(&self.directory)?;
        }
        Ok(newest)
    }

    /// Partition and name of each prepared file; checks that they are files of this batch.
    fn names<'a>(
        &self,
        batch: BatchTime,
        prepared: &'a [Prepared],
    ) -> Result<Vec<(usize, &'a str)>> {
        let mut names = Vec::new();
        for (partition, Prepared(bytes)) in prepared.iter().enumerate() {
            if bytes.is_empty() {
                continue;
            }
            let name = std::str::from_utf8(bytes).unwrap_or_default();
            let ours = name.starts_with(&start_of(batch, partition));
            if !ours || name.contains(['/', '\\']) {
                return Err(Error::Bytes {
                    what: format!("prepared partition {partition} of batch {batch}"),
                    message: format!("`{name}` is no file that this sink prepared for it"),
                });
            }
            names.push((partition, name));
        }
        Ok(names)
    }

    /// Makes the batch appear. If it cannot, and it is there, whoever was faster has committed it.
    fn publish(&self, batch: BatchTime, names: &[(usize, &str)]) -> Result<()> {
        let visible = self
            .directory
            .join(format!("{BATCH}{:013}", batch.millis()));
        let gathered = self.gather(batch, names);
        let renamed = gathered.and_then(|gathered| self.disk.rename(&gathered, &visible));
        if renamed.is_err() && committed(&visible).is_none() {
            return renamed;
        }
        self.disk.sync_dir(&self.directory)
    }

    /// Moves the files of a batch into a directory of their own.
    fn gather(&self, batch: BatchTime, names: &[(usize, &str)]) -> Result<PathBuf> {
        let attempts = self.directory.join(ATTEMPTS);
        let all: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
        let hash = xxh3_64(all.join("\n").as_bytes());
        let gathered = attempts.join(format!("{:013}-{hash:016x}", batch.millis()));
        self.disk.add_dir(&gathered)?;
        for (partition, name) in names {
            let (from, to) = (attempts.join(name), gathered.join(self.part(*partition)));
            // This commit may have moved it before.
            self.disk
                .rename(&from, &to)
                .or_else(|error| match !from.exists() && to.exists() {
                    true => Ok(()),
                    false => Err(error),
                })?;
        }
        self.disk.sync_dir(&gathered)?;
        Ok(gathered)
    }

    /// Name of a partition's file in the directory of a batch.
    fn part(&self, partition: usize) -> String {
        format!("part-{partition:05}.{}", self.format.extension())
    }

    /// Removes attempts at batches up to `newest`. What cannot be removed goes the next time.
    fn clean(&self, newest: BatchTime) {
        let attempts = self.directory.join(ATTEMPTS);
        let old = |path: &PathBuf| batch_of(path).is_some_and(|batch| batch <= newest);
        let removed = self.disk.list(&attempts).and_then(|paths| {
            let mut old = paths.iter().filter(|path| old(path));
            old.try_for_each(|path| self.disk.remove(path))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "files of attempts are left");
        }
    }
}

/// What the name of each attempt at a partition begins with.
fn start_of(batch: BatchTime, partition: usize) -> String {
    format!("{:013}-{partition:05}-", batch.millis())
}

/// The batch that a file or a directory of attempts is of.
fn batch_of(path: &Path) -> Option<BatchTime> {
    let (batch, _) = path.file_name()?.to_str()?.split_once('-')?;
    batch.parse().ok().map(BatchTime)
}

/// The batch that a directory in the target is, if it is one.
fn committed(path: &Path) -> Option<BatchTime> {
    let batch = path.file_name()?.to_str()?.strip_prefix(BATCH)?;
    let batch = batch.parse().ok().map(BatchTime);
    batch.filter(|_| path.is_dir())
}
