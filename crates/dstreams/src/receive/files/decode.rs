//! [`Decoder`]: turns the records of a text file into Arrow batches, and bad ones into dead letters.
//!
//! Each record is read once, whether its neighbours are good or bad. Reasons are short and do not repeat the
//! content of the record.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;

use super::bisect::bisect;
use super::column::{Cell, ColumnBuilder};
use super::csv::Fields;
use super::json;
use super::members::MemberNames;
use super::read::Bad;
use super::split::{Chunk, STORED_BYTES, Span};
use super::time::FinerTimes;
use crate::error::{Error, Result};
use crate::stream::format::Format;
use crate::stream::record::{RowCheck, trusted_views, view_at};
use crate::stream::relational::describe;

/// Bytes of column names shown in a reason.
const NAMES_SHOWN: usize = 300;
/// Characters shown of one column name.
const NAME_SHOWN: usize = 60;

/// Turns the records of a text file into Arrow batches and dead letters.
pub(super) enum Decoder {
    /// Whole lines.
    Text(SchemaRef),
    Json(Json),
    Csv(Csv),
}

impl Decoder {
    /// For the columns of a [`checked_schema`](crate::stream::record::checked_schema).
    pub fn new(
        format: Format,
        schema: &SchemaRef,
        finer: FinerTimes,
        check: RowCheck,
    ) -> Result<Self> {
        if format == Format::Text {
            return Ok(Decoder::Text(Arc::clone(schema)));
        }
        let rows = ColumnBuilder::new(schema, finer).map_err(|field| Error::Schema {
            what: "columns of lines".into(),
            expected:
                "numbers, texts, booleans, times, dates, bytes, and lists and structs of them"
                    .into(),
            found: format!("{}: {}", field.name(), field.data_type()),
        })?;
        Ok(match format {
            Format::Csv => Decoder::Csv(Csv {
                schema: Arc::clone(schema),
                rows,
                check,
                header: None,
                fields: Fields::default(),
            }),
            _ => Decoder::Json(Json {
                names: MemberNames::of(schema.fields()),
                rows,
                check,
            }),
        })
    }

    /// Reads the CSV header: the first line that is not blank.
    pub fn take_header(&mut self, chunk: &mut Chunk) -> Result<()> {
        match self {
            Decoder::Csv(csv) if csv.header.is_none() => csv.take_header(chunk),
            _ => Ok(()),
        }
    }

    /// The records of a chunk; bad ones are added to those of the chunk, in line order. Whole lines take its bytes.
    pub fn decode(&mut self, chunk: &mut Chunk) -> Result<Option<RecordBatch>> {
        let (bytes, records) = (
            std::mem::take(&mut chunk.bytes),
            std::mem::take(&mut chunk.records),
        );
        let mut lines = ChunkLines {
            text: simdutf8::basic::from_utf8(&bytes).ok(),
            bytes: &bytes,
            bad: &mut chunk.bad,
        };
        let rows = match self {
            Decoder::Text(schema) => {
                let views = text(&mut lines, records);
                text_rows(schema, views, bytes)?
            }
            Decoder::Json(json) => {
                let rows = json.decode(&mut lines, records)?;
                chunk.bytes = bytes;
                rows
            }
            Decoder::Csv(csv) => {
                let rows = csv.decode(&mut lines, records)?;
                chunk.bytes = bytes;
                rows
            }
        };
        chunk.bad.sort_by_key(|(line, _)| *line);
        Ok(rows)
    }
}

/// The bytes of a chunk as text.
struct ChunkLines<'a, 'b> {
    bytes: &'a [u8],
    /// All bytes, if they are UTF-8: nearly always.
    text: Option<&'a str>,
    bad: &'b mut Vec<(u64, Bad)>,
}

