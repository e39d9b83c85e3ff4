//! [`Chunks`]: the input of the Parquet reader: a file, or ranges of an object.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::object::Object;
use super::read::cut_short;
use super::root::OpenFile;

/// Bytes of one fetch from an object store, for each column: some pages.
pub(super) const AHEAD: u64 = 1 << 20;
/// Bytes fetched first from the end of an object: enough for most footers, and for all of a small object.
pub(super) const FOOTER: u64 = 64 << 10;

/// The input of the Parquet reader: a file, or ranges of an object.
/// Cheap to clone.
#[derive(Clone)]
pub(super) enum Chunks {
    /// With its size when it was opened.
    File(Arc<File>, u64),
    Object(Arc<Object>),
}

impl Chunks {
    pub fn of(input: OpenFile) -> Self {
        match input {
            OpenFile::File(file) => {
                let bytes = Length::len(&file);
                Chunks::File(Arc::new(file), bytes)
            }
            OpenFile::Object(object) => {
                let length = object.size().min(FOOTER);
                // An error comes again when the footer is read.
                let _ = object.range(object.size() - length, length);
                Chunks::Object(Arc::new(object))
            }
        }
    }

    /// The number of columns that are read side by side.
    pub fn are_read_at(&self, columns: usize) {
        if let Chunks::Object(object) = self {
            object.cache_ranges(columns);
        }
    }

    /// Checked before memory is allocated for a length that may come from damaged bytes.
    fn has(&self, start: u64, length: u64) -> Result<()> {
        let all = match self {
            Chunks::File(_, opened) => *opened,
            Chunks::Object(object) => object.size(),
        };
        match start.checked_add(length) {
            Some(end) if end <= all => Ok(()),
            _ => Err(ParquetError::EOF(format!(
                "{length} bytes after the first {start} are read, and it has {all}"
            ))),
        }
    }

    /// Why the object is no longer what it was when it was opened; `None` if it is. If it changed, its bytes were
    /// not damaged.
    pub fn lost(&self) -> Option<io::Error> {
        match self {
            Chunks::File(file, opened) => {
                let now = Length::len(file.as_ref());
                (now < *opened).then(|| cut_short(*opened, now))
            }
            Chunks::Object(object) => object.failed(),
        }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        match self {
            Chunks::File(file, _) => Length::len(file.as_ref()),
            Chunks::Object(object) => object.size(),
        }
    }
}

impl ChunkReader for Chunks {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.has(start, 0)?;
        Ok(match self {
            Chunks::File(file, _) => Box::new(file.get_read(start)?),
            Chunks::Object(object) => Box::new(object.reader(start)),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.has(start, length as u64)?;
        match self {
            Chunks::File(file, _) => file.get_bytes(start, length),
            // A copy: a stored page must not keep the whole fetched range alive.
            Chunks::Object(object) => {
                let bytes = object.range(start, length as u64)?;
                Ok(Bytes::copy_from_slice(&bytes[..length]))
            }
        }
    }
}
