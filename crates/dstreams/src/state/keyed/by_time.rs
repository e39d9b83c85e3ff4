//! The effect of a batch on an aggregate by intervals of event time.
//!
//! A row of the state is a pane: the partial results of one interval and key, with the version of the result that ends
//! with the interval. If results cover several intervals, each is combined from their panes when it is emitted, and a
//! pane without records stands for a result that only earlier panes have records of.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt8Array, UInt32Array,
};
use datafusion::arrow::compute::kernels::cmp::distinct;
use datafusion::arrow::compute::{concat_batches, filter, filter_record_batch, or, take};
use datafusion::arrow::datatypes::{Int64Type, Schema, UInt32Type};
use dstreams_control::BatchTime;

use super::running_aggregate::{Parts, parts_of};
use super::{BatchOutputs, KeyedState};
use crate::error::Result;
use crate::plan::ByTimeSpec;
use crate::state::key_slots::{KeySlots, key_schema};
use crate::state::versioned::Delta;
use crate::stream::event_time::{ENDED, millis};
use crate::stream::result_rows::{CORRECTED, FINAL, FIRST};

/// The panes that a batch changes, and those whose results it may tell or end.
struct Candidates {
    /// The keys: those with records in the batch, then those whose results have them too, then what is due without
    /// them.
    keys: Vec<ArrayRef>,
    /// The number of keys with records, and of those before the ones that are due.
    changed: usize,
    affected: usize,
    /// Whether the state had the pane before, and the version of its result.
    existed: Vec<bool>,
    versions: Vec<u32>,
    /// The panes as the batch leaves them.
    panes: Parts,
    /// The results before and after the batch, with nulls where there is none.
    before: Vec<ArrayRef>,
    after: Vec<ArrayRef>,
}

/// Panes of results.
struct Panes {
    /// The keys of all panes; those of the results come first.
    keys: Vec<ArrayRef>,
    /// By distance from a result's own pane: the pane of each result.
    of: Vec<Vec<usize>>,
}

impl KeyedState {
    /// Merges partial results with those of their intervals and keys, and tells what is due.
    ///
    /// If the batch is already installed, computes the same from the version before it.
    pub(super) fn by_time(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        of: &ByTimeSpec,
    ) -> Result<(Delta, BatchOutputs)> {
        let now = self.candidates(batch, rows, of)?;
        let count = now.existed.len();
        let (tells, ends, time) = (
            of.rule.has_first_results(batch),
            of.rule.ends(batch),
            millis(batch),
        );
        let intervals = now.keys[0].as_primitive::<Int64Type>().values();
        let differs = any_distinct(&now.before, &now.after, count)?;
        let mut versions = now.versions.clone();
        let (mut kinds, mut kept, mut gone) =
            (vec![0; count], vec![false; count], vec![false; count]);
        for row in 0..count {
            let (interval, version) = (intervals[row], &mut versions[row]);
            let first_result_at = of.rule.first_result_at(interval);
            let has_ended = *version & ENDED > 0;
            kinds[row] = match *version {
                // Its slack is over, and nobody had it before: the first result comes late.
                0 if !now.existed[row] && first_result_at < time => CORRECTED,
                0 if first_result_at <= time && tells => FIRST,
                0 => 0,
                _ if !has_ended && differs.value(row) => CORRECTED,
                _ => 0,
            };
            *version += u32::from(kinds[row] > 0);
            if *version > 0 && !has_ended && ends && of.rule.final_at(interval) <= time {
                kinds[row] |= FINAL;
                *version |= ENDED;
            }
            let drops = *version & ENDED > 0 && of.rule.dropped_at(interval) <= time;
            gone[row] = drops && now.existed[row];
            let new = row < now.affected && !now.existed[row];
            kept[row] = !drops && (row < now.changed || new || *version != now.versions[row]);
        }
        let versions: ArrayRef = Arc::new(UInt32Array::from(versions));
        let emitted = {
            let order = (0..count as u32).filter(|row| kinds[*row as usize] > 0);
            let mut order: Vec<u32> = order.collect();
            // What is due first, then in the order in which records arrived.
            order.sort_by_key(|row| {
                let row = *row as usize;
                (intervals[row], row < now.affected)
            });
            let mut columns = now.keys.clone();
            columns.push(without_flag(&versions));
            columns.push(Arc::new(UInt8Array::from(kinds)));
            columns.extend(now.after);
            columns.extend(now.before);
            // Results that nothing has records of any more are null; none of them is emitted.
            let order = UInt32Array::from(order);
            let columns = columns.iter().map(|column| take(column, &order, None));
            let columns = columns.collect::<Result<_, _>>()?;
            RecordBatch::try_new(of.emitted.schema(), columns)?
        };
        let gone = BooleanArray::from(gone);
        let gone = now.keys.iter().map(|key| filter(key, &gone));
        let gone = gone.collect::<Result<Vec<_>, _>>()?;
        let mut columns = now.keys;
        columns.extend(self.part_columns(now.panes)?);
        columns.push(versions);
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
        let rows = filter_record_batch(&rows, &BooleanArray::from(kept))?;
        let delta = Delta::new(&self.shape, batch, &rows, None, &gone)?;
        let mapped = (emitted.num_rows() > 0).then_some(emitted);
        let mapped = mapped.into_iter().collect();
        let timed_out = Vec::new();
        Ok((delta, BatchOutputs { timed_out, mapped }))
    }

