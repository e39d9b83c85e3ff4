//! Converts a client's messages into batches with the columns of the stream.
//!
//! The arrays point into the received message: copies are made only of unaligned data (offsets, numbers) and of the
//! views of text, 16 bytes each.

use std::sync::Arc;

use arrow_flight::FlightData;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use tonic::Status;

use crate::receive::message;
use crate::stream::relational::describe;

/// Size of a text view in bytes.
const VIEW_BYTES: usize = 16;

/// The columns that the client sends, and those of the stream.
pub(super) struct ColumnMapping {
    sent: SchemaRef,
    needed: SchemaRef,
}

impl ColumnMapping {
    /// Compares the schema in the first message of a call with that of the stream.
    pub fn agree(first: &FlightData, stream: &str, needed: &SchemaRef) -> Result<Self, Status> {
        let unread = |error: &dyn std::fmt::Display| {
            Status::invalid_argument(format!("expected a schema in the first message: {error}"))
        };
        let first = message::metadata(&first.data_header).map_err(|error| unread(&error))?;
        let sent = message::schema(&first).map_err(|error| unread(&error))?;
        let sent = sent.ok_or_else(|| unread(&"it has none"))?;
        let (sent_fields, needed_fields) = (sent.fields(), needed.fields());
        let same = sent_fields.len() == needed_fields.len()
            && sent_fields.iter().zip(needed_fields).all(|(sent, needed)| {
                sent.name() == needed.name() && fits(sent.data_type(), needed.data_type())
            });
        if !same {
            return Err(Status::invalid_argument(format!(
                "columns for stream `{stream}`: expected {}, got {}",
                describe(needed),
                describe(&sent),
            )));
        }
        Ok(ColumnMapping {
            sent: Arc::new(sent),
            needed: Arc::clone(needed),
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
                bytes += VIEW_BYTES * column.len();
                columns.push(cast(column, field.data_type()).map_err(|error| wrong(&error))?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(sent.num_rows()));
        let needed = Arc::clone(&self.needed);
        let records = RecordBatch::try_new_with_options(needed, columns, &options);
        Ok((records.map_err(|error| wrong(&error))?, bytes))
    }
}

/// The same type, except that text and bytes may have another layout; nulls are checked later.
fn fits(sent: &DataType, needed: &DataType) -> bool {
    use DataType::*;
    match (sent, needed) {
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => true,
        (List(sent) | LargeList(sent), List(needed)) => fits(sent.data_type(), needed.data_type()),
        (Struct(sent), Struct(needed)) => {
            let mut fields = sent.iter().zip(needed);
            sent.len() == needed.len()
                && fields.all(|(sent, needed)| {
                    sent.name() == needed.name() && fits(sent.data_type(), needed.data_type())
                })
        }
        (sent, needed) => sent == needed,
    }
}
