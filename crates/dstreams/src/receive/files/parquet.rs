//! Parquet files to Arrow batches with the columns of the record.

mod fit;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::basic::Type as PhysicalType;
use parquet::file::reader::{ChunkReader, Length};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::fit::{fits, fitted};
use super::bisect::bisect;
use super::chunks::{AHEAD, Chunks, FOOTER};
use super::file_offset::FileOffset;
use super::footer;
use super::read::{Bad, FileRecords, Reading, RecordSender, not_read};
use crate::error::{Error, Result};
use crate::receive::first::{First, HEAD};
use crate::stream::relational::describe;

/// Rows of one read.
const ROWS_PER_READ: usize = 4096;

/// Its values wrap around outside of the years 1677 to 2262, in the reader.
const INT96: &str = "it has times as INT96, which are not read; write them as microseconds (in Spark by \
                     `spark.sql.parquet.outputTimestampType=TIMESTAMP_MICROS`)";

/// Reads the rows after the offset. Damage costs the rest of its row group.
pub(super) fn read(reading: &Reading, pieces: &mut RecordSender) -> Result<()> {
    let file = Chunks::of(reading.open(AHEAD, pieces)?);
    let footer = caught(|| footer::read(&file).map_err(|error| damaged(&error)));
    let footer = footer.map_err(|error| match file.lost() {
        Some(lost) => reading.unreadable(lost),
        None => packed(&file).unwrap_or(error),
    })?;
    let hash = end_hash(&file).map_err(|error| match file.lost() {
        Some(lost) => reading.unreadable(lost),
        None => damaged(&error),
    })?;
    reading.is_the_one(Some(hash), "rows")?;
    let places = places(&reading.schema, footer.schema())?;
    let mask = ProjectionMask::roots(footer.parquet_schema(), places);
    let columns = 0..footer.parquet_schema().num_columns();
    let columns: Vec<_> = columns
        .filter(|column| mask.leaf_included(*column))
        .collect();
    file.are_read_at(columns.len());
    let kind = |column: &usize| footer.parquet_schema().column(*column).physical_type();
    if columns
        .iter()
        .any(|column| kind(column) == PhysicalType::INT96)
    {
        return Err(damaged(&INT96));
    }
    let mut rest = Rest {
        mask,
        footer,
        file,
        reading,
        done: reading.before(),
        hash,
    };
    let groups = rest.footer.metadata().row_groups().iter();
    let rows: Vec<i64> = groups.map(|group| group.num_rows()).collect();
    let claimed = rest.footer.metadata().file_metadata().num_rows();
    let all = rows.iter().try_fold(0i64, |all, rows| {
        all.checked_add(*rows).filter(|_| *rows >= 0)
    });
    let mut end = 0u64;
    for (group, rows) in rows.into_iter().enumerate() {
        let begin = end;
        end = end.saturating_add(rows.unsigned_abs());
        if end <= rest.done {
            continue;
        }
        match caught(|| rest.group(group, begin, pieces)) {
            Ok(true) if rest.done >= end => {}
            Ok(true) => rest.give_up(end, "there are fewer", pieces),
            Ok(false) => return Ok(()),
            Err(error) => {
                if let Some(lost) = rest.file.lost() {
                    return Err(reading.unreadable(lost));
                }
                rest.give_up(end, &error.to_string(), pieces);
            }
        }
    }
    if all != Some(claimed) {
        let all = all.map_or("a number that cannot be".to_owned(), |all| all.to_string());
        return Err(damaged(&format!(
            "its row groups have {all} rows together, and its footer says {claimed}: rows may be missing"
        )));
    }
    reading.has_all_from_before(end, "rows")
}

/// Treats a panic of the Parquet reader as damage.
fn caught<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(damaged(&format!(
            "its reader panicked: {}",
            text.unwrap_or_default()
        )))
    })
}

/// A hash of the end of a file, which locates its pages and their statistics: another file has another hash.
fn end_hash(file: &Chunks) -> parquet::errors::Result<u64> {
    let length = file.len();
    let read = length.min(FOOTER);
    let bytes = file.get_bytes(length - read, read as usize)?;
    Ok(xxh3_64_with_seed(&bytes, length))
}

/// The format of a file without a footer, if its first bytes reveal it.
fn packed(file: &Chunks) -> Option<Error> {
    let length = file.len().min(HEAD as u64) as usize;
    match First::of(&file.get_bytes(0, length).ok()?) {
        other @ First::Packed(name) if name != "Parquet" => Some(not_read(other)),
        _ => None,
    }
}