    fn candidates(
        &self,
        batch: BatchTime,
        rows: &[RecordBatch],
        of: &ByTimeSpec,
    ) -> Result<Candidates> {
        let before = self.before(batch);
        let again = self.partition.version() == Some(batch);
        let (mut keys, changed_keys, key_of) = self.keys_of(rows)?;
        let changed = keys.len();
        for pane in 1..of.rule.panes() {
            let later = shifted(&changed_keys, pane * of.rule.every);
            keys.intern(&later, &mut Vec::new())?;
        }
        let affected = keys.len();
        let due = match again {
            true => self.keys_changed_by(batch)?,
            false => self.partition.expired(batch)?,
        };
        for rows in due {
            keys.intern(&rows.columns()[..self.spec.keys], &mut Vec::new())?;
        }
        let count = keys.len();
        let keys = concat_batches(
            &key_schema(&self.spec.schema, self.spec.keys),
            keys.segments(),
        )?;
        let keys = keys.columns().to_vec();
        let panes = self.panes(&keys, of)?;
        let found = match again {
            true => self.partition.latest_at(&panes.keys, before)?,
            false => self.partition.latest(&panes.keys)?,
        };
        let (mut parts, mut has) = (parts_of(&found, &of.plan)?, vec![false; found.len()]);
        for (pane, has) in has.iter_mut().enumerate() {
            *has = found.exists(pane) && of.count.is_none_or(|count| parts[count][pane] > 0);
            if !*has {
                parts.iter_mut().for_each(|column| column[pane] = 0);
            }
        }
        let before = self.results(of, &keys, &panes, &parts, &has)?;
        self.merge(&of.plan, &mut parts, &has, rows, &key_of)?;
        has[..changed].fill(true);
        let after = self.results(of, &keys, &panes, &parts, &has)?;
        let versions = found.value(self.spec.schema.fields().len() - self.spec.keys - 1)?;
        let versions = versions.as_primitive::<UInt32Type>().iter().take(count);
        let versions = versions.map(|version| version.unwrap_or(0)).collect();
        let existed = (0..count).map(|key| found.exists(key)).collect();
        parts.iter_mut().for_each(|column| column.truncate(count));
        Ok(Candidates {
            keys,
            changed,
            affected,
            existed,
            versions,
            panes: parts,
            before,
            after,
        })
    }

    /// The keys that a batch changed or deleted.
    fn keys_changed_by(&self, batch: BatchTime) -> Result<Vec<RecordBatch>> {
        let delta = self.partition.changes(batch)?;
        let mut all = delta.rows()?;
        all.extend(delta.deleted()?);
        Ok(all)
    }

    /// The panes of results with these keys.
    fn panes(&self, keys: &[ArrayRef], of: &ByTimeSpec) -> Result<Panes> {
        let own: Vec<usize> = (0..keys[0].len()).collect();
        if of.rule.panes() == 1 {
            return Ok(Panes {
                keys: keys.to_vec(),
                of: vec![own],
            });
        }
        let schema = key_schema(&self.spec.schema, self.spec.keys);
        let mut all = KeySlots::new(Arc::clone(&schema))?;
        let mut panes = vec![own];
        all.intern(keys, &mut panes[0])?;
        for pane in 1..of.rule.panes() {
            let mut slots = Vec::new();
            all.intern(&shifted(keys, -pane * of.rule.every), &mut slots)?;
            panes.push(slots);
        }
        Ok(Panes {
            keys: concat_batches(&schema, all.segments())?.columns().to_vec(),
            of: panes,
        })
    }

