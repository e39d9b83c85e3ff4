//! Parquet files to Arrow batches with the columns of the record.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::read::{Bad, Piece, Pieces, Reading};
use crate::error::{Error, Result};
use crate::stream::relational::describe;

/// Rows that are read at once.
const ROWS_AT_ONCE: usize = 4096;

/// Reads the rows after the first `reading.done`.
pub(super) fn read(reading: &Reading, pieces: &mut Pieces) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::Bytes {
        what: "a Parquet file".into(),
        message: error.to_string(),
    };
    let file = ParquetRecordBatchReaderBuilder::try_new(reading.open()?);
    let file = file.map_err(|error| failed(&error))?;
    let wanted = &reading.schema;
    let places = places(wanted, file.schema())?;
    let mask = ProjectionMask::roots(file.parquet_schema(), places);
    let offset = usize::try_from(reading.done).unwrap_or(usize::MAX);
    let rows = file.with_projection(mask).with_offset(offset);
    let rows = rows.with_batch_size(ROWS_AT_ONCE).build();
    let mut done = reading.done;
    for batch in rows.map_err(|error| failed(&error))? {
        let batch = batch.map_err(|error| failed(&error))?;
        let before = done;
        done += batch.num_rows() as u64;
        let (rows, bad) = complete(wanted, &batch, before)?;
        let rows = Some(rows).filter(|rows| rows.num_rows() > 0);
        if !pieces.push(Piece { rows, bad, done }) {
            break;
        }
    }
    Ok(())
}

/// Where the columns of the record are in the file.
fn places(wanted: &Schema, found: &SchemaRef) -> Result<Vec<usize>> {
    let place = |field: &Arc<datafusion::arrow::datatypes::Field>| {
        let place = found.index_of(field.name()).ok();
        let fits = |place: &usize| fits(field.data_type(), found.field(*place).data_type());
        place.filter(fits).ok_or_else(|| Error::Schema {
            what: "columns of the file".into(),
            expected: describe(wanted),
            found: describe(found),
        })
    };
    wanted.fields().iter().map(place).collect()
}

/// The same type, or text in another encoding.
fn fits(wanted: &DataType, found: &DataType) -> bool {
    let text = |kind: &DataType| {
        matches!(
            kind,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        )
    };
    wanted == found || (text(wanted) && text(found)) || wanted.equals_datatype(found)
}

/// The columns of the record; rows without a value where there must be one are left out.
fn complete(
    wanted: &SchemaRef,
    batch: &RecordBatch,
    before: u64,
) -> Result<(RecordBatch, Vec<Bad>)> {
    let (mut columns, mut bad) = (Vec::<ArrayRef>::new(), Vec::new());
    let mut whole: Option<NullBuffer> = None;
    for field in wanted.fields() {
        let place = batch.schema().index_of(field.name())?;
        let column = batch.column(place);
        if !field.is_nullable() {
            whole = NullBuffer::union(whole.as_ref(), column.logical_nulls().as_ref());
        }
        columns.push(cast(column, field.data_type())?);
    }
    let open = wanted
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    let open = Arc::new(Schema::new(open.collect::<Vec<_>>()));
    let mut rows = RecordBatch::try_new(open, columns)?;
    if let Some(whole) = whole.filter(|whole| whole.null_count() > 0) {
        for row in (0..rows.num_rows()).filter(|row| whole.is_null(*row)) {
            let mut missing = wanted.fields().iter().zip(rows.columns());
            let missing =
                missing.find(|(field, column)| !field.is_nullable() && column.is_null(row));
            let missing = missing.map_or("", |(field, _)| field.name());
            bad.push(Bad {
                bytes: Vec::new(),
                length: 0,
                reason: format!(
                    "row {}: column `{missing}` is null",
                    before + row as u64 + 1
                ),
            });
        }
        rows = filter_record_batch(&rows, &BooleanArray::new(whole.into_inner(), None))?;
    }
    let rows = RecordBatch::try_new(Arc::clone(wanted), rows.columns().to_vec())?;
    Ok((rows, bad))
}
