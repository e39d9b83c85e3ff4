//! [`Reading`]: reads one file, piece by piece, on a thread that may block.

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::decode::Decoder;
use super::event_time::{FileTime, RowPlaces};
use super::file_offset::{FileOffset, Identity, number};
use super::root::{OpenFile, Root};
use super::split::Splitter;
use super::time::FinerTimes;
use crate::error::{Error, Result};
use crate::receive::first::{First, HEAD};
use crate::stream::format::Format;
use crate::stream::record::RowCheck;

/// Bytes of text of one fetch from an object store: long compared with the latency of a request.
const FETCH_BYTES: u64 = 4 << 20;

/// Input that could not become a record.
#[derive(Debug)]
pub(super) struct Bad {
    /// The line, or row, that it ends with; `None` for the rest of the file.
    pub at: Option<u64>,
    pub bytes: Vec<u8>,
    pub length: u64,
    pub reason: String,
}

impl Bad {
    /// A file, or the unread rest of it.
    pub fn rest(why: String) -> Self {
        Bad {
            at: None,
            bytes: Vec::new(),
            length: 0,
            reason: format!("given up: {why}"),
        }
    }
}

/// Some records of a file.
pub(super) struct FileRecords {
    pub rows: Option<RecordBatch>,
    pub bad: Vec<Bad>,
    /// The offset of the file after these records.
    pub offset: FileOffset,
    /// The time that they give before they are pushed, in milliseconds since 1970.
    pub time: Option<i64>,
}

/// A file's metadata when it was opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenedFile {
    pub identity: Identity,
    /// Its inode number.
    pub number: u64,
    /// Its length; the number of bytes read once it was read.
    pub bytes: u64,
}

impl OpenedFile {
    pub fn of(file: &Metadata) -> Self {
        OpenedFile {
            identity: Identity::of(file),
            number: number(file),
            bytes: file.len(),
        }
    }
}

/// A file to read.
pub(super) struct Reading {
    pub root: Root,
    pub name: String,
    pub format: Format,
    pub schema: SchemaRef,
    pub piece: usize,
    pub line_bytes: usize,
    pub finer: FinerTimes,
    pub check: RowCheck,
    /// Its offset from before.
    pub offset: FileOffset,
    /// The time that its records give, if they do.
    pub time: Option<FileTime>,
}

/// Sends pieces, each when the next one is there, so that the last can be marked as the last.
pub(super) struct RecordSender {
    to: mpsc::Sender<FileRecords>,
    pending: Option<FileRecords>,
    opened: Option<OpenedFile>,
}

impl RecordSender {
    /// Sends a piece; returns whether anybody still receives.
    pub fn push(&mut self, piece: FileRecords) -> bool {
        match self.pending.replace(piece) {
            Some(before) => self.to.blocking_send(before).is_ok(),
            None => !self.to.is_closed(),
        }
    }
}

/// The thread that reads a file; returns what it opened, and how it ended.
type ReaderThread = JoinHandle<(Option<OpenedFile>, Result<()>)>;

impl Reading {
    /// Starts the reading thread. Its result comes after all the pieces that it read.
    pub fn start(self) -> (mpsc::Receiver<FileRecords>, ReaderThread) {
        let (to, pieces) = mpsc::channel(1);
        let thread = tokio::task::spawn_blocking(move || {
            let mut pieces = RecordSender {
                to,
                pending: None,
                opened: None,
            };
            let read = match self.format {
                #[cfg(feature = "parquet")]
                Format::Parquet => super::parquet::read(&self, &mut pieces),
                _ => self.read_text(&mut pieces),
            };
            let last = pieces.pending.take();
            let last = match &read {
                Ok(()) => {
                    let identity = pieces.opened.map(|opened| opened.identity);
                    let offset = FileOffset::Done { identity };
                    let last = last.unwrap_or(FileRecords {
                        rows: None,
                        bad: Vec::new(),
                        offset,
                        time: None,
                    });
                    Some(FileRecords { offset, ..last })
                }
                // Records before the failure count.
                Err(_) => last,
            };
            if let Some(last) = last {
                // Nobody receives it if the context has stopped.
                let _ = pieces.to.blocking_send(last);
            }
            (pieces.opened, read)
        });
        (pieces, thread)
    }

    pub fn path(&self) -> PathBuf {
        self.root.path(&self.name)
    }

    /// Opens the file; of an object at least `ahead` bytes are fetched at once.
    pub fn open(&self, ahead: u64, pieces: &mut RecordSender) -> Result<OpenFile> {
        let input = self.root.open(&self.name, ahead, &pieces.to)?;
        if let OpenFile::File(file) = &input {
            let known = file.metadata().map_err(|error| self.unreadable(error))?;
            pieces.opened = Some(OpenedFile::of(&known));
        }
        Ok(input)
    }