    /// The results with these keys, combined from their panes in order of time, with nulls where no pane has any
    /// records.
    fn results(
        &self,
        of: &ByTimeSpec,
        keys: &[ArrayRef],
        panes: &Panes,
        parts: &Parts,
        has: &[bool],
    ) -> Result<Vec<ArrayRef>> {
        let count = keys[0].len();
        let (results, existed) = self.sums(of, panes, parts, has, count)?;
        let existed = BooleanArray::from(existed);
        let mut columns = keys.to_vec();
        columns.extend(self.part_columns(results)?);
        let fields = self.spec.schema.fields()[..columns.len()].to_vec();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        if existed.true_count() == count {
            return of.results(&rows, self.spec.keys);
        }
        let rows = filter_record_batch(&rows, &existed)?;
        let mut next = 0;
        let places = existed.values().iter().map(|existed| {
            next += u32::from(existed);
            existed.then(|| next - 1)
        });
        let places: UInt32Array = places.collect();
        let results = of.results(&rows, self.spec.keys)?;
        let results = results.iter().map(|column| take(column, &places, None));
        Ok(results.collect::<Result<_, _>>()?)
    }

    /// The parts of results, and whether they have any records.
    fn sums(
        &self,
        of: &ByTimeSpec,
        panes: &Panes,
        parts: &Parts,
        has: &[bool],
        count: usize,
    ) -> Result<(Parts, Vec<bool>)> {
        let mut existed = vec![false; count];
        if let [own] = &panes.of[..] {
            own.iter().for_each(|pane| existed[*pane] = has[*pane]);
            return Ok((parts.clone(), existed));
        }
        let combine = self.combine(&of.plan)?;
        let mut sums: Parts = vec![vec![0; count]; parts.len()];
        // The oldest first.
        for of_distance in panes.of.iter().rev() {
            for (result, pane) in of_distance
                .iter()
                .enumerate()
                .filter(|(_, pane)| has[**pane])
            {
                for (_, part) in of.plan.columns() {
                    let sums = &mut sums[part.clone()];
                    let parts = &parts[part.clone()];
                    for (at, combine) in combine[part].iter().enumerate().rev() {
                        let later = |before: usize| parts[at - before][*pane];
                        sums[at][result] = match existed[result] {
                            true => combine.apply(|before| sums[at - before][result], later),
                            false => later(0),
                        };
                    }
                }
                existed[result] = true;
            }
        }
        Ok((sums, existed))
    }

    /// The results that are not final as rows of the state: with the parts of the whole result in place of its pane's.
    pub(super) fn whole_results(
        &self,
        of: &ByTimeSpec,
        rows: Vec<RecordBatch>,
        version: BatchTime,
    ) -> Result<Vec<RecordBatch>> {
        if of.rule.panes() == 1 {
            return Ok(rows);
        }
        let whole = rows.into_iter().map(|rows| {
            let versions = rows.columns()[rows.num_columns() - 1].as_primitive::<UInt32Type>();
            let open = versions
                .values()
                .iter()
                .map(|version| Some(version & ENDED == 0));
            let rows = filter_record_batch(&rows, &open.collect())?;
            let mut columns = rows.columns()[..self.spec.keys].to_vec();
            let panes = self.panes(&columns, of)?;
            let found = self.partition.latest_at(&panes.keys, version)?;
            let parts = parts_of(&found, &of.plan)?;
            let has = (0..found.len()).map(|pane| {
                found.exists(pane) && of.count.is_none_or(|count| parts[count][pane] > 0)
            });
            let has: Vec<bool> = has.collect();
            let (sums, _) = self.sums(of, &panes, &parts, &has, rows.num_rows())?;
            columns.extend(self.part_columns(sums)?);
            columns.extend(rows.columns().last().cloned());
            Ok(RecordBatch::try_new(
                Arc::clone(&self.spec.schema),
                columns,
            )?)
        });
        whole.collect()
    }
}

/// Versions without the flag of those that are final.
fn without_flag(versions: &ArrayRef) -> ArrayRef {
    let versions = versions.as_primitive::<UInt32Type>();
    let versions = versions.values().iter().map(|version| version & !ENDED);
    Arc::new(UInt32Array::from_iter_values(versions))
}

/// Keys with another interval.
fn shifted(keys: &[ArrayRef], by: i64) -> Vec<ArrayRef> {
    let mut shifted = keys.to_vec();
    let intervals = keys[0].as_primitive::<Int64Type>().values().iter();
    let intervals = intervals.map(|interval| interval.saturating_add(by));
    shifted[0] = Arc::new(Int64Array::from_iter_values(intervals));
    shifted
}

/// The rows in which any column differs. Nulls are equal, and floating-point numbers compare by their bits.
fn any_distinct(before: &[ArrayRef], after: &[ArrayRef], rows: usize) -> Result<BooleanArray> {
    let mut any = BooleanArray::from(vec![false; rows]);
    for (before, after) in before.iter().zip(after) {
        any = or(&any, &distinct(before, after)?)?;
    }
    Ok(any)
}
