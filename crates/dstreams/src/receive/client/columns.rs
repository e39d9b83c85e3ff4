//! Converts a client's messages into batches with the columns of the stream.
//!
//! The arrays point into the received message: copies are made only of unaligned data (offsets, numbers) and of the
//! views of text, 16 bytes each.

use std::sync::Arc;

use arrow_flight::FlightData;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::SchemaRef;
use tonic::Status;

use super::Stream;
use crate::receive::message;
use crate::stream::record::{RowCheck, refits, refitted};
use crate::stream::relational::describe;

/// Size of a text view in bytes.
const VIEW_BYTES: usize = 16;

/// The columns that the client sends, and those of the stream.
pub(super) struct ColumnMapping {
    sent: SchemaRef,
    needed: SchemaRef,
    check: RowCheck,
}

impl ColumnMapping {
    /// Compares the schema in the first message of a call with that of the stream.
    pub fn agree(first: &FlightData, stream: &Stream) -> Result<Self, Status> {
        let needed = &stream.schema;
        let unread = |error: &dyn std::fmt::Display| {
            Status::invalid_argument(format!("expected a schema in the first message: {error}"))
        };
        let first = message::metadata(&first.data_header).map_err(|error| unread(&error))?;
        let sent = message::schema(&first).map_err(|error| unread(&error))?;
        let sent = sent.ok_or_else(|| unread(&"it has none"))?;
        let (sent_fields, needed_fields) = (sent.fields(), needed.fields());
        let same = sent_fields.len() == needed_fields.len()
            && sent_fields.iter().zip(needed_fields).all(|(sent, needed)| {
                sent.name() == needed.name() && refits(sent.data_type(), needed.data_type())
            });
        if !same {
            return Err(Status::invalid_argument(format!(
                "columns for stream `{}`: expected {}, got {}",
                stream.name,
                describe(needed),
                describe(&sent),
            )));
        }
        Ok(ColumnMapping {
            sent: Arc::new(sent),
            needed: Arc::clone(needed),
            check: stream.check,
        })
    }

    /// The records of a message, and the memory they occupy. Their texts have at most `most` bytes.
    pub fn decode(&self, message: FlightData, most: usize) -> Result<(RecordBatch, usize), Status> {
        let wrong = |error: &dyn std::fmt::Display| {
            Status::invalid_argument(format!("a batch that cannot be read: {error}"))
        };
        let mut bytes = message.data_body.len();
        let body = Buffer::from(message.data_body);
        let sent = message::metadata(&message.data_header)
            .and_then(|message| message::records(&message, &body, &self.sent, Some(most)))
            .map_err(|error| wrong(&error))?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(sent.num_columns());
        for (column, field) in sent.columns().iter().zip(self.needed.fields()) {
            if column.data_type() == field.data_type() {
                columns.push(Arc::clone(column));
            } else {
                let fitted = refitted(column, field).map_err(|error| wrong(&error))?;
                bytes += match field.data_type().is_nested() {
                    true => fitted.get_array_memory_size(),
                    false => VIEW_BYTES * column.len(),
                };
                columns.push(fitted);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(sent.num_rows()));
        let needed = Arc::clone(&self.needed);
        let records = RecordBatch::try_new_with_options(needed, columns, &options);
        let records = records.map_err(|error| wrong(&error))?;
        (self.check)(&records).map_err(|error| wrong(&error))?;
        Ok((records, bytes))
    }
}
