//! [`Journal`]: appends entries, and syncs many at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::watch;

use super::entry::{JournalEntry, Opening};
use super::lock::Owner;
use super::output::SegmentFile;
use super::read::{NextSegment, files};
use super::segment;
use super::sync::sync_dir;
use crate::crash::point;
use crate::encoding::ByteChunks;
use crate::error::{Error, Result};

/// Bytes after which a new file is begun.
const FILE_BYTES: u64 = 64 << 20;

/// An entry that was appended: what `Journal::synced` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// What entries of earlier processes have.
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
    /// None once the journal has been closed.
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Order {
    Append(JournalEntry),
    /// What should have been appended could not be.
    Fail(Error),
    /// Nothing before this entry is needed; of what goes, the checkpoint of this number has all.
    LetGo(Ticket, Option<u64>),
}

#[derive(Debug, Clone, Default)]
struct Done {
    /// Entries that are synced.
    entries: u64,
    failure: Option<Error>,
}

impl Journal {
    /// Goes on after what was found in the directory, which is the owner's: what is synced when it is so no more is not
    /// said to be, and the journal fails. Each file begins with `opening`.
    pub fn open(
        dir: &Path,
        next: NextSegment,
        opening: Option<Opening>,
        owner: Option<Owner>,
    ) -> Result<Self> {
        let file = match &next.again {
            Some(again) => OpenSegment::replace(dir, &next, opening.as_ref(), again)?,
            None => OpenSegment::create(dir, next.number, next.before, opening.as_ref())?,
        };
        Journal::begin(dir, file, opening, (owner, false))
    }

    /// A journal in a directory of its own, which another process may take away by renaming it: what is synced
    /// after that is not said to be, and the journal fails. So who renames it and reads it then has all that
    /// anybody was told of. A process that takes the whole program first names itself as its owner: that is seen even
    /// where a rename is not at once.
    pub fn fenced(dir: &Path, owner: Option<Owner>) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| Error::file("make", dir, error))?;
        if let Some(parent) = dir.parent() {
            // The directory's name; those of its files are synced with them.
            sync_dir(parent)?;
        }
        Journal::begin(
            dir,
            OpenSegment::create(dir, 1, 0, None)?,
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
        let (tell, done) = watch::channel(Done::default());
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
                    tell,
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

    /// Appends an entry, behind all that were appended before. Never waits.
    pub fn append(&self, entry: JournalEntry) -> Ticket {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next += 1;
        if let Some(orders) = &queue.orders {
            // After a failure nobody listens; who waits for the entry is told.
            let _ = orders.send(Order::Append(entry));
        }
        Ticket(queue.next)
    }

    /// What should be appended cannot be: nothing that comes later is said to be on disk.
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

    /// Waits until what was appended is written. What comes later is not, and never said to be. Blocks.
    pub fn close(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.orders = None;
        if let Some(thread) = queue.thread.take() {
            let _ = thread.join();
        }
    }

    /// Entries before this one are not needed any more, or none that was appended before this call: files that have
    /// no others are removed, once what was appended before this call is synced. Entries of earlier processes come
    /// before all. Of what goes, the `checkpoint` of this number has all that counts: the files that stay say so.
    ///
    /// Whoever decides what is needed must let nobody append in between: an entry that comes later may be in the file
    /// that is removed.
    pub fn let_go_before(&self, first: Option<Ticket>, checkpoint: Option<u64>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &queue.orders {
            let first = first.unwrap_or(Ticket(queue.next + 1));
            let _ = orders.send(Order::LetGo(first, checkpoint));
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// The file that is written.
struct OpenSegment {
    path: PathBuf,
    output: SegmentFile,
    number: u64,
    synced: u64,
    /// What every file begins with ends here.
    begun: u64,
}

impl OpenSegment {
    fn create(dir: &Path, number: u64, before: u64, opening: Option<&Opening>) -> Result<Self> {
        let path = dir.join(segment::name(number));
        let mut made = OpenSegment::at(&path, number, before, opening)?;
        made.sync()?;
        sync_dir(dir)?; // its name
        Ok(made)
    }

    /// The same in place of the file of this number, with these entries again. At any time one of the two is there.
    fn replace(
        dir: &Path,
        next: &NextSegment,
        opening: Option<&Opening>,
        again: &[JournalEntry],
    ) -> Result<Self> {
        let name = segment::name(next.number);
        let (hidden, path) = (dir.join(format!(".{name}.tmp")), dir.join(name));
        // Of a process that ended here.
        if let Err(error) = std::fs::remove_file(&hidden)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(Error::file("remove", &hidden, error));
        }
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

    /// A file that begins with a header and what the journal is of; neither is synced.
    fn at(path: &Path, number: u64, before: u64, opening: Option<&Opening>) -> Result<Self> {
        let output = SegmentFile::create(path).map_err(|error| Error::file("make", path, error))?;
        let mut made = OpenSegment {
            number,
            synced: 0,
            begun: 0,
            output,
            path: path.to_owned(),
        };
        let done = made.output.put(&segment::header(number, before));
        done.map_err(|error| Error::file("write", path, error))?;
        if let Some(opening) = opening {
            made.put(&JournalEntry::Opening(Box::new(opening.clone())).to_pieces())?;
        }
        made.flush()?;
        made.begun = made.length();
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

    /// After a flush.
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
    /// What the next file begins with.
    opening: Option<Opening>,
    tell: watch::Sender<Done>,
    /// Whose the directory is, and whether it itself may be taken away too.
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
                self.tell.send_modify(|done| done.failure = Some(error));
                return;
            }
        }
    }

    /// All that waits: written first, then synced once.
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
                Order::LetGo(before, checkpoint) => {
                    self.flush(&mut entries)?;
                    if let Some(opening) = &mut self.opening {
                        opening.checkpoint = checkpoint;
                    }
                    self.let_go(before)?;
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
        self.check_ours()?;
        point("journal:synced");
        let entries = std::mem::take(entries);
        if entries > 0 {
            self.tell.send_modify(|done| done.entries += entries);
            // An empty entry, synced with the next: so that even now there is one that says how much was.
            self.file.put(&ByteChunks::default())?;
            self.file.flush()?;
        }
        Ok(())
    }

    /// After a sync: who takes the directory away reads it then.
    fn check_ours(&self) -> Result<()> {
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
        self.file = OpenSegment::create(&self.dir, number, before, self.opening.as_ref())?;
        let first = Ticket(self.appended + 1);
        self.firsts.push((self.file.number, first));
        Ok(())
    }

    /// Also begins a new file, which says on which checkpoint the journal stands now: what comes from now on is apart
    /// from what the next call lets go.
    fn let_go(&mut self, before: Ticket) -> Result<()> {
        if self.opening.is_some() || self.file.length() > self.file.begun {
            self.roll()?;
        }
        // The last file that has nothing before it: those below it may go.
        let keep = self.firsts.iter().rposition(|(_, first)| *first <= before);
        let Some(keep) = keep.filter(|_| before >= Ticket(1)) else {
            return Ok(());
        };
        let below = self.firsts[keep].0;
        self.firsts.drain(..keep);
        for (number, path) in files(&self.dir)? {
            if number < below {
                std::fs::remove_file(&path).map_err(|error| Error::file("remove", &path, error))?;
                // Before the next: files that are left follow each other, whatever order a power loss leaves them in.
                sync_dir(&self.dir)?;
                point("journal:let-go");
            }
        }
        Ok(())
    }
}
