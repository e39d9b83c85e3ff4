//! [`Decoder`]: records of a text file to Arrow batches, with what is wrong with those that are bad.
//!
//! All records of a chunk are decoded at once, which nearly always works; if not, each on its own.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringViewArray};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::{csv, json};

use super::read::Bad;
use super::split::{Chunk, Span};
use crate::error::{Error, Result};
use crate::stream::format::Format;
use crate::stream::record::{trusted_views, view_at};
use crate::stream::relational::describe;

pub(super) struct Decoder {
    format: Format,
    schema: SchemaRef,
    /// Of CSV, once the first line was seen.
    header: Option<Header>,
}

/// The columns of a CSV file.
struct Header {
    /// All columns of the file; those that no record has are texts.
    columns: SchemaRef,
    /// Where the columns of the record are.
    places: Vec<usize>,
}

impl Decoder {
    pub fn new(format: Format, schema: SchemaRef) -> Self {
        Decoder {
            format,
            schema,
            header: None,
        }
    }

    /// Takes the first line of CSV, which names the columns.
    pub fn take_header(&mut self, chunk: &mut Chunk) -> Result<()> {
        if self.format != Format::Csv || self.header.is_some() || chunk.records.is_empty() {
            return Ok(());
        }
        let line = chunk.records.remove(0);
        let line = &chunk.bytes[line.start..line.end];
        let names = csv::reader::Format::default().with_header(true);
        let (names, _) = names.infer_schema(line, Some(0))?;
        let place = |field: &Arc<Field>| {
            names.index_of(field.name()).map_err(|_| Error::Schema {
                what: "columns in the first line".into(),
                expected: describe(&self.schema),
                found: names
                    .fields()
                    .iter()
                    .map(|f| f.name().as_str())
                    .collect::<Vec<_>>()
                    .join(","),
            })
        };
        let places: Vec<usize> = self
            .schema
            .fields()
            .iter()
            .map(place)
            .collect::<Result<_>>()?;
        let columns = names.fields().iter().map(|field| {
            let ours = self.schema.field_with_name(field.name());
            let kind = ours.map_or(DataType::Utf8View, |ours| ours.data_type().clone());
            Field::new(field.name(), kind, true)
        });
        let columns = Arc::new(Schema::new(columns.collect::<Vec<_>>()));
        self.header = Some(Header { columns, places });
        Ok(())
    }

    /// The records of a chunk; bad ones are added to those of the chunk, in the order of lines.
    pub fn decode(&mut self, chunk: &mut Chunk) -> Result<Option<RecordBatch>> {
        if self.format == Format::Text {
            return self.text(chunk);
        }
        let blank = |span: &Span| chunk.bytes[span.start..span.end].trim_ascii().is_empty();
        let records: Vec<Span> = chunk
            .records
            .iter()
            .filter(|s| !blank(s))
            .copied()
            .collect();
        if records.is_empty() {
            return Ok(None);
        }
        if let Ok(rows) = self.rows(&chunk.bytes, &records) {
            return Ok(Some(rows));
        }
        let mut good = Vec::new();
        for record in records {
            match self.rows(&chunk.bytes, &[record]) {
                Ok(row) => good.push(row),
                Err(error) => {
                    // The decoder counts lines from where it began.
                    let reason = error.to_string();
                    let reason = reason.replace(" for line 1", "").replace(" at line 0", "");
                    bury(chunk, record, reason);
                }
            }
        }
        chunk.bad.sort_by_key(|(line, _)| *line);
        match good.is_empty() {
            true => Ok(None),
            false => Ok(Some(concat_batches(&self.schema, &good)?)),
        }
    }

