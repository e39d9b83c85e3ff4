//! Extra columns of an exchange: the task that made a row, and the partition it goes to.
//!
//! The engine's shuffle keeps the rows of one task together and in order, and delivers the tasks in
//! any order. The number of the task lets the reader restore their order. The engine sends a row
//! to a partition by its own hash of the last column, so that column holds a number whose hash is
//! the partition that our routing chose.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use datafusion::common::hash_utils::create_hashes;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;

/// The column with the number of the task.
const TASK: &str = "__task";
/// The column whose hash is the partition.
pub const LANE: &str = "__lane";

/// The columns of an exchange of rows with these columns.
pub fn with_lanes(schema: &Schema) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(TASK, DataType::UInt32, false)));
    fields.push(Arc::new(Field::new(LANE, DataType::UInt32, false)));
    Arc::new(Schema::new(fields))
}

/// Rows of task `task` for the partition whose lane is `lane`.
pub fn tag(rows: &RecordBatch, schema: &SchemaRef, task: u32, lane: u32) -> Result<RecordBatch> {
    let count = rows.num_rows();
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(UInt32Array::from_value(task, count)) as ArrayRef);
    columns.push(Arc::new(UInt32Array::from_value(lane, count)) as ArrayRef);
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Sorts the rows of one partition by task, and removes the two columns.
///
/// Rejects rows of another partition: they mean that the lanes were not made for the engine's hash.
pub fn in_order(batches: Vec<RecordBatch>, lane: u32) -> Result<Vec<RecordBatch>> {
    let mut runs: Vec<(u32, RecordBatch)> = Vec::new();
    for batch in batches {
        let width = batch.num_columns();
        let fields = batch.schema().fields()[..width - 2].to_vec();
        let schema = Arc::new(Schema::new(fields));
        let lanes = batch.column(width - 1).as_primitive::<UInt32Type>();
        if let Some(wrong) = lanes.values().iter().find(|found| **found != lane) {
            return Err(DataFusionError::Internal(format!(
                "the exchange delivered a row of lane {wrong} to lane {lane}"
            )));
        }
        let tasks = batch.column(width - 2).as_primitive::<UInt32Type>().clone();
        let columns = batch.columns()[..width - 2].to_vec();
        let rows = RecordBatch::try_new(schema, columns)?;
        let mut from = 0;
        while from < tasks.len() {
            let task = tasks.value(from);
            let same = tasks.values()[from..].iter().take_while(|t| **t == task);
            let length = same.count();
            runs.push((task, rows.slice(from, length)));
            from += length;
        }
    }
    // I9 (ARCHITECTURE.md).
    runs.sort_by_key(|(task, _)| *task);
    Ok(runs.into_iter().map(|(_, rows)| rows).collect())
}

/// For each of `parts` partitions, a number that the engine's hash maps to it.
pub fn lanes(parts: usize) -> Result<Arc<Vec<u32>>> {
    /// By number of partitions; only few numbers are ever in use.
    static KNOWN: Mutex<Vec<Arc<Vec<u32>>>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lanes) = known.iter().find(|lanes| lanes.len() == parts) {
        return Ok(Arc::clone(lanes));
    }
    let lanes = Arc::new(find(parts)?);
    known.push(Arc::clone(&lanes));
    Ok(lanes)
}

fn find(parts: usize) -> Result<Vec<u32>> {
    let mut lanes = vec![None; parts];
    let mut missing = parts;
    let mut from = 0u32;
    while missing > 0 {
        let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(from..from + 1024));
        let mut hashes = vec![0; numbers.len()];
        create_hashes(
            [&numbers],
            REPARTITION_RANDOM_STATE.random_state(),
            &mut hashes,
        )?;
        for (number, hash) in (from..).zip(hashes) {
            let lane = &mut lanes[(hash % parts as u64) as usize];
            if lane.is_none() {
                *lane = Some(number);
                missing -= 1;
            }
        }
        from += 1024;
    }
    Ok(lanes.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::Int64Array;

    #[test]
    fn every_partition_has_a_lane_of_its_own() {
        for parts in [1, 2, 3, 7, 128] {
            let mut lanes = lanes(parts).unwrap().to_vec();
            assert_eq!(lanes.len(), parts);
            lanes.sort();
            lanes.dedup();
            assert_eq!(lanes.len(), parts);
        }
    }

    fn numbers(of: &[i64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(of.to_vec()));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn rows_are_sorted_by_task_even_if_batches_were_joined() {
        let schema = numbers(&[]).schema();
        let wide = with_lanes(&schema);
        let part = |task, of: &[i64]| tag(&numbers(of), &wide, task, 5).unwrap();
        let joined = datafusion::arrow::compute::concat_batches(
            &wide,
            &[part(2, &[5, 6]), part(0, &[1]), part(1, &[3])],
        )
        .unwrap();
        let rows = in_order(vec![joined, part(1, &[4])], 5).unwrap();
        let values: Vec<i64> = rows
            .iter()
            .flat_map(|rows| {
                rows.column(0)
                    .as_primitive::<datafusion::arrow::datatypes::Int64Type>()
                    .values()
                    .to_vec()
            })
            .collect();
        assert_eq!(values, [1, 3, 4, 5, 6]);
        assert!(in_order(vec![part(0, &[1])], 4).is_err());
    }
}
