//! The keys of a window: a slot for each, and the keys as Arrow columns.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use crate::error::Result;

/// Finds the slot of a key; new keys get the next one.
pub(super) struct Keys {
    schema: SchemaRef,
    index: Box<dyn GroupValues>,
    /// The keys by slot: slots of the first segment come first. Segments are joined as they grow,
    /// so that there are few.
    segments: Vec<RecordBatch>,
    slots: usize,
}

impl Keys {
    pub fn new(schema: SchemaRef) -> Result<Self> {
        Ok(Keys {
            index: new_group_values(Arc::clone(&schema), &GroupOrdering::None)?,
            schema,
            segments: Vec::new(),
            slots: 0,
        })
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots
    }

    /// The slot of each row's key, into `slots`.
    pub fn intern(&mut self, keys: &[ArrayRef], slots: &mut Vec<usize>) -> Result<()> {
        self.index.intern(keys, slots)?;
        let mut fresh = Vec::new();
        for (row, slot) in slots.iter().enumerate() {
            if *slot == self.slots {
                fresh.push(row as u32);
                self.slots += 1;
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let fresh = UInt32Array::from(fresh);
        let columns = keys.iter().map(|key| owned(&take(key, &fresh, None)?));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        self.segments
            .push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        self.join_segments()
    }

    fn join_segments(&mut self) -> Result<()> {
        while let [.., before, last] = self.segments.as_slice() {
            if before.num_rows() > 2 * last.num_rows() {
                break;
            }
            let joined = concat_batches(&self.schema, [before, last])?;
            self.segments.truncate(self.segments.len() - 2);
            self.segments.push(joined);
        }
        Ok(())
    }

    /// The keys by slot, in segments.
    pub fn segments(&self) -> &[RecordBatch] {
        &self.segments
    }

    /// Keeps the slots in `live` only, which get new numbers in their order.
    pub fn keep(&mut self, live: &UInt32Array) -> Result<()> {
        let all = concat_batches(&self.schema, &self.segments)?;
        let columns = all
            .columns()
            .iter()
            .map(|key| owned(&take(key, live, None)?));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut kept = Keys::new(Arc::clone(&self.schema))?;
        let mut slots = Vec::new();
        kept.intern(&columns, &mut slots)?;
        *self = kept;
        Ok(())
    }
}

/// Text in buffers of its own: a view would keep the whole buffer it points into.
fn owned(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => Arc::clone(column),
    })
}

/// The first `keys` columns.
pub(super) fn key_schema(schema: &Schema, keys: usize) -> SchemaRef {
    Arc::new(Schema::new(schema.fields()[..keys].to_vec()))
}
