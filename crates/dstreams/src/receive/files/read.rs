//! [`Reading`]: one file, piece by piece, on a thread that may block.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::DONE;
use super::decode::Decoder;
use super::root::{Input, Root};
use super::split::Splitter;
use crate::error::{Error, Result};
use crate::receive::first::{First, HEAD};
use crate::stream::format::Format;

/// Bytes of text that are fetched at once from an object store: long against the wait for an answer.
const AHEAD: u64 = 4 << 20;

/// What could not become a record.
#[derive(Debug)]
pub(super) struct Bad {
    /// The line, or row, it ends with; none where it is the rest of the file.
    pub at: Option<u64>,
    pub bytes: Vec<u8>,
    pub length: u64,
    pub reason: String,
}

impl Bad {
    /// A file, or what was not read of it.
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
pub(super) struct Piece {
    pub rows: Option<RecordBatch>,
    pub bad: Vec<Bad>,
    /// Lines (rows, of Parquet) up to the end of the piece; [`DONE`] for the last one.
    pub done: u64,
}

/// A file that is to be read.
pub(super) struct Reading {
    pub root: Root,
    pub name: String,
    pub format: Format,
    pub schema: SchemaRef,
    pub piece: usize,
    pub line_bytes: usize,
    /// Lines (rows, of Parquet) that were read before.
    pub done: u64,
}

/// Passes pieces on, each when the next one is there, so that the last is known to be the last.
pub(super) struct Pieces {
    to: mpsc::Sender<Piece>,
    held: Option<Piece>,
}

impl Pieces {
    /// Whether anybody takes them still.
    pub fn push(&mut self, piece: Piece) -> bool {
        match self.held.replace(piece) {
            Some(before) => self.to.blocking_send(before).is_ok(),
            None => !self.to.is_closed(),
        }
    }
}

impl Reading {
    /// Starts to read. The error comes after the pieces that were read before it.
    pub fn start(self) -> (mpsc::Receiver<Piece>, JoinHandle<Result<()>>) {
        let (to, pieces) = mpsc::channel(1);
        let thread = tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces { to, held: None };
            let read = match self.format {
                #[cfg(feature = "parquet")]
                Format::Parquet => super::parquet::read(&self, &mut pieces),
                _ => self.read_text(&mut pieces),
            };
            let last = pieces.held.take();
            let last = match (&read, last) {
                (Ok(()), Some(last)) => Some(Piece { done: DONE, ..last }),
                (Ok(()), None) => Some(Piece {
                    rows: None,
                    bad: Vec::new(),
                    done: DONE,
                }),
                // What came before the failure counts.
                (Err(_), last) => last,
            };
            if let Some(last) = last {
                // Nobody takes it when the context has stopped.
                let _ = pieces.to.blocking_send(last);
            }
            read
        });
        (pieces, thread)
    }

    pub fn path(&self) -> PathBuf {
        self.root.path(&self.name)
    }

    /// Opens it; of an object at least `ahead` bytes are fetched at once.
    pub fn open(&self, ahead: u64, pieces: &Pieces) -> Result<Input> {
        self.root.open(&self.name, ahead, &pieces.to)
    }

    fn read_text(&self, pieces: &mut Pieces) -> Result<()> {
        let mut from: Box<dyn Read> = match self.open(AHEAD, pieces)? {
            Input::File(file) => Box::new(Whole::of(file).map_err(|error| self.unreadable(error))?),
            Input::Object(object) => Box::new(Arc::new(object).reader(0)),
        };
        let mut head = Vec::with_capacity(HEAD);
        let read = (&mut from).take(HEAD as u64).read_to_end(&mut head);
        read.map_err(|error| self.unreadable(error))?;
        let mark = match First::of(&head) {
            First::Text(mark) => mark,
            other => return Err(not_read(other)),
        };
        let from = head[mark..].chain(from);
        let mut splitter = Splitter::new(from, self.format, self.piece, self.line_bytes);
        let mut decoder = Decoder::new(self.format, &self.schema)?;
        let mut lines = 0;
        while let Some(mut chunk) = splitter.next().map_err(|error| self.unreadable(error))? {
            lines = chunk.last;
            decoder.take_header(&mut chunk)?;
            chunk.skip(self.done);
            let rows = decoder.decode(&mut chunk)?;
            let bad = chunk.bad.into_iter().map(|(line, bad)| Bad {
                at: Some(line),
                reason: format!("line {line}: {}", bad.reason),
                ..bad
            });
            let piece = Piece {
                rows,
                bad: bad.collect(),
                done: chunk.last.max(self.done),
            };
            if !pieces.push(piece) {
                return Ok(());
            }
        }
        self.has_all_from_before(lines, "lines")
    }

    /// The file must not have become shorter while no process was there.
    pub fn has_all_from_before(&self, found: u64, what: &str) -> Result<()> {
        if found >= self.done {
            return Ok(());
        }
        let message = format!(
            "{} of its {what} were read before, and it has {found} now",
            self.done
        );
        Err(self.unreadable(io::Error::new(ErrorKind::UnexpectedEof, message)))
    }

    pub fn unreadable(&self, source: io::Error) -> Error {
        Error::file("read", &self.path(), source)
    }
}

/// Nothing of it becomes a record.
pub(super) fn not_read(first: First) -> Error {
    Error::Bytes {
        what: "a file".into(),
        message: first.refuses().unwrap_or_default(),
    }
}

/// A file that must not end before the place where it ended when it was opened: half a line would be a record.
struct Whole {
    file: File,
    bytes: u64,
    read: u64,
}

impl Whole {
    fn of(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let read = 0;
        Ok(Whole { file, bytes, read })
    }
}

impl Read for Whole {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        self.read += read as u64;
        if read == 0 && !to.is_empty() && self.read < self.bytes {
            return Err(cut_short(self.bytes, self.read));
        }
        Ok(read)
    }
}

/// A file had so many bytes when it was opened, and has fewer now.
pub(super) fn cut_short(opened: u64, now: u64) -> io::Error {
    let message = format!(
        "it had {opened} bytes when it was opened, and has {now} now; \
         write a file under another name and rename it when it is whole"
    );
    io::Error::new(ErrorKind::UnexpectedEof, message)
}
