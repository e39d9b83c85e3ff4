//! The keys of a window: a slot for each, and the keys as Arrow columns.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take};
use datafusion::arrow::datatypes::{Schema, SchemaRef};

use super::encoding::wrong;
use crate::encoding::{ByteInput, ByteOutput, compact_column};
use crate::encoding::{each_batch, encode_in_parts, length_of};
use crate::error::Result;
use crate::group::KeyTable;

/// Finds the slot of a key; new keys get the next one.
pub(super) struct KeySlots {
    schema: SchemaRef,
    table: KeyTable,
    /// The keys by slot, beginning with the first segment. Segments are merged as they grow, so that there are
    /// few.
    segments: Vec<RecordBatch>,
    slots: usize,
}

impl KeySlots {
    pub fn new(schema: SchemaRef) -> Result<Self> {
        Ok(KeySlots {
            table: KeyTable::new(&schema)?,
            schema,
            segments: Vec::new(),
            slots: 0,
        })
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.slots
    }

    /// Writes the slot of each row's key to `slots`.
    pub fn intern(&mut self, keys: &[ArrayRef], slots: &mut Vec<usize>) -> Result<()> {
        self.table.number(keys, slots)?;
        // New slots are in the order of their rows, unless hashes of keys collide.
        let mut fresh = Vec::new();
        for (row, slot) in slots.iter().enumerate() {
            let Some(at) = slot.checked_sub(self.slots) else {
                continue;
            };
            if at >= fresh.len() {
                fresh.resize(at + 1, None);
            }
            fresh[at].get_or_insert(row as u32);
        }
        if fresh.is_empty() {
            return Ok(());
        }
        self.slots += fresh.len();
        let fresh = UInt32Array::from(fresh);
        let columns = keys
            .iter()
            .map(|key| compact_column(&take(key, &fresh, None)?));
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

    /// The exported keys, with a new index.
    pub fn import(schema: SchemaRef, from: &mut ByteInput<'_>) -> Result<Self> {
        let mut keys = KeySlots::new(Arc::clone(&schema))?;
        let mut slots = Vec::new();
        from.part(|from| {
            each_batch(
                "a window's keys",
                from,
                std::slice::from_ref(&schema),
                |segment| {
                    keys.table.number(segment.columns(), &mut slots)?;
                    let next = keys.slots..keys.slots + segment.num_rows();
                    if !slots.iter().copied().eq(next.clone()) {
                        return Err(wrong("a key has two slots"));
                    }
                    keys.slots = next.end;
                    keys.segments.push(segment);
                    Ok(())
                },
            )
        })?;
        Ok(keys)
    }

    /// Retains only the slots in `live`, renumbered in order.
    pub fn retain(&mut self, live: &UInt32Array) -> Result<()> {
        let all = concat_batches(&self.schema, &self.segments)?;
        let columns = all
            .columns()
            .iter()
            .map(|key| compact_column(&take(key, live, None)?));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut kept = KeySlots::new(Arc::clone(&self.schema))?;
        let mut slots = Vec::new();
        kept.intern(&columns, &mut slots)?;
        *self = kept;
        Ok(())
    }
}

/// Writes keys by slot, in their segments.
pub(super) fn export(
    segments: &[RecordBatch],
    schema: &SchemaRef,
    to: &mut ByteOutput<'_>,
) -> Result<()> {
    let encode = |each: &mut dyn FnMut(&[u8]) -> Result<()>| {
        let segments = segments.iter().map(|keys| Ok((keys.clone(), None)));
        encode_in_parts(schema, segments, each)
    };
    to.put_number(length_of(encode)?)?;
    encode(&mut |bytes| to.put(bytes))
}

/// The first `keys` columns.
pub(super) fn key_schema(schema: &Schema, keys: usize) -> SchemaRef {
    Arc::new(Schema::new(schema.fields()[..keys].to_vec()))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type};
    use datafusion::logical_expr::EmitTo;
    use datafusion::physical_plan::aggregates::group_values::GroupValues;

    use super::*;

    /// Assigns the listed slots to each batch of keys.
    struct FixedSlots(Vec<Vec<usize>>);

    impl GroupValues for FixedSlots {
        fn intern(
            &mut self,
            _: &[ArrayRef],
            slots: &mut Vec<usize>,
        ) -> datafusion::error::Result<()> {
            *slots = self.0.remove(0);
            Ok(())
        }
        fn size(&self) -> usize {
            0
        }
        fn is_empty(&self) -> bool {
            false
        }
        fn len(&self) -> usize {
            0
        }
        fn emit(&mut self, _: EmitTo) -> datafusion::error::Result<Vec<ArrayRef>> {
            Ok(vec![])
        }
        fn clear_shrink(&mut self, _: usize) {}
    }

    #[test]
    fn new_slots_may_be_in_any_order() {
        let field = Field::new("key", DataType::Int64, false);
        let mut keys = KeySlots::new(Arc::new(Schema::new(vec![field]))).unwrap();
        let slots = FixedSlots(vec![vec![2, 0, 2, 1, 0], vec![1, 4, 3]]);
        keys.table = KeyTable::of(Box::new(slots));
        for batch in [[12, 10, 12, 11, 10].to_vec(), [11, 14, 13].to_vec()] {
            let batch: ArrayRef = Arc::new(Int64Array::from(batch));
            keys.intern(&[batch], &mut Vec::new()).unwrap();
        }
        let segments = keys.segments().iter();
        let keys: Vec<i64> = segments
            .flat_map(|s| s.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert_eq!(keys, [10, 11, 12, 13, 14]);
    }
}
