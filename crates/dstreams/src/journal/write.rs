//! [`Journal`]: appends entries, and syncs many at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::watch;

use super::entry::{JournalEntry, Opening};
use super::lock::{Owner, random_name};
use super::output::SegmentFile;
use super::read::{NextSegment, files};
use super::segment;
use super::sync::{remove_unfinished, sync_dir};
use crate::crash::point;
use crate::encoding::ByteChunks;
use crate::error::{Error, Result};

/// A file that reaches this size is followed by a new one.
const FILE_BYTES: u64 = 64 << 20;

/// An appended entry, to wait for with `Journal::synced`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket of all entries of earlier processes.
    pub const EARLIER: Ticket = Ticket(0);

    /// After all entries.
    pub const END: Ticket = Ticket(u64::MAX);
}

/// Appends entries to the files of a journal; one sync covers all entries before it.
pub(crate) struct Journal {
    queue: Mutex<WriteQueue>,
    done: watch::Receiver<Done>,
}

struct WriteQueue {
    next: u64,
    /// None once the journal is closed.
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Order {
    Append(JournalEntry),
    /// An entry could not be appended.
    Fail(Error),
    /// Entries before this one are no longer needed; the checkpoint of this number covers them.
    Release(Ticket, Option<u64>),
}

#[derive(Debug, Clone, Default)]
struct Done {
    /// Entries that are synced.
    entries: u64,
    failure: Option<Error>,
}

impl Journal {
    /// Resumes after the entries found in the directory, each file beginning with `opening`. Once the owner has
    /// lost the directory, nothing more is acknowledged as synced, and the journal fails.
    pub fn open(
        dir: &Path,
        next: NextSegment,
        opening: Option<Opening>,
        owner: Option<Owner>,
    ) -> Result<Self> {
        remove_unfinished(dir, &[".journal-"])?;
        let file = match &next.again {
            Some(again) => OpenSegment::replace(dir, &next, opening.as_ref(), again)?,
            None => {
                let owner = owner.as_ref();
                OpenSegment::create(dir, next.number, next.before, opening.as_ref(), owner)?
            }
        };
        Journal::begin(dir, file, opening, (owner, false))
    }