    /// Lines as views into the bytes of the chunk, which is theirs from now on.
    fn text(&self, chunk: &mut Chunk) -> Result<Option<RecordBatch>> {
        let valid = simdutf8::basic::from_utf8(&chunk.bytes).is_ok();
        let mut views = Vec::with_capacity(chunk.records.len());
        for record in std::mem::take(&mut chunk.records) {
            let line = &chunk.bytes[record.start..record.end];
            let checked = match valid {
                true => Ok(()),
                false => std::str::from_utf8(line).map(drop),
            };
            match checked {
                Ok(()) => views.push(view_at(&chunk.bytes, record.start, line.len(), 0)),
                Err(error) => {
                    let at = error.valid_up_to();
                    bury(
                        chunk,
                        record,
                        format!("no valid UTF-8 at byte {at} of the line"),
                    );
                }
            }
        }
        chunk.bad.sort_by_key(|(line, _)| *line);
        if views.is_empty() {
            return Ok(None);
        }
        let buffer = Buffer::from(std::mem::take(&mut chunk.bytes));
        let lines = trusted_views(views, vec![buffer]);
        Ok(Some(RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![Arc::new(lines)],
        )?))
    }

    /// Exactly one row for each record, or what is wrong.
    fn rows(&self, bytes: &[u8], records: &[Span]) -> Result<RecordBatch, ArrowError> {
        match &self.header {
            Some(header) => self.csv(header, bytes, records),
            None => self.json(bytes, records),
        }
    }

    fn json(&self, bytes: &[u8], records: &[Span]) -> Result<RecordBatch, ArrowError> {
        let decoder = json::ReaderBuilder::new(Arc::clone(&self.schema));
        let mut decoder = decoder.with_batch_size(records.len() + 1).build_decoder()?;
        for (before, record) in records.iter().enumerate() {
            let line = &bytes[record.start..record.end];
            if !line.trim_ascii().starts_with(b"{") {
                return Err(ArrowError::JsonError("it is no JSON object".into()));
            }
            let taken = decoder.decode(line)?;
            if taken < line.len() || decoder.has_partial_record() || decoder.len() != before + 1 {
                let message = "it is not exactly one JSON object on one line";
                return Err(ArrowError::JsonError(message.into()));
            }
        }
        exactly(decoder.flush()?, records.len())
    }

    fn csv(
        &self,
        header: &Header,
        bytes: &[u8],
        records: &[Span],
    ) -> Result<RecordBatch, ArrowError> {
        let decoder = csv::ReaderBuilder::new(Arc::clone(&header.columns))
            .with_projection(header.places.clone());
        let mut decoder = decoder.with_batch_size(records.len() + 1).build_decoder();
        for record in records {
            for bytes in [&bytes[record.start..record.end], b"\n"] {
                let mut left = bytes;
                while !left.is_empty() {
                    let taken = decoder.decode(left)?;
                    if taken == 0 {
                        let message = "there is more than one record";
                        return Err(ArrowError::CsvError(message.into()));
                    }
                    left = &left[taken..];
                }
            }
        }
        let rows = exactly(decoder.flush()?, records.len())?;
        let columns = rows.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| without_nulls(column, field));
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?)
    }
}

/// An empty field is an empty text where there are no nulls.
fn without_nulls(column: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    if field.is_nullable() || column.null_count() == 0 {
        return Ok(Arc::clone(column));
    }
    match column.as_any().downcast_ref::<StringViewArray>() {
        Some(texts) => Ok(Arc::new(StringViewArray::from_iter_values(
            texts.iter().map(Option::unwrap_or_default),
        ))),
        None => {
            let message = format!("column `{}` is empty", field.name());
            Err(ArrowError::CsvError(message))
        }
    }
}

fn exactly(rows: Option<RecordBatch>, wanted: usize) -> Result<RecordBatch, ArrowError> {
    match rows {
        Some(rows) if rows.num_rows() == wanted => Ok(rows),
        _ => Err(ArrowError::ParseError(
            "it is not exactly one record".into(),
        )),
    }
}

fn bury(chunk: &mut Chunk, record: Span, reason: String) {
    let bytes = chunk.bytes[record.start..record.end].to_vec();
    let length = bytes.len() as u64;
    let bad = Bad {
        at: None,
        bytes,
        length,
        reason,
    };
    chunk.bad.push((record.line, bad));
}
