//! [`FileTime`]: the time that the records of files give: see [`Files::by_time`](super::Files::by_time).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType,
};
use xxhash_rust::xxh3::Xxh3;

use super::file_offset::FileOffset;
use super::read::{Bad, FileRecords};
use super::split::{Chunk, Span};
use crate::encoding::compact;
use crate::error::{Error, Result};

/// The column that gives the time.
#[derive(Debug, Clone)]
pub(super) struct EventTimeColumn {
    pub name: String,
    pub disorder: Duration,
}

impl EventTimeColumn {
    /// Its index among the columns of a record; the error says why it gives no time.
    pub fn index_in(&self, columns: &SchemaRef) -> std::result::Result<usize, String> {
        let name = &self.name;
        let Ok(index) = columns.index_of(name) else {
            let names: Vec<_> = columns.fields().iter().map(|field| field.name()).collect();
            return Err(format!(
                "there is no column `{name}` to give the time; there are {names:?}"
            ));
        };
        let field = columns.field(index);
        let is_time = matches!(
            field.data_type(),
            DataType::Int64 | DataType::Timestamp(TimeUnit::Millisecond, _)
        );
        match is_time && !field.is_nullable() {
            true => Ok(index),
            false => Err(format!(
                "column `{name}` gives no time: it must be `Millis` or `i64` (milliseconds since 1970), without nulls, and \
                 is {}{}",
                field.data_type(),
                if field.is_nullable() {
                    " with nulls"
                } else {
                    ""
                }
            )),
        }
    }
}

/// The greatest time that files have given so far. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct FileTime {
    column: usize,
    disorder: i64,
    interval: i64,
    greatest: Arc<AtomicI64>,
}

impl FileTime {
    pub fn new(column: usize, disorder: Duration, interval: Duration) -> Self {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        FileTime {
            column,
            disorder: millis(disorder),
            interval: millis(interval).max(1),
            greatest: Arc::new(AtomicI64::new(i64::MIN)),
        }
    }

    /// Splits rows where the time that they give reaches another interval: the first row of each part, with its time.
    fn parts(&self, rows: &RecordBatch) -> Result<Vec<(usize, i64)>> {
        let column = rows.column(self.column);
        let times = match column.data_type() {
            DataType::Int64 => column.as_primitive_opt::<Int64Type>().map(|c| c.values()),
            _ => column
                .as_primitive_opt::<TimestampMillisecondType>()
                .map(|c| c.values()),
        };
        let times = times.ok_or_else(|| Error::internal("a column of times has another type"))?;
        let mut greatest = self.greatest.load(Ordering::Relaxed);
        let mut parts = Vec::new();
        let mut last = None;
        for (row, time) in times.iter().enumerate() {
            if *time <= greatest && last.is_some() {
                continue;
            }
            greatest = greatest.max(*time);
            let at = greatest.saturating_sub(self.disorder);
            let interval = at.div_euclid(self.interval);
            if last.replace(interval) != Some(interval) {
                parts.push((row, at));
            }
        }
        self.greatest.store(greatest, Ordering::Relaxed);
        Ok(parts)
    }

    /// The parts of these records, each with the offset after it: `place_of` is that before a row.
    pub fn split(
        &self,
        records: FileRecords,
        mut place_of: impl FnMut(usize) -> Result<FileOffset>,
    ) -> Result<Vec<FileRecords>> {
        let FileRecords {
            rows, bad, offset, ..
        } = records;
        let Some(rows) = rows.filter(|rows| rows.num_rows() > 0) else {
            let time = None;
            return Ok(vec![FileRecords {
                rows: None,
                bad,
                offset,
                time,
            }]);
        };
        let parts = self.parts(&rows)?;
        let mut bad = bad.into_iter().peekable();
        let mut split = Vec::with_capacity(parts.len());
        for (nth, (first, time)) in parts.iter().enumerate() {
            let next = parts.get(nth + 1).map(|(next, _)| *next);
            let (rows, offset) = match next {
                // A part is charged with its own memory alone.
                _ if parts.len() == 1 => (rows.clone(), offset),
                None => (
                    compact(&rows.slice(*first, rows.num_rows() - first))?,
                    offset,
                ),
                Some(next) => (compact(&rows.slice(*first, next - first))?, place_of(next)?),
            };
            let before = next.and_then(|_| offset.records());
            let is_before = |bad: &Bad| before.is_none_or(|before| bad.at <= Some(before));
            split.push(FileRecords {
                rows: Some(rows),
                bad: std::iter::from_fn(|| bad.next_if(is_before)).collect(),
                offset,
                time: Some(*time),
            });
        }
        Ok(split)
    }
}

/// Where the rows of a chunk of text are in it.
pub(super) struct RowPlaces {
    records: Vec<Span>,
    /// Hash of the bytes up to `hashed`.
    hash: Box<Xxh3>,
    hashed: usize,
}

impl RowPlaces {
    /// Of the records that will be decoded; `hash` is that of the bytes before the chunk.
    pub fn before(chunk: &Chunk, hash: Box<Xxh3>) -> Self {
        let has_text = |record: &&Span| {
            let bytes = &chunk.bytes[record.start..record.end];
            !bytes.trim_ascii_start().is_empty()
        };
        RowPlaces {
            records: chunk.records.iter().filter(has_text).copied().collect(),
            hash,
            hashed: 0,
        }
    }

    /// Drops the records that have become none; checks that the others are the rows.
    pub fn after(mut self, chunk: &Chunk, rows: usize) -> Result<Self> {
        let mut bad = chunk.bad.iter().map(|(line, _)| *line).peekable();
        self.records.retain(|record| {
            while bad.next_if(|line| *line < record.line).is_some() {}
            bad.peek() != Some(&record.line)
        });
        match self.records.len() == rows {
            true => Ok(self),
            false => Err(Error::internal(format!(
                "a chunk of a file has {} records and {rows} rows",
                self.records.len()
            ))),
        }
    }

    /// The offset before a row. Rows are asked for in their order.
    pub fn offset(&mut self, row: usize, chunk: &Chunk) -> FileOffset {
        let record = self.records[row];
        self.hash.update(&chunk.bytes[self.hashed..record.start]);
        self.hashed = record.start;
        FileOffset::begun(record.line - 1, self.hash.digest())
    }
}