    /// A journal in a directory of its own, which another process may take away by renaming it. Entries synced
    /// after that are not acknowledged, and the journal fails: the process that renames and then reads it has all
    /// acknowledged entries. A process that takes the whole program first writes its name as the owner's, which is
    /// noticed even where a rename is not visible at once.
    pub fn fenced(dir: &Path, owner: Option<Owner>) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| Error::file("make", dir, error))?;
        if let Some(parent) = dir.parent() {
            // The directory's name; those of its files are synced with them.
            sync_dir(parent)?;
        }
        Journal::begin(
            dir,
            OpenSegment::create(dir, 1, 0, None, None)?,
            None,
            (owner, true),
        )
    }

    fn begin(
        dir: &Path,
        file: OpenSegment,
        opening: Option<Opening>,
        owner: (Option<Owner>, bool),
    ) -> Result<Self> {
        let (orders, queue) = mpsc::channel();
        let (progress, done) = watch::channel(Done::default());
        let dir = dir.to_owned();
        let thread = std::thread::Builder::new()
            .name("dstreams-journal".into())
            .spawn(move || {
                let writer = Writer {
                    firsts: vec![(file.number, Ticket(1))],
                    appended: 0,
                    dir,
                    file,
                    opening,
                    progress,
                    owner,
                };
                writer.run(&queue);
            })
            .map_err(|error| Error::Thread {
                what: "the thread of the journal",
                source: Arc::new(error),
            })?;
        Ok(Journal {
            queue: Mutex::new(WriteQueue {
                next: 0,
                orders: Some(orders),
                thread: Some(thread),
            }),
            done,
        })
    }

    /// Appends an entry after all earlier ones. Never waits.
    pub fn append(&self, entry: JournalEntry) -> Ticket {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next += 1;
        if let Some(orders) = &queue.orders {
            // After a failure nothing receives it; `synced` returns the error.
            let _ = orders.send(Order::Append(entry));
        }
        Ticket(queue.next)
    }

    /// The last entry that was appended.
    pub fn last(&self) -> Ticket {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        Ticket(queue.next)
    }

    /// An entry could not be appended: no later one is reported as synced.
    pub fn fail(&self, error: Error) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &queue.orders {
            let _ = orders.send(Order::Fail(error));
        }
    }

    /// Waits until the entry, and all before it, are on disk.
    pub async fn synced(&self, ticket: Ticket) -> Result<()> {
        let mut done = self.done.clone();
        let synced = |done: &Done| done.entries >= ticket.0 || done.failure.is_some();
        let done = done.wait_for(synced).await;
        match done {
            Ok(done) if done.entries >= ticket.0 => Ok(()),
            Ok(done) => Err(done.failure.clone().unwrap_or(Error::NotRunning)),
            Err(_) => Err(Error::NotRunning),
        }
    }

    /// Waits until all appended entries are written. Later ones are not written, and never acknowledged. Blocks.
    pub fn close(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.orders = None;
        if let Some(thread) = queue.thread.take() {
            let _ = thread.join();
        }
    }

    /// Releases the entries before this one, or all that were appended before this call. A file without other
    /// entries is removed once those appended before this call are synced. Entries of earlier processes count as
    /// the first. The `checkpoint` of this number covers all that is removed; the remaining files say so.
    ///
    /// The caller must prevent appends between its decision and this call: a later entry may be in the file that
    /// is removed.
    pub fn release_before(&self, first: Option<Ticket>, checkpoint: Option<u64>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &queue.orders {
            let first = first.unwrap_or(Ticket(queue.next + 1));
            let _ = orders.send(Order::Release(first, checkpoint));
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// The file being written.
struct OpenSegment {
    path: PathBuf,
    output: SegmentFile,
    number: u64,
    synced: u64,
    /// The end of the header and opening.
    header_end: u64,
}

impl OpenSegment {
    /// A new file, which appears with its header and the opening. Fails if one of this number exists, or if another process
    /// owns the directory by then.
    fn create(
        dir: &Path,
        number: u64,
        before: u64,
        opening: Option<&Opening>,
        owner: Option<&Owner>,
    ) -> Result<Self> {
        let name = segment::name(number);
        let hidden = dir.join(format!(".{name}.{}.tmp", random_name()));
        let path = dir.join(name);
        let mut made = OpenSegment::at(&hidden, number, before, opening)?;
        made.sync()?;
        let named = owner.map_or(Ok(()), Owner::check).and_then(|()| {
            let linked = std::fs::hard_link(&hidden, &path);
            linked.map_err(|error| Error::file("make", &path, error))
        });
        let removed = std::fs::remove_file(&hidden);
        named?;
        removed.map_err(|error| Error::file("remove", &hidden, error))?;
        sync_dir(dir)?;
        made.path = path;
        Ok(made)
    }

    /// The same in place of the file of this number, with these entries. At any time one of the two files exists.
    fn replace(
        dir: &Path,
        next: &NextSegment,
        opening: Option<&Opening>,
        again: &[JournalEntry],
    ) -> Result<Self> {
        let name = segment::name(next.number);
        let (hidden, path) = (dir.join(format!(".{name}.tmp")), dir.join(name));
        let mut made = OpenSegment::at(&hidden, next.number, next.before, opening)?;
        for entry in again {
            made.put(&entry.to_pieces())?;
        }
        made.flush()?;
        made.sync()?;
        std::fs::rename(&hidden, &path).map_err(|error| Error::file("rename", &hidden, error))?;
        sync_dir(dir)?;
        made.path = path;
        Ok(made)
    }

    /// A file that begins with a header and the opening; neither is synced.
    fn at(path: &Path, number: u64, before: u64, opening: Option<&Opening>) -> Result<Self> {
        let output = SegmentFile::create(path).map_err(|error| Error::file("make", path, error))?;
        let mut made = OpenSegment {
            number,
            synced: 0,
            header_end: 0,
            output,
            path: path.to_owned(),
        };
        let done = made.output.put(&segment::header(number, before));
        done.map_err(|error| Error::file("write", path, error))?;
        if let Some(opening) = opening {
            made.put(&JournalEntry::Opening(Box::new(opening.clone())).to_pieces())?;
        }
        made.flush()?;
        made.header_end = made.length();
        Ok(made)
    }

    fn put(&mut self, entry: &ByteChunks) -> Result<()> {
        let head = segment::head(self.number, self.length(), self.synced, entry)?;
        let mut parts = std::iter::once(&*head).chain(entry.iter());
        let done = parts.try_for_each(|part| self.output.put(part));
        done.map_err(|error| Error::file("write", &self.path, error))
    }

    fn flush(&mut self) -> Result<()> {
        let done = self.output.flush();
        done.map_err(|error| Error::file("write", &self.path, error))
    }

    /// Call it after a flush.
    fn sync(&mut self) -> Result<()> {
        if self.synced < self.length() {
            let done = self.output.sync();
            done.map_err(|error| Error::file("sync", &self.path, error))?;
            self.synced = self.length();
        }
        Ok(())
    }

    fn length(&self) -> u64 {
        self.output.length()
    }
}

/// The thread of a journal.
struct Writer {
    dir: PathBuf,
    file: OpenSegment,
    /// The first entry of each file of this process.
    firsts: Vec<(u64, Ticket)>,
    appended: u64,
    /// The first entry of the next file.
    opening: Option<Opening>,
    progress: watch::Sender<Done>,
    /// The owner of the directory, and whether the directory itself may be taken away.
    owner: (Option<Owner>, bool),
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Order>) {
        let mut orders = VecDeque::new();
        while let Ok(first) = queue.recv() {
            orders.push_back(first);
            orders.extend(queue.try_iter());
            if let Err(error) = self.carry_out(&mut orders) {
                // I5 (ARCHITECTURE.md): the thread ends; no later entry is written, or reported as synced.
                tracing::error!(%error, "the journal has failed");
                self.progress.send_modify(|done| done.failure = Some(error));
                return;
            }
        }
    }

    /// Carries out all queued orders: writes first, then syncs once.
    fn carry_out(&mut self, orders: &mut VecDeque<Order>) -> Result<()> {
        let mut entries = 0;
        while let Some(order) = orders.pop_front() {
            match order {
                Order::Append(entry) => {
                    self.file.put(&entry.to_pieces())?;
                    entries += 1;
                    self.appended += 1;
                }
                Order::Fail(error) => {
                    self.flush(&mut entries)?;
                    return Err(error);
                }
                Order::Release(before, checkpoint) => {
                    self.flush(&mut entries)?;
                    if let Some(opening) = &mut self.opening {
                        opening.checkpoint = checkpoint;
                    }
                    self.release(before)?;
                }
            }
        }
        self.flush(&mut entries)?;
        if self.file.length() >= FILE_BYTES {
            self.roll()?;
        }
        Ok(())
    }

    fn flush(&mut self, entries: &mut u64) -> Result<()> {
        self.file.flush()?;
        point("journal:written");
        self.file.sync()?;
        self.check_ownership()?;
        point("journal:synced");
        let entries = std::mem::take(entries);
        if entries > 0 {
            self.progress.send_modify(|done| done.entries += entries);
            // An empty entry, synced with the next: even now an entry records how much was synced.
            self.file.put(&ByteChunks::default())?;
            self.file.flush()?;
        }
        Ok(())
    }

    /// Checks the ownership after a sync: a process that takes the directory away reads it afterwards.
    fn check_ownership(&self) -> Result<()> {
        // I12 (ARCHITECTURE.md).
        if let Some(owner) = &self.owner.0 {
            owner.check()?;
        }
        if !self.owner.1 {
            return Ok(());
        }
        let found = std::fs::metadata(&self.dir).map(drop);
        found.map_err(|error| Error::file("find", &self.dir, error))
    }

    fn roll(&mut self) -> Result<()> {
        self.file.sync()?;
        let (number, before) = (self.file.number + 1, self.file.length());
        let (opening, owner) = (self.opening.as_ref(), self.owner.0.as_ref());
        self.file = OpenSegment::create(&self.dir, number, before, opening, owner)?;
        let first = Ticket(self.appended + 1);
        self.firsts.push((self.file.number, first));
        Ok(())
    }

    /// Also begins a new file, which names the current checkpoint: later entries are apart from those that the
    /// next call releases.
    fn release(&mut self, before: Ticket) -> Result<()> {
        if self.opening.is_some() || self.file.length() > self.file.header_end {
            self.roll()?;
        }
        // The last file with nothing before it: files below it may be removed.
        let keep = self.firsts.iter().rposition(|(_, first)| *first <= before);
        let Some(keep) = keep.filter(|_| before >= Ticket(1)) else {
            return Ok(());
        };
        let below = self.firsts[keep].0;
        self.firsts.drain(..keep);
        for (number, path) in files(&self.dir)? {
            if number < below {
                std::fs::remove_file(&path).map_err(|error| Error::file("remove", &path, error))?;
                // Before the next: the remaining files are consecutive, in whatever state a power loss leaves
                // them.
                sync_dir(&self.dir)?;
                point("journal:let-go");
            }
        }
        Ok(())
    }
}
