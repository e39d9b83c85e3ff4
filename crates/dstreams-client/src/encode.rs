//! Record batches as Flight messages: encoded once, split by rows where they are over the limit.
//!
//! Dictionaries are sent as their values: each message stands alone, so that it can be sent again over another
//! connection.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_flight::{FlightData, SchemaAsIpc};
use bytes::Bytes;

use crate::error::Error;

/// A message without its sequence number.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) header: Bytes,
    pub(crate) body: Bytes,
    pub(crate) records: u64,
}

impl Encoded {
    pub(crate) fn bytes(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

pub(crate) struct Encoder {
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    context: IpcWriteContext,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            options: IpcWriteOptions::default(),
            context: IpcWriteContext::default(),
        }
    }

    /// One message of any size. The batch has no dictionaries.
    pub(crate) fn encode(&mut self, batch: &RecordBatch) -> Result<Encoded, Error> {
        let (dictionaries, message) = self.generator.encode(
            batch,
            &mut self.dictionaries,
            &self.options,
            &mut self.context,
        )?;
        debug_assert!(
            dictionaries.is_empty(),
            "{:?} still has dictionaries",
            batch.schema()
        );
        Ok(Encoded {
            header: message.ipc_message.into(),
            body: message.arrow_data.into(),
            records: batch.num_rows() as u64,
        })
    }

    /// As many messages as needed for each to have at most `limit` bytes of data.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] if a single row is over the limit.
    pub(crate) fn encode_cut(
        &mut self,
        batch: &RecordBatch,
        limit: usize,
    ) -> Result<Vec<Encoded>, Error> {
        let rows = batch.num_rows();
        let pieces = data_bytes(batch)?.div_ceil(limit).clamp(1, rows.max(1));
        let step = rows.div_ceil(pieces).max(1);
        let mut messages = Vec::with_capacity(pieces);
        for start in (0..rows).step_by(step) {
            let piece = batch.slice(start, step.min(rows - start));
            let encoded = self.encode(&compact(&piece)?)?;
            if encoded.body.len() <= limit {
                messages.push(encoded);
            } else if piece.num_rows() == 1 {
                return Err(Error::TooLarge {
                    bytes: encoded.body.len(),
                    limit,
                });
            } else {
                let half = piece.num_rows() / 2;
                let rest = piece.num_rows() - half;
                messages.extend(self.encode_cut(&piece.slice(0, half), limit)?);
                messages.extend(self.encode_cut(&piece.slice(half, rest), limit)?);
            }
        }
        Ok(messages)
    }
}

/// The first message of a call, without its descriptor.
pub(crate) fn schema_message(schema: &Schema) -> FlightData {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into()
}

/// The schema with dictionaries replaced by their values.
///
/// # Errors
///
/// Dictionaries inside of other types are not supported.
pub(crate) fn plain_schema(schema: &Schema) -> Result<SchemaRef, Error> {
    let plain = |field: &Arc<Field>| match field.data_type() {
        DataType::Dictionary(_, values) => Ok(Arc::new(
            field
                .as_ref()
                .clone()
                .with_data_type(values.as_ref().clone()),
        )),
        nested if has_dictionary(nested) => Err(ArrowError::NotYetImplemented(format!(
            "column {:?}: a dictionary inside {nested} cannot be sent",
            field.name()
        ))),
        _ => Ok(Arc::clone(field)),
    };
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(plain)
        .collect::<Result<_, _>>()?;
    Ok(Arc::new(Schema::new_with_metadata(
        fields,
        schema.metadata().clone(),
    )))
}

fn has_dictionary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, _) => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_dictionary(field.data_type())),
        DataType::Union(fields, _) => fields
            .iter()
            .any(|(_, field)| has_dictionary(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => has_dictionary(field.data_type()),
        _ => false,
    }
}

/// The batch with the columns of `plain`, its schema with dictionaries replaced.
pub(crate) fn plain_batch(batch: &RecordBatch, plain: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = batch
        .columns()
        .iter()
        .zip(plain.fields())
        .map(|(column, field)| match column.data_type() {
            DataType::Dictionary(_, _) => cast(column, field.data_type()),
            _ => Ok(Arc::clone(column)),
        });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(plain),
        columns,
        &options,
    )?)
}

