//! [`Reading`]: one file, piece by piece, on a thread that may block.

use std::fs::File;
use std::path::PathBuf;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::DONE;
use super::decode::Decoder;
use super::split::Splitter;
use crate::error::{Error, Result};
use crate::stream::format::Format;

/// What could not become a record.
#[derive(Debug)]
pub(super) struct Bad {
    pub bytes: Vec<u8>,
    pub length: u64,
    pub reason: String,
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
    pub path: PathBuf,
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

    pub fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(|source| Error::file("open", &self.path, source))
    }

    fn read_text(&self, pieces: &mut Pieces) -> Result<()> {
        let mut splitter = Splitter::new(self.open()?, self.format, self.piece, self.line_bytes);
        let mut decoder = Decoder::new(self.format, self.schema.clone());
        let failed = |source| Error::file("read", &self.path, source);
        while let Some(mut chunk) = splitter.next().map_err(failed)? {
            decoder.take_header(&mut chunk)?;
            chunk.skip(self.done);
            let rows = decoder.decode(&mut chunk)?;
            let bad = chunk.bad.into_iter().map(|(line, bad)| Bad {
                reason: format!("line {line}: {}", bad.reason),
                ..bad
            });
            let piece = Piece {
                rows,
                bad: bad.collect(),
                done: chunk.last.max(self.done),
            };
            if !pieces.push(piece) {
                break;
            }
        }
        Ok(())
    }
}