impl<'a> ChunkLines<'a, '_> {
    /// A record as text. If it is not UTF-8 it is a bad record.
    #[inline]
    fn get(&mut self, record: Span) -> Option<&'a str> {
        if let Some(text) = self.text {
            return text.get(record.start..record.end);
        }
        match std::str::from_utf8(&self.bytes[record.start..record.end]) {
            Ok(text) => Some(text),
            Err(error) => {
                let at = error.valid_up_to();
                self.add_bad(record, format!("invalid UTF-8 at byte {at} of the line"));
                None
            }
        }
    }

    /// The same, unless it is blank.
    fn get_unless_blank(&mut self, record: Span) -> Option<&'a str> {
        let text = self.get(record)?;
        (!is_blank(text.as_bytes())).then_some(text)
    }

    fn add_bad(&mut self, record: Span, reason: String) {
        let bytes = &self.bytes[record.start..record.end];
        let bad = Bad {
            at: None,
            bytes: bytes[..bytes.len().min(STORED_BYTES)].to_vec(),
            length: bytes.len() as u64,
            reason,
        };
        self.bad.push((record.line, bad));
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.trim_ascii_start().is_empty()
}

/// The rows that are records, of rows whose values fit their columns; the lines of the others are bad.
fn checked(
    check: RowCheck,
    rows: RecordBatch,
    from: &[Span],
    lines: &mut ChunkLines<'_, '_>,
) -> Result<Option<RecordBatch>> {
    let fit = |rows: &RecordBatch| match check(rows) {
        Ok(()) => Ok(rows.clone()),
        Err(error) => Err(error.to_string()),
    };
    let (good, bad) = bisect(&rows, &fit);
    for (row, why) in bad {
        lines.add_bad(from[row], why);
    }
    Ok(match &good[..] {
        [] => None,
        [rows] => Some(rows.clone()),
        all => Some(concat_batches(&rows.schema(), all)?),
    })
}

/// Views of the records that are valid text.
fn text(lines: &mut ChunkLines<'_, '_>, records: Vec<Span>) -> Vec<u128> {
    let mut views = Vec::with_capacity(records.len());
    for record in records {
        if let Some(line) = lines.get(record) {
            views.push(view_at(lines.bytes, record.start, line.len(), 0));
        }
    }
    views
}

/// A batch of views into the bytes of a chunk; takes ownership of the bytes.
fn text_rows(schema: &SchemaRef, views: Vec<u128>, bytes: Vec<u8>) -> Result<Option<RecordBatch>> {
    if views.is_empty() {
        return Ok(None);
    }
    let lines = trusted_views(views, vec![Buffer::from(bytes)]);
    let rows = RecordBatch::try_new(Arc::clone(schema), vec![Arc::new(lines)])?;
    Ok(Some(rows))
}

/// Decodes lines of JSON.
pub(super) struct Json {
    rows: ColumnBuilder,
    names: MemberNames,
    check: RowCheck,
}

impl Json {
    fn decode(
        &mut self,
        lines: &mut ChunkLines<'_, '_>,
        records: Vec<Span>,
    ) -> Result<Option<RecordBatch>> {
        let mut cells = vec![Cell::Missing; self.names.len()];
        let mut good = Vec::with_capacity(records.len());
        for record in records {
            let Some(line) = lines.get_unless_blank(record) else {
                continue;
            };
            cells.fill(Cell::Missing);
            // Most writers write members in the same order.
            let mut next = 0;
            let scanned = json::object(line, |name, value| {
                let Some(place) = self.names.place(name, next) else {
                    return;
                };
                next = place + 1;
                cells[place] = match cells[place] {
                    Cell::Missing => Cell::Json(value),
                    _ => Cell::Twice,
                };
            });
            let added = match scanned {
                Ok(()) => self.rows.add(|place| cells[place]),
                Err(json::Fault { at, what }) => Err(format!("{what}, at byte {at} of the line")),
            };
            match added {
                Ok(()) => good.push(record),
                Err(reason) => lines.add_bad(record, reason),
            }
        }
        match self.rows.finish()? {
            Some(rows) => checked(self.check, rows, &good, lines),
            None => Ok(None),
        }
    }
}

/// Decodes CSV records.
pub(super) struct Csv {
    schema: SchemaRef,
    rows: ColumnBuilder,
    check: RowCheck,
    /// Set once the first line was read.
    header: Option<Header>,
    fields: Fields,
}