/// Copies the parts of view buffers that a piece uses; a view keeps all of its buffers alive.
fn compact(batch: &RecordBatch) -> Result<RecordBatch, Error> {
    let columns = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Utf8View => {
                let views = column.as_string_view();
                let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
                let needed = views.total_buffer_bytes_used();
                if held > needed + needed / 2 {
                    Arc::new(views.gc())
                } else {
                    Arc::clone(column)
                }
            }
            DataType::BinaryView => {
                let views = column.as_binary_view();
                let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
                let needed = views.total_buffer_bytes_used();
                if held > needed + needed / 2 {
                    Arc::new(views.gc())
                } else {
                    Arc::clone(column)
                }
            }
            _ => Arc::clone(column),
        });
    let columns: Vec<ArrayRef> = columns.collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}

fn data_bytes(batch: &RecordBatch) -> Result<usize, ArrowError> {
    batch
        .columns()
        .iter()
        .map(|column| column.to_data().get_slice_memory_size())
        .sum()
}

/// Columns for an error message: `name: type`, with `?` where nulls are allowed.
pub(crate) fn columns_of(schema: &Schema) -> String {
    let mut text = String::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let null = if field.is_nullable() { "?" } else { "" };
        let _ = write!(text, "{comma}{}: {}{null}", field.name(), field.data_type());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::{
        BinaryViewArray, DictionaryArray, Int64Array, StringArray, StringViewArray,
    };
    use arrow::datatypes::{Int32Type, UnionFields, UnionMode};
    use arrow_flight::utils::flight_data_to_arrow_batch;

    use super::*;

    fn decoded(messages: Vec<Encoded>, schema: &SchemaRef) -> RecordBatch {
        let batches: Vec<_> = messages
            .into_iter()
            .map(|encoded| {
                let data = FlightData {
                    data_header: encoded.header,
                    data_body: encoded.body,
                    ..FlightData::default()
                };
                flight_data_to_arrow_batch(&data, Arc::clone(schema), &HashMap::new()).unwrap()
            })
            .collect();
        arrow::compute::concat_batches(schema, &batches).unwrap()
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// Other servers than ours read it: ours knows the schemas of its streams.
    #[test]
    fn the_first_message_has_the_schema() {
        let field = |name, kind| Field::new(name, kind, true);
        let schema = Schema::new(vec![
            field("n", DataType::Int64),
            field("t", DataType::Utf8View),
        ]);
        let message = schema_message(&schema);
        assert_eq!(Schema::try_from(&message).unwrap(), schema);
        assert!(message.data_body.is_empty());
    }

    #[test]
    fn a_large_batch_is_cut_and_nothing_is_lost() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
        // Uneven rows: the first pieces come out larger than the estimate and are halved.
        let text = (0..10_000).map(|row| "x".repeat(if row < 100 { 500 } else { 3 }));
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(text));
        let whole = batch(vec![("n", numbers), ("t", text)]);
        let messages = Encoder::new().encode_cut(&whole, 20_000).unwrap();
        assert!(messages.len() > 10, "{}", messages.len());
        assert!(messages.iter().all(|message| message.body.len() <= 20_000));
        assert_eq!(decoded(messages, &whole.schema()), whole);
    }

    #[test]
    fn views_do_not_drag_their_buffers_into_every_piece() {
        let text = (0..1000).map(|row| format!("a text of more than twelve bytes {row}"));
        let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(text));
        let whole = batch(vec![("t", views)]);
        let messages = Encoder::new().encode_cut(&whole, 10_000).unwrap();
        assert!(messages.iter().all(|message| message.body.len() <= 10_000));
        assert_eq!(decoded(messages, &whole.schema()), whole);
    }

    #[test]
    fn a_single_large_row_is_refused() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a".to_string(), "b".repeat(5000)]));
        let error = Encoder::new()
            .encode_cut(&batch(vec![("t", text)]), 1000)
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooLarge {
                    bytes: 5000..,
                    limit: 1000
                }
            ),
            "{error}"
        );
    }

    /// Rows of a large batch share its texts; a message must not bring those of the other rows along.
    #[test]
    fn texts_and_bytes_that_no_row_shows_are_not_sent() {
        let texts = (0..1000).map(|row| format!("a text of more than twelve bytes {row}"));
        let texts = StringViewArray::from_iter_values(texts);
        let bytes = (0..1000).map(|row| format!("as many bytes, more than twelve {row}"));
        let bytes = BinaryViewArray::from_iter_values(bytes);
        let columns: [ArrayRef; 2] = [Arc::new(texts), Arc::new(bytes)];
        for column in columns {
            let whole = batch(vec![("t", column)]);
            let sizes = |rows: usize| -> Vec<usize> {
                let messages = Encoder::new().encode_cut(&whole.slice(0, rows), 1 << 20);
                let messages = messages.unwrap().into_iter();
                messages.map(|message| message.body.len()).collect()
            };
            let [all, few, two_thirds] = [sizes(1000), sizes(10), sizes(670)].map(|it| it[0]);
            assert!(few < all / 50, "{few} of {all}");
            // Little is left over, which is cheaper to send than to leave out.
            assert!(two_thirds > all * 8 / 10, "{two_thirds} of {all}");
        }
    }

    #[test]
    fn dictionaries_inside_of_other_types_are_refused_by_column() {
        let dictionary =
            || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let item = |of: DataType| Arc::new(Field::new("item", of, true));
        let entries = |of: DataType| {
            let fields = [
                Field::new("k", DataType::Utf8, false),
                Field::new("v", of, true),
            ];
            let entries = DataType::Struct(fields.to_vec().into());
            DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
        };
        let union = |of: DataType| {
            let fields = UnionFields::try_new([0], [Field::new("a", of, true)]).unwrap();
            DataType::Union(fields, UnionMode::Sparse)
        };
        let nested: [fn(Arc<Field>) -> DataType; 7] = [
            DataType::List,
            DataType::LargeList,
            DataType::ListView,
            DataType::LargeListView,
            |item| DataType::FixedSizeList(item, 2),
            |item| DataType::Struct(vec![item].into()),
            |item| {
                DataType::RunEndEncoded(Arc::new(Field::new("ends", DataType::Int32, false)), item)
            },
        ];
        let types = |of: fn() -> DataType| {
            let nested = nested.iter().map(|nest| nest(item(of())));
            nested
                .chain([entries(of()), union(of())])
                .collect::<Vec<_>>()
        };
        let of = |data_type: DataType| Schema::new(vec![Field::new("c", data_type, true)]);
        for data_type in types(dictionary) {
            let error = plain_schema(&of(data_type.clone()))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("column \"c\": a dictionary inside"),
                "{data_type}: {error}"
            );
        }
        for data_type in types(|| DataType::Utf8) {
            let schema = of(data_type);
            assert_eq!(*plain_schema(&schema).unwrap(), schema);
        }
        let plain = plain_schema(&of(dictionary())).unwrap();
        assert_eq!(*plain, of(DataType::Utf8));
    }

    #[test]
    fn columns_are_described_with_their_types() {
        let fields = [
            Field::new("key", DataType::Utf8, true),
            Field::new("value", DataType::Int64, false),
        ];
        assert_eq!(
            columns_of(&Schema::new(fields.to_vec())),
            "key: Utf8?, value: Int64"
        );
    }

    #[test]
    fn dictionaries_are_sent_as_values() {
        let words: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
        let whole = batch(vec![("w", Arc::new(words))]);
        let schema = plain_schema(&whole.schema()).unwrap();
        let plain = plain_batch(&whole, &schema).unwrap();
        let messages = Encoder::new().encode_cut(&plain, 10_000).unwrap();
        let column = Arc::clone(decoded(messages, &schema).column(0));
        assert_eq!(
            column.as_string::<i32>(),
            &StringArray::from(vec!["a", "b", "a"])
        );
    }
}