    fn read_text(&self, pieces: &mut RecordSender) -> Result<()> {
        let read = Rc::new(Cell::new(0));
        let mut from: Box<dyn Read> = match self.open(FETCH_BYTES, pieces)? {
            OpenFile::File(file) => {
                let bytes = pieces.opened.map_or(0, |opened| opened.bytes);
                let read = Rc::clone(&read);
                Box::new(WholeFile { file, bytes, read })
            }
            OpenFile::Object(object) => Box::new(Arc::new(object).reader(0)),
        };
        let mut head = Vec::with_capacity(HEAD);
        let begun = (&mut from).take(HEAD as u64).read_to_end(&mut head);
        begun.map_err(|error| self.unreadable(error))?;
        let offset = match First::of(&head) {
            First::Text(offset) => offset,
            other => return Err(not_read(other)),
        };
        let from = head[offset..].chain(from);
        let before = self.before();
        let splitter = Splitter::new(from, self.format, self.piece, self.line_bytes);
        let mut splitter = splitter.hash_lines(before);
        let mut decoder = Decoder::new(self.format, &self.schema, self.finer, self.check)?;
        let (mut lines, mut is_known) = (0, false);
        while let Some(mut chunk) = splitter.next().map_err(|error| self.unreadable(error))? {
            lines = chunk.last;
            decoder.take_header(&mut chunk)?;
            if chunk.last < before {
                continue;
            }
            if !is_known {
                is_known = true;
                self.is_the_one(splitter.hash_of_lines(), "lines")?;
            }
            chunk.skip(before);
            let places = self.time.as_ref();
            let places = places.map(|_| RowPlaces::before(&chunk, splitter.hash_before()));
            let rows = decoder.decode(&mut chunk)?;
            let places = places
                .map(|places| places.after(&chunk, rows.as_ref().map_or(0, RecordBatch::num_rows)));
            let bad = std::mem::take(&mut chunk.bad).into_iter();
            let bad = bad.map(|(line, bad)| Bad {
                at: Some(line),
                reason: format!("line {line}: {}", bad.reason),
                ..bad
            });
            let records = FileRecords {
                rows,
                bad: bad.collect(),
                offset: FileOffset::begun(chunk.last, chunk.hash),
                time: None,
            };
            let mut places = places.transpose()?;
            let place = |row| match &mut places {
                Some(places) => Ok(places.offset(row, &chunk)),
                None => Err(Error::internal("the places of rows are not known")),
            };
            if !self.push(records, place, pieces)? {
                return Ok(());
            }
        }
        if let Some(opened) = &mut pieces.opened {
            opened.bytes = read.get();
        }
        self.has_all_from_before(lines, "lines")
    }

    /// Sends records, in parts if they give the time. `place` is the offset before a row. Returns whether anybody still
    /// receives.
    pub fn push(
        &self,
        records: FileRecords,
        place: impl FnMut(usize) -> Result<FileOffset>,
        pieces: &mut RecordSender,
    ) -> Result<bool> {
        let Some(time) = &self.time else {
            return Ok(pieces.push(records));
        };
        let parts = time.split(records, place)?;
        Ok(parts.into_iter().all(|part| pieces.push(part)))
    }

    /// Lines (rows, of Parquet) that were read before.
    pub fn before(&self) -> u64 {
        match self.offset {
            FileOffset::Begun { lines, .. } => lines,
            FileOffset::Done { .. } => 0,
        }
    }

    /// Checks that the lines read before are those of the offset; `hash` is their hash now.
    pub fn is_the_one(&self, hash: Option<u64>, what: &str) -> Result<()> {
        let lines = self.before();
        let is_other = |before: &u32| {
            let now = hash.map(|hash| FileOffset::begun(lines, hash));
            now != Some(FileOffset::Begun {
                lines,
                hash: Some(*before),
            })
        };
        match self.offset {
            FileOffset::Begun {
                hash: Some(before), ..
            } if is_other(&before) => {
                let message = format!(
                    "it is another file than the one of this name of which {lines} {what} were read before; \
                     give each file a name of its own"
                );
                Err(self.unreadable(io::Error::new(ErrorKind::InvalidData, message)))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the file has not become shorter since an earlier process read it.
    pub fn has_all_from_before(&self, found: u64, what: &str) -> Result<()> {
        let before = self.before();
        if found >= before {
            return Ok(());
        }
        let message = format!("{before} of its {what} were read before, and it has {found} now");
        Err(self.unreadable(io::Error::new(ErrorKind::UnexpectedEof, message)))
    }

    pub fn unreadable(&self, source: io::Error) -> Error {
        Error::file("read", &self.path(), source)
    }
}

/// The error of a file that is skipped as a whole.
pub(super) fn not_read(first: First) -> Error {
    Error::Bytes {
        what: "a file".into(),
        message: first.refuses().unwrap_or_default(),
    }
}

/// A file that fails if it ends before its length when it was opened: half a line would be a record.
struct WholeFile {
    file: File,
    bytes: u64,
    read: Rc<Cell<u64>>,
}

impl Read for WholeFile {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        let all = self.read.get() + read as u64;
        self.read.set(all);
        if read == 0 && !to.is_empty() && all < self.bytes {
            return Err(cut_short(self.bytes, all));
        }
        Ok(read)
    }
}

/// The error of a file that became shorter after it was opened.
pub(super) fn cut_short(opened: u64, now: u64) -> io::Error {
    let message = format!(
        "it had {opened} bytes when it was opened, and has {now} now; \
         write a file under another name and rename it when it is whole"
    );
    io::Error::new(ErrorKind::UnexpectedEof, message)
}
