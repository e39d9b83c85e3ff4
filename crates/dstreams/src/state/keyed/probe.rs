//! Looks up the keys of other rows in a state.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::take;
use dstreams_control::BatchTime;

use super::KeyedState;
use crate::error::Result;
use crate::plan::Probe;
use crate::stream::with_state::AsOf;

impl KeyedState {
    /// `rows`, in their order, with the results of their keys as of a batch that is installed, or of the one before.
    ///
    /// Each key is looked up once.
    pub fn probe(
        &self,
        batch: BatchTime,
        probe: &Probe,
        rows: &[RecordBatch],
    ) -> Result<Vec<RecordBatch>> {
        let version = match probe.as_of {
            AsOf::Before => self.before(batch),
            AsOf::After => batch,
        };
        let (_, keys, key_of) = self.keys_of(rows)?;
        let found = self.partition.latest_at(&keys, version)?;
        let there = self.rows_of(&keys, &found.values()?, &found.mask())?;
        let results = self.spec.results_of(&there)?;
        // The row of each key in the results.
        let mut next = 0u32;
        let row_of = (0..found.len()).map(|key| {
            let is_there = found.exists(key);
            let row = is_there.then_some(next);
            next += u32::from(is_there);
            row
        });
        let row_of: Vec<Option<u32>> = row_of.collect();
        let rows = rows.iter().zip(key_of);
        let probed = rows.map(|(rows, key_of)| {
            let at = key_of.iter().map(|key| row_of[*key]);
            let at: UInt32Array = at.collect();
            let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
            if probe.marked {
                let all = || BooleanBuffer::new_set(at.len());
                let is_there = at.nulls().map_or_else(all, |nulls| nulls.inner().clone());
                columns.push(Arc::new(BooleanArray::new(is_there, None)));
            }
            for value in &results.columns()[self.spec.keys..] {
                columns.push(match value.is_empty() {
                    true => new_null_array(value.data_type(), at.len()),
                    false => take(value, &at, None)?,
                });
            }
            let schema = Arc::clone(&probe.schema);
            Ok(RecordBatch::try_new(schema, columns)?)
        });
        probed.collect()
    }
}
