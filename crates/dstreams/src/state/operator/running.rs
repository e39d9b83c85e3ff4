//! What a batch does to a running aggregate.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::KeyedState;
use crate::error::Result;
use crate::state::columns::{Combine, bits_of, column_of};
use crate::state::keyed::Delta;
use crate::stream::agg::AggPlan;

impl KeyedState {
    /// Partial results of a batch, combined with what is held.
    pub(super) fn combined(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        plan: &AggPlan,
    ) -> Result<Delta> {
        let fields = &self.spec.schema.fields()[self.spec.keys..];
        let parts = plan.parts.iter().zip(fields);
        let combine = parts.map(|(part, field)| Combine::new(part.function, field.data_type()));
        let combine = combine.collect::<Result<Vec<_>>>()?;
        let (keys, key_columns, key_of) = self.keys_of(rows)?;
        let found = self.partition.latest(&key_columns)?;
        let mut columns = key_columns.clone();
        for (at, combine) in combine.iter().enumerate() {
            let held = bits_of(&found.value(at)?)?;
            let mut values: Vec<u64> = held.to_vec();
            let mut has: Vec<bool> = (0..keys.len()).map(|key| found.is_there(key)).collect();
            for (rows, key_of) in rows.iter().zip(&key_of) {
                let bits = bits_of(rows.column(self.spec.keys + at))?;
                for (key, bits) in key_of.iter().zip(bits.iter()) {
                    values[*key] = match has[*key] {
                        true => combine.apply(values[*key], *bits),
                        false => *bits,
                    };
                    has[*key] = true;
                }
            }
            let kind = self.spec.schema.field(self.spec.keys + at).data_type();
            columns.push(column_of(values, kind)?);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        Delta::new(&self.shape, batch, &rows, None, &[])
    }
}
