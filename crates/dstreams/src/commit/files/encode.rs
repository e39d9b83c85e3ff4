//! Encodes rows as the bytes of a file: the same rows give the same bytes, however they are cut.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::json::LineDelimitedWriter;

use crate::error::{Error, Result};
use crate::stream::far_times::with_far_times_as_text;
use crate::stream::format::Format;

/// Passes the bytes of a file with `rows` to `write`, piece by piece.
pub(super) fn encode(
    format: Format,
    rows: &[RecordBatch],
    write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    if let Some(columns) = rows.first().map(RecordBatch::schema)
        && let Some(message) = format.refuses(&columns)
    {
        return Err(refused(message));
    }
    match format {
        Format::Text => Err(refused("text can only be read".into())),
        Format::JsonLines => json(rows, write),
        Format::Csv => csv(rows, write),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet::encode(rows, write),
    }
}

fn refused(message: String) -> Error {
    let what = "rows of a file".to_owned();
    Error::Bytes { what, message }
}

fn json(rows: &[RecordBatch], mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    for batch in rows {
        let mut lines = LineDelimitedWriter::new(Vec::new());
        let batch = with_far_times_as_text(batch)?;
        lines.write(&batch)?;
        lines.finish()?;
        write(&lines.into_inner())?;
    }
    Ok(())
}

fn csv(rows: &[RecordBatch], mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    for (at, batch) in rows.iter().enumerate() {
        let mut bytes = Vec::new();
        let mut lines = WriterBuilder::new().with_header(at == 0).build(&mut bytes);
        let batch = with_far_times_as_text(batch)?;
        lines.write(&batch)?;
        drop(lines); // it buffers bytes until then
        write(&bytes)?;
    }
    Ok(())
}

#[cfg(feature = "parquet")]
mod parquet {
    use std::sync::Arc;

    use datafusion::arrow::array::RecordBatch;
    use datafusion::arrow::compute::BatchCoalescer;
    use parquet::arrow::ArrowWriter;
    use parquet::basic::Compression;
    use parquet::file::properties::{WriterProperties, WriterVersion};

    use crate::error::{Error, Result};

    /// Rows written at once. It determines where pages end, so the bytes depend on it.
    const ROWS_AT_ONCE: usize = 8192;
    /// Rows of a row group: the unit of reading.
    const ROWS_OF_A_GROUP: usize = 1 << 20;

    pub(super) fn encode(
        rows: &[RecordBatch],
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(schema) = rows.first().map(RecordBatch::schema) else {
            return Ok(());
        };
        // Explicit, so that another version of the library does not change the bytes by a default.
        let settings = WriterProperties::builder()
            .set_created_by("dstreams".into())
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROWS_OF_A_GROUP))
            .build();
        let file = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(settings));
        let mut file = file.map_err(failed)?;
        let mut even = BatchCoalescer::new(schema, ROWS_AT_ONCE);
        for batch in rows {
            even.push_batch(batch.clone())?;
            while let Some(batch) = even.next_completed_batch() {
                file.write(&batch).map_err(failed)?;
            }
        }
        even.finish_buffered_batch()?;
        while let Some(batch) = even.next_completed_batch() {
            file.write(&batch).map_err(failed)?;
        }
        write(&file.into_inner().map_err(failed)?)
    }

    fn failed(error: parquet::errors::ParquetError) -> Error {
        Error::Bytes {
            what: "a Parquet file".into(),
            message: error.to_string(),
        }
    }
}
