//! The effect of a batch on a running aggregate.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use dstreams_control::BatchTime;

use super::KeyedState;
use crate::error::Result;
use crate::state::accumulators::{Combine, bits_of, bits_of_partial, column_of};
use crate::state::versioned::{Delta, NewestRows};
use crate::stream::agg::AggPlan;

impl KeyedState {
    /// Partial results of a batch, combined with the state.
    pub(super) fn combined(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        plan: &AggPlan,
    ) -> Result<(Delta, NewestRows)> {
        let fields = &self.spec.schema.fields()[self.spec.keys..];
        let combine = Combine::of_plan(plan, fields)?;
        let (keys, key_columns, key_of) = self.keys_of(rows)?;
        let found = self.partition.latest(&key_columns)?;
        let mut columns = key_columns.clone();
        for (_, part) in plan.columns() {
            let held = part
                .clone()
                .map(|at| Ok(bits_of(&found.value(at)?)?.to_vec()));
            let mut held = held.collect::<Result<Vec<Vec<u64>>>>()?;
            let mut has: Vec<bool> = (0..keys.len()).map(|key| found.is_there(key)).collect();
            for (rows, key_of) in rows.iter().zip(&key_of) {
                let bits = &rows.columns()[self.spec.keys..][part.clone()];
                let bits = bits
                    .iter()
                    .map(bits_of_partial)
                    .collect::<Result<Vec<_>>>()?;
                for (row, key) in key_of.iter().enumerate() {
                    for (at, combine) in combine[part.clone()].iter().enumerate().rev() {
                        let later = |before: usize| bits[at - before][row];
                        held[at][*key] = match has[*key] {
                            true => combine.apply(|before| held[at - before][*key], later),
                            false => later(0),
                        };
                    }
                    has[*key] = true;
                }
            }
            for (at, values) in part.zip(held) {
                let kind = self.spec.schema.field(self.spec.keys + at).data_type();
                columns.push(column_of(values, kind)?);
            }
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        found.delta(batch, &rows)
    }
}
