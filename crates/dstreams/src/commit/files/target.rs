//! [`Target`]: the directory of a [`FileSink`](super::FileSink), and how batches appear in it.
//!
//! A prepared file is `.attempts/<batch>-<partition>-<process>-<count>.<format>`: names of attempts are unique.
//! The commit moves the files of the batch into `.attempts/<batch>-<hash of their names>`, so that a repeated
//! commit resumes, and one with other attempts starts afresh. Then one rename makes that `batch=<batch>`. An
//! existing, nonempty directory cannot be the target of a rename, so a batch appears once. Attempts at batches up
//! to the newest visible one, and no others, are removed: nothing can need them. The committing process holds a
//! lock, `.attempts/lock`.

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
use crate::stream::output::{FencingToken, Prepared};

/// The directory of files that wait for their commit; hidden from readers of the target.
const ATTEMPTS_DIR: &str = ".attempts";
/// The lock file in it, whose name differs from those of attempts.
const LOCK: &str = "lock";
/// The prefix of names of committed batches.
const BATCH_PREFIX: &str = "batch=";

pub(super) struct Target {
    directory: PathBuf,
    format: Format,
    /// Distinguishes attempts of this process from those of others.
    process: u64,
    attempts: AtomicU64,
    // Lock order L7 in ARCHITECTURE.md: after `lock`.
    newest: Mutex<NewestBatch>,
    /// Held from `open` to `close`.
    lock: Mutex<Option<TargetLock>>,
    /// The process that this one is, if its program is kept in a directory.
    token: Mutex<Option<FencingToken>>,
    pub(super) disk: Disk,
}

/// The lock file, which is locked as long as it is open, and what this process wrote into it.
struct TargetLock {
    file: File,
    holder: String,
}

