//! Spill files: the least recently changed rows, if memory is limited.
//!
//! The columns of a segment are written as one Arrow IPC file, and mapped: the same arrays over memory that the
//! system reclaims under pressure, and reads again on access. An open file has no name, so nothing else changes
//! it, and it disappears with the process, however that ends. Spill files add capacity, not durability: nothing is
//! synced.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef, UInt64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{FileDecoder, read_footer_length};
use datafusion::arrow::ipc::root_as_footer;
use datafusion::arrow::ipc::writer::FileWriter;

use super::keys::KeyColumns;
use super::partition::KeyedPartition;
use super::rows::RowChunk;
use super::segment::Segment;
use crate::error::{Error, Result};

/// Bytes at the end of an IPC file: the length of the footer, and six of magic.
const TRAILER: usize = 10;

impl KeyedPartition {
    /// Moves rows to files in `dir` until memory use is `bytes` lower; returns the bytes freed. The least recently
    /// changed rows go first. The index stays in memory, and so do rows of versions above the low watermark and
    /// those in segments that compaction will join.
    ///
    /// Reads return the same. Costs as much as the rows moved, and a visit to each segment.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if a file cannot be written; its rows stay in memory then.
    pub fn spill(&mut self, dir: &Path, bytes: usize) -> Result<usize> {
        let slots: Vec<u32> = self.ages.values().copied().collect();
        let full = self.sizes.segment / 2;
        let mut less = 0;
        for slot in slots {
            if less >= bytes {
                break;
            }
            let cold = |it: &&mut Segment| it.is_settled() && !it.spilled && it.rows() >= full;
            if let Some(segment) = self.segment_mut(slot).filter(cold) {
                let before = segment.memory();
                segment.piece = in_file(dir, &segment.piece)?;
                segment.spilled = true;
                less += before - segment.memory();
            }
        }
        Ok(less)
    }
}

/// The same rows, mapped from a file.
fn in_file(dir: &Path, piece: &RowChunk) -> Result<RowChunk> {
    let failed = |error| Error::file("move state to a file in", dir, error);
    let rows = columns(piece)?;
    let mut file = tempfile::tempfile_in(dir).map_err(failed)?;
    write(&mut file, &rows).map_err(|error| match error {
        ArrowError::IoError(_, error) => failed(error),
        error => error.into(),
    })?;
    let bytes = map(&file).map_err(failed)?;
    let rows = read(rows.schema(), &bytes)?;
    let mut columns = rows.columns().iter().cloned();
    let keys = columns.next().ok_or_else(|| failed(cut_off()))?;
    let values = columns.by_ref().take(piece.values.len()).collect();
    Ok(RowChunk {
        keys: KeyColumns::new(keys)?,
        values,
        times: {
            let times = columns.map(|times| times.as_primitive::<UInt64Type>().values().clone());
            piece.times.in_buffers(times)
        },
    })
}

/// Keys, values and times, as the columns of a file.
fn columns(piece: &RowChunk) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = vec![Arc::clone(piece.keys.array())];
    columns.extend(piece.values.iter().cloned());
    columns.extend(piece.times.columns(piece.rows()));
    let field = |(at, column): (usize, &ArrayRef)| {
        Field::new(at.to_string(), column.data_type().clone(), true)
    };
    let fields: Vec<_> = columns.iter().enumerate().map(field).collect();
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns,
    )?)
}

fn write(file: &mut File, rows: &RecordBatch) -> Result<(), ArrowError> {
    let mut writer = FileWriter::try_new(BufWriter::new(file), &rows.schema())?;
    writer.write(rows)?;
    writer.finish()
}

fn map(file: &File) -> io::Result<Buffer> {
    #[expect(
        unsafe_code,
        reason = "a file without a name that nobody else has open: its bytes do not change"
    )]
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(bytes::Bytes::from_owner(map).into())
}

/// The rows of an IPC file with one batch, without a copy.
fn read(schema: SchemaRef, bytes: &Buffer) -> Result<RecordBatch> {
    let wrong = || ArrowError::IpcError("the file of spilled state is cut off".into());
    let trailer = bytes.len().checked_sub(TRAILER).ok_or_else(wrong)?;
    let mut length = [0; TRAILER];
    length.copy_from_slice(&bytes[trailer..]);
    let footer = trailer.checked_sub(read_footer_length(length)?);
    let footer = root_as_footer(&bytes[footer.ok_or_else(wrong)?..trailer])
        .map_err(|error| ArrowError::IpcError(error.to_string()))?;
    let batches = footer.recordBatches().filter(|batches| !batches.is_empty());
    let block = batches.ok_or_else(wrong)?.get(0);
    let length = block.metaDataLength() as usize + block.bodyLength() as usize;
    let data = bytes.slice_with_length(block.offset() as usize, length);
    let decoder = FileDecoder::new(schema, footer.version());
    let rows = decoder.read_record_batch(block, &data)?;
    Ok(rows.ok_or_else(wrong)?)
}

fn cut_off() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}