/// The columns of a file.
struct Header {
    columns: usize,
    /// The places of the stream's columns.
    places: Vec<usize>,
}

impl Csv {
    fn take_header(&mut self, chunk: &mut Chunk) -> Result<()> {
        let blank = |record: &Span| is_blank(&chunk.bytes[record.start..record.end]);
        let blanks = chunk
            .records
            .iter()
            .take_while(|record| blank(record))
            .count();
        let first = chunk.records.get(blanks).copied();
        let before = first.map_or(u64::MAX, |first| first.line);
        if let Some((line, bad)) = chunk.bad.first().filter(|(line, _)| *line < before) {
            return Err(Error::Bytes {
                what: format!("line {line}, which names the columns"),
                message: bad.reason.clone(),
            });
        }
        chunk.records.drain(..chunk.records.len().min(blanks + 1));
        let Some(first) = first else { return Ok(()) };
        // Wanted names are UTF-8; others need not be.
        let line = String::from_utf8_lossy(&chunk.bytes[first.start..first.end]);
        self.header = Some(self.header_of(&line)?);
        Ok(())
    }

    fn header_of(&mut self, line: &str) -> Result<Header> {
        let columns = self.fields.split(line);
        let names: Vec<_> = (0..columns).map(|n| self.fields.get(line, n)).collect();
        let wrong = |what: &str| Error::Schema {
            what: what.into(),
            expected: describe(&self.schema),
            found: shown(&names),
        };
        let mut places = Vec::new();
        for field in self.schema.fields() {
            let mut found = (0..columns).filter(|place| names[*place] == field.name());
            match (found.next(), found.next()) {
                (Some(place), None) => places.push(place),
                (Some(_), Some(_)) => {
                    let what = format!("column {:?} appears twice in the first line", field.name());
                    return Err(wrong(&what));
                }
                (None, _) => return Err(wrong("columns in the first line")),
            }
        }
        Ok(Header { columns, places })
    }

    fn decode(
        &mut self,
        lines: &mut ChunkLines<'_, '_>,
        records: Vec<Span>,
    ) -> Result<Option<RecordBatch>> {
        let Some(header) = &self.header else {
            return Ok(None);
        };
        let mut good = Vec::with_capacity(records.len());
        for record in records {
            let Some(line) = lines.get(record) else {
                continue;
            };
            // Blanks are a text where nothing else is in a line.
            let is_only_text = header.columns == 1 && self.rows.is_text();
            if is_blank(line.as_bytes()) && (line.is_empty() || !is_only_text) {
                continue;
            }
            let found = self.fields.split(line);
            let fields = &self.fields;
            let added = match found == header.columns {
                false => Err(format!(
                    "it has {found} fields, and the first line has {}",
                    header.columns
                )),
                true if fields.are_cut(line) => {
                    Err("it has a carriage return outside of quotes".into())
                }
                true => self
                    .rows
                    .add(|place| Cell::Csv(fields.get(line, header.places[place]))),
            };
            match added {
                Ok(()) => good.push(record),
                Err(reason) => lines.add_bad(record, reason),
            }
        }
        match self.rows.finish()? {
            Some(rows) => checked(self.check, rows, &good, lines),
            None => Ok(None),
        }
    }
}

/// Names in quotes, so that blanks are visible, cut to [`NAMES_SHOWN`] bytes.
fn shown(names: &[&str]) -> String {
    let mut shown = String::new();
    for (before, name) in names.iter().enumerate() {
        if shown.len() > NAMES_SHOWN {
            return format!("{shown} and {} more", names.len() - before);
        }
        let cut = name.char_indices().nth(NAME_SHOWN);
        let name = match cut {
            Some((end, _)) => format!("{:?}..", &name[..end]),
            None => format!("{name:?}"),
        };
        let comma = if before == 0 { "" } else { ", " };
        shown = shown + comma + &name;
    }
    shown
}

#[cfg(test)]
mod tests;