/// The newest batch in the target.
#[derive(Clone, Copy)]
enum NewestBatch {
    /// The target was not listed.
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
            token: Mutex::default(),
            disk: Disk::default(),
        }
    }

    /// This process is a later one than all others of the program with this token.
    pub fn fence(&self, token: &FencingToken) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
    }

    /// Locks the target for this process, and returns its newest batch.
    pub fn open(&self) -> Result<Option<BatchTime>> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = self.directory.join(ATTEMPTS_DIR);
        self.disk.make_dir(&attempts)?;
        let path = attempts.join(LOCK);
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let token = token.clone();
        let process = self.process;
        let holder = match &token {
            Some(FencingToken { program, epoch }) => format!("{program} {epoch} {process:016x}"),
            None => format!("- - {process:016x}"),
        };
        let free = lock.is_none();
        let taken = match free {
            true => match self.disk.lock(&path)? {
                None if self.is_of_former(&path, token.as_ref())? => {
                    Some(self.disk.replace_lock(&path, &holder)?)
                }
                Some(mut file) => {
                    self.disk.rewrite(&mut file, &path, holder.as_bytes())?;
                    Some(file)
                }
                None => None,
            },
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
        *lock = Some(TargetLock { file, holder });
        Ok(known)
    }

    /// Whether the lock is of a process before this one of the same program. It is lost, or stopped, and commits nothing
    /// more.
    fn is_of_former(&self, path: &Path, token: Option<&FencingToken>) -> Result<bool> {
        let (Some(token), Some(holder)) = (token, self.disk.read(path)?) else {
            return Ok(false);
        };
        let mut of = holder.split(' ');
        let same = of.next() == Some(&*token.program) && !token.program.is_empty();
        let epoch = of.next().and_then(|epoch| epoch.parse::<u64>().ok());
        Ok(same && epoch.is_some_and(|epoch| epoch < token.epoch))
    }

    /// Fails if a later process of the program has taken the target over.
    fn check(&self) -> Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = &mut *lock else {
            return Ok(());
        };
        let path = self.directory.join(ATTEMPTS_DIR).join(LOCK);
        let found = self.disk.read(&path)?;
        // It is not there if somebody has removed it.
        if found.is_none_or(|found| found == held.holder) {
            return Ok(());
        }
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        match self.is_of_former(&path, token.as_ref())? {
            // One that was stopped while it took the target over, and replaced meanwhile.
            true => held.file = self.disk.replace_lock(&path, &held.holder)?,
            false => {
                return Err(Error::LostDirectory {
                    path: self.directory.display().to_string(),
                });
            }
        }
        Ok(())
    }

    /// Releases the target for other processes.
    pub fn close(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.newest() = NewestBatch::Unknown;
    }

    fn newest(&self) -> MutexGuard<'_, NewestBatch> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the rows of a partition to a new file; returns its name.
    pub fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<String> {
        let attempts = self.directory.join(ATTEMPTS_DIR);
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
            // To free the space; if that fails, it is removed once its batch has committed.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok(name)
    }

    /// Makes a batch visible, unless it is.
    pub fn commit(&self, batch: BatchTime, prepared: &[Prepared]) -> Result<()> {
        self.check()?;
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

    /// The newest batch in the target, made durable.
    fn look(&self) -> Result<Option<BatchTime>> {
        let entries = self.disk.list(&self.directory)?;
        let batches = entries.iter().filter_map(|path| committed(path));
        let newest = batches.max();
        if newest.is_some() {
            // The process that renamed it may have ended before the sync.
            self.disk.sync_dir(&self.directory)?;
        }
        Ok(newest)
    }

    /// The partition and name of each prepared file; checks that they are files of this batch.
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
                    message: format!("`{name}` is not a file that this sink prepared for it"),
                });
            }
            names.push((partition, name));
        }
        Ok(names)
    }

    /// Makes the batch visible. If that fails but the batch is there, another process was faster.
    fn publish(&self, batch: BatchTime, names: &[(usize, &str)]) -> Result<()> {
        let visible = self
            .directory
            .join(format!("{BATCH_PREFIX}{:013}", batch.millis()));
        let gathered = self.gather(batch, names);
        let renamed = gathered.and_then(|gathered| self.disk.rename(&gathered, &visible));
        if renamed.is_err() && committed(&visible).is_none() {
            return renamed;
        }
        self.disk.sync_dir(&self.directory)
    }

    /// Moves the files of a batch into a directory of their own.
    fn gather(&self, batch: BatchTime, names: &[(usize, &str)]) -> Result<PathBuf> {
        let attempts = self.directory.join(ATTEMPTS_DIR);
        let all: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
        let hash = xxh3_64(all.join("\n").as_bytes());
        let gathered = attempts.join(format!("{:013}-{hash:016x}", batch.millis()));
        self.disk.add_dir(&gathered)?;
        for (partition, name) in names {
            let (from, to) = (attempts.join(name), gathered.join(self.part(*partition)));
            // An earlier try of this commit may have moved it.
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

    /// The name of a partition's file in the directory of a batch.
    fn part(&self, partition: usize) -> String {
        format!("part-{partition:05}.{}", self.format.extension())
    }

    /// Removes attempts at batches up to `newest`. A failed removal is retried next time.
    fn clean(&self, newest: BatchTime) {
        let attempts = self.directory.join(ATTEMPTS_DIR);
        let old = |path: &PathBuf| batch_of(path).is_some_and(|batch| batch <= newest);
        let removed = self.disk.list(&attempts).and_then(|paths| {
            let mut old = paths.iter().filter(|path| old(path));
            old.try_for_each(|path| self.disk.remove(path))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove files of attempts");
        }
    }
}

/// The prefix of the names of all attempts at a partition.
fn start_of(batch: BatchTime, partition: usize) -> String {
    format!("{:013}-{partition:05}-", batch.millis())
}

/// The batch of a file or a directory of attempts.
fn batch_of(path: &Path) -> Option<BatchTime> {
    let (batch, _) = path.file_name()?.to_str()?.split_once('-')?;
    batch.parse().ok().map(BatchTime)
}

/// The batch of a directory in the target; none for others.
fn committed(path: &Path) -> Option<BatchTime> {
    let batch = path.file_name()?.to_str()?.strip_prefix(BATCH_PREFIX)?;
    let batch = batch.parse().ok().map(BatchTime);
    batch.filter(|_| path.is_dir())
}
