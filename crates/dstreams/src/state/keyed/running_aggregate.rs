//! The effect of a batch on a running aggregate, and merging partial results.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use dstreams_control::BatchTime;

use super::closures::{expired_without_events, unexpired};
use super::{BatchOutputs, KeyedState};
use crate::error::Result;
use crate::state::accumulators::{Combine, bits_of, bits_of_partial, column_of};
use crate::state::key_slots::key_schema;
use crate::state::versioned::{Delta, LookedUpRows, NewestRows};
use crate::stream::agg::AggPlan;

/// The columns of parts of some keys, as bits: by column, then by key.
pub(super) type Parts = Vec<Vec<u64>>;

impl KeyedState {
    /// Partial results of a batch, combined with the state.
    pub(super) fn combined(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        plan: &AggPlan,
    ) -> Result<(Delta, NewestRows)> {
        let (_, mut columns, key_of) = self.keys_of(rows)?;
        let found = self.partition.latest(&columns)?;
        let mut parts = parts_of(&found, plan)?;
        let has: Vec<bool> = (0..found.len()).map(|key| found.exists(key)).collect();
        self.merge(plan, &mut parts, &has, rows, &key_of)?;
        columns.extend(self.part_columns(parts)?);
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        found.delta(batch, &rows)
    }

    /// The same, without keys that had no record for `timeout_ms`. One that has a record in the batch with which it
    /// leaves starts over.
    ///
    /// If the batch is already installed, computes the same from the version before it.
    pub(super) fn combined_for(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        plan: &AggPlan,
        timeout_ms: u64,
    ) -> Result<(Delta, BatchOutputs)> {
        let before = self.before(batch);
        let again = self.partition.version() == Some(batch);
        let (mut slots, mut columns, key_of) = self.keys_of(rows)?;
        let until = batch.minus(timeout_ms);
        let expired = match until {
            None => Vec::new(),
            Some(_) if again => self.deleted_by(batch, before)?,
            Some(until) => self.partition.expired(until)?,
        };
        let mut timed_out = expired_without_events(&expired, &mut slots, self.spec.keys)?;
        let dropped = timed_out.iter().map(|rows| self.only_keys(rows));
        let dropped = dropped.collect::<Result<Vec<_>>>()?;
        let dropped = concat_batches(&key_schema(&self.spec.schema, self.spec.keys), &dropped)?;
        let found = match again {
            true => self.partition.latest_at(&columns, before)?,
            false => self.partition.latest(&columns)?,
        };
        let there = unexpired(&found, until.map(BatchTime::millis));
        if there.true_count() < found.existing() {
            let ended = (0..found.len()).map(|key| found.exists(key) && !there.value(key));
            let ended: BooleanArray = ended.map(Some).collect();
            timed_out.push(self.rows_of(&columns, &found.values()?, &ended)?);
        }
        let mut parts = parts_of(&found, plan)?;
        let has: Vec<bool> = there.values().iter().collect();
        self.merge(plan, &mut parts, &has, rows, &key_of)?;
        columns.extend(self.part_columns(parts)?);
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        let delta = Delta::new(&self.shape, batch, &rows, None, dropped.columns())?;
        let mapped = Vec::new();
        Ok((delta, BatchOutputs { timed_out, mapped }))
    }

    /// How each column of parts combines.
    pub(super) fn combine(&self, plan: &AggPlan) -> Result<Vec<Combine>> {
        let columns: usize = plan.columns().map(|(_, columns)| columns.len()).sum();
        let fields = &self.spec.schema.fields()[self.spec.keys..][..columns];
        Combine::of_plan(plan, fields)
    }

    /// Merges the rows of a batch into `parts`; `has` says which keys have any. The keys of the rows are `key_of`.
    pub(super) fn merge(
        &self,
        plan: &AggPlan,
        parts: &mut Parts,
        has: &[bool],
        rows: &[RecordBatch],
        key_of: &[Vec<usize>],
    ) -> Result<()> {
        let combine = self.combine(plan)?;
        for (_, part) in plan.columns() {
            let held = &mut parts[part.clone()];
            let mut has = has.to_vec();
            for (rows, key_of) in rows.iter().zip(key_of) {
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
        }
        Ok(())
    }

    /// Parts as columns of the state.
    pub(super) fn part_columns(&self, parts: Parts) -> Result<Vec<ArrayRef>> {
        let fields = self.spec.schema.fields()[self.spec.keys..].iter();
        let columns = parts.into_iter().zip(fields);
        columns
            .map(|(values, field)| column_of(values, field.data_type()))
            .collect()
    }
}

/// The stored parts of keys; arbitrary for those that are missing.
pub(super) fn parts_of(found: &LookedUpRows<'_>, plan: &AggPlan) -> Result<Parts> {
    let columns: usize = plan.columns().map(|(_, columns)| columns.len()).sum();
    let columns = (0..columns).map(|at| Ok(bits_of(&found.value(at)?)?.to_vec()));
    columns.collect()
}