fn damaged(error: &dyn std::fmt::Display) -> Error {
    Error::Bytes {
        what: "a Parquet file".into(),
        message: error.to_string(),
    }
}

/// The part of a file that is not yet read.
struct Rest<'a> {
    reading: &'a Reading,
    file: Chunks,
    footer: ArrowReaderMetadata,
    mask: ProjectionMask,
    /// Rows that were read, or given up.
    done: u64,
    hash: u64,
}

impl Rest<'_> {
    /// Reads a row group that starts after the first `begin` rows. Returns `false` when nobody receives its rows.
    fn group(&mut self, group: usize, begin: u64, pieces: &mut RecordSender) -> Result<bool> {
        self.done = self.done.max(begin);
        let offset = usize::try_from(self.done - begin).unwrap_or(usize::MAX);
        let (file, footer) = (self.file.clone(), self.footer.clone());
        let rows = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer)
            .with_row_groups(vec![group])
            .with_projection(self.mask.clone())
            .with_offset(offset)
            .with_batch_size(ROWS_PER_READ)
            .build();
        for batch in rows.map_err(|error| damaged(&error))? {
            let batch = batch.map_err(|error| damaged(&error))?;
            let begin = self.done;
            let (rows, bad) = records(self.reading, &batch, begin)?;
            self.done += batch.num_rows() as u64;
            let (mut whole, mut passed) = (whole_rows(begin, self.done, &bad), 0);
            let hash = self.hash;
            // Rows are asked for in their order.
            let place = |row: usize| {
                let before = whole.nth(row - std::mem::replace(&mut passed, row + 1));
                let before =
                    before.ok_or_else(|| Error::internal("a row of a file has no place"))?;
                Ok(FileOffset::begun(before, hash))
            };
            let records = FileRecords {
                rows: Some(rows).filter(|rows| rows.num_rows() > 0),
                offset: FileOffset::begun(self.done, hash),
                time: None,
                bad,
            };
            if !self.reading.push(records, place, pieces)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the rows up to the end of a group one dead letter.
    fn give_up(&mut self, end: u64, why: &str, pieces: &mut RecordSender) {
        let bad = Bad {
            at: Some(end),
            bytes: Vec::new(),
            length: 0,
            reason: format!("rows {} to {end}: {why}", self.done + 1),
        };
        self.done = end;
        let offset = FileOffset::begun(end, self.hash);
        // The caller finds out when nobody receives it.
        let _ = pieces.push(FileRecords {
            rows: None,
            bad: vec![bad],
            offset,
            time: None,
        });
    }
}

/// The numbers of rows before each row of `from` to `to` that is not bad.
fn whole_rows(from: u64, to: u64, bad: &[Bad]) -> impl Iterator<Item = u64> + use<> {
    let bad: Vec<u64> = bad.iter().filter_map(|bad| bad.at).collect();
    let mut bad = bad.into_iter().peekable();
    (from..to).filter(move |before| bad.next_if_eq(&(before + 1)).is_none())
}

/// The positions of the record's columns in the file.
fn places(wanted: &Schema, found: &SchemaRef) -> Result<Vec<usize>> {
    let wrong = |what: String| Error::Schema {
        what,
        expected: describe(wanted),
        found: describe(found),
    };
    let place = |field: &Arc<Field>| {
        let named = |place: &usize| found.field(*place).name() == field.name();
        let mut places = (0..found.fields().len()).filter(named);
        let place = places.next();
        if places.next().is_some() {
            return Err(wrong(format!(
                "column {:?} appears twice in the file",
                field.name()
            )));
        }
        let fits = |place: &usize| fits(field.data_type(), found.field(*place).data_type());
        place
            .filter(fits)
            .ok_or_else(|| wrong("columns of the file".into()))
    };
    wanted.fields().iter().map(place).collect()
}

/// The rows of a batch that are records, and the others. The file has so many rows `before`.
fn records(reading: &Reading, batch: &RecordBatch, before: u64) -> Result<(RecordBatch, Vec<Bad>)> {
    let (wanted, finer, check) = (&reading.schema, reading.finer, reading.check);
    let (good, bad) = bisect(batch, &|rows| fitted(wanted, rows, finer, check));
    let bad = bad.into_iter().map(|(row, why)| {
        let row = before + row as u64 + 1;
        Bad {
            at: Some(row),
            bytes: Vec::new(),
            length: 0,
            reason: format!("row {row}: {why}"),
        }
    });
    let rows = match &good[..] {
        [rows] => rows.clone(),
        all => concat_batches(wanted, all)?,
    };
    Ok((rows, bad.collect()))
}

#[cfg(test)]
mod tests;
