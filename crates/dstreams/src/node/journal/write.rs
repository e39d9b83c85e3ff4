//! [`Journal`]: appends entries, and syncs many at once.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};

use tokio::sync::watch;

use super::entry::Entry;
use super::output::Output;
use super::read::files;
use super::segment;
use super::sync::sync_dir;
use crate::crash::point;
use crate::error::{Error, Result};
use crate::replicate::Pieces;

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

/// See the module.
pub(crate) struct Journal {
    queue: Mutex<Queue>,
    done: watch::Receiver<Done>,
}

struct Queue {
    next: u64,
    /// None once the journal has been closed.
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Order {
    Append(Entry),
    /// What should have been appended could not be.
    Fail(Error),
    /// Nothing before this entry is needed.
    LetGo(Ticket),
}

#[derive(Debug, Clone, Default)]
struct Done {
    /// Entries that are synced.
    entries: u64,
    failure: Option<Error>,
}

impl Journal {
    /// Goes on after what was found in the directory, in a new file. The directory is the caller's:
    /// see [`super::DirLock`].
    pub fn open(dir: &Path, last: Option<(u64, u64)>) -> Result<Self> {
        let (number, before) = last.map_or((1, 0), |(number, length)| (number + 1, length));
        Journal::begin(dir, number, before, false)
    }

    /// A journal in a directory of its own, which another process may take away by renaming it: what is synced
    /// after that is not said to be, and the journal fails. So who renames it and reads it then has all that
    /// anybody was told of.
    pub fn fenced(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| Error::file("make", dir, error))?;
        if let Some(parent) = dir.parent() {
            // The directory's name; those of its files are synced with them.
            sync_dir(parent)?;
        }
        Journal::begin(dir, 1, 0, true)
    }

    fn begin(dir: &Path, number: u64, before: u64, fenced: bool) -> Result<Self> {
        let file = Segment::create(dir, number, before)?;
        let (orders, queue) = mpsc::channel();
        let (tell, done) = watch::channel(Done::default());
        let dir = dir.to_owned();
        let thread = std::thread::Builder::new()
            .name("dstreams-journal".into())
            .spawn(move || Writer::new(dir, fenced, file, tell).run(&queue))
            .map_err(|error| Error::Config {
                setting: "threads",
                message: format!("the journal's thread cannot be started: {error}"),
            })?;
        Ok(Journal {
            queue: Mutex::new(Queue {
                next: 0,
                orders: Some(orders),
                thread: Some(thread),
            }),
            done,
        })
    }

    /// Appends an entry, behind all that were appended before. Never waits.
    pub fn append(&self, entry: Entry) -> Ticket {
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

    /// Entries before this one are not needed any more, or none that was appended before this call: files that have
    /// no others are removed, once what was appended before this call is synced. Entries of earlier processes come
    /// before all.
    ///
    /// Whoever decides what is needed must let nobody append in between: an entry that comes later may be in the file
    /// that is removed.
    pub fn let_go_before(&self, first: Option<Ticket>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &queue.orders {
            let first = first.unwrap_or(Ticket(queue.next + 1));
            let _ = orders.send(Order::LetGo(first));
        }
    }
}

impl Drop for Journal {
    /// What was appended is written.
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        queue.orders = None;
        if let Some(thread) = queue.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file that is written.
struct Segment {
    path: PathBuf,
    output: Output,
    number: u64,
    synced: u64,
}

impl Segment {
    fn create(dir: &Path, number: u64, before: u64) -> Result<Self> {
        let path = dir.join(segment::name(number));
        let make = || {
            let mut output = Output::create(&path)?;
            output.put(&segment::header(number, before))?;
            output.flush()?;
            output.sync()?;
            File::open(dir)?.sync_all()?; // its name
            Ok(output)
        };
        let output = make().map_err(|error| Error::file("make", &path, error))?;
        Ok(Segment {
            number,
            synced: output.length(),
            output,
            path,
        })
    }

    fn put(&mut self, entry: &Pieces) -> Result<()> {
        let head = segment::head(self.number, self.length(), self.synced, entry);
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
    file: Segment,
    /// The first entry of each file of this process.
    firsts: Vec<(u64, Ticket)>,
    appended: u64,
    tell: watch::Sender<Done>,
    /// Whether the directory may be taken away.
    fenced: bool,
}

impl Writer {
    fn new(dir: PathBuf, fenced: bool, file: Segment, tell: watch::Sender<Done>) -> Self {
        Writer {
            firsts: vec![(file.number, Ticket(1))],
            appended: 0,
            fenced,
            dir,
            file,
            tell,
        }
    }

    fn run(mut self, queue: &mpsc::Receiver<Order>) {
        let mut orders = VecDeque::new();
        while let Ok(first) = queue.recv() {
            orders.push_back(first);
            orders.extend(queue.try_iter());
            if let Err(error) = self.carry_out(&mut orders) {
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
                Order::LetGo(before) => {
                    self.flush(&mut entries)?;
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
            self.file.put(&Pieces::default())?;
            self.file.flush()?;
        }
        Ok(())
    }

    /// After a sync: who takes the directory away reads it then.
    fn check_ours(&self) -> Result<()> {
        if !self.fenced {
            return Ok(());
        }
        let found = std::fs::metadata(&self.dir).map(drop);
        found.map_err(|error| Error::file("find", &self.dir, error))
    }

    fn roll(&mut self) -> Result<()> {
        self.file.sync()?;
        self.file = Segment::create(&self.dir, self.file.number + 1, self.file.length())?;
        let first = Ticket(self.appended + 1);
        self.firsts.push((self.file.number, first));
        Ok(())
    }

    /// Also begins a new file: what comes from now on is apart from what the next call lets go.
    fn let_go(&mut self, before: Ticket) -> Result<()> {
        if self.file.length() > segment::HEADER_BYTES {
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
                point("journal:let-go");
            }
        }
        Ok(())
    }
}
