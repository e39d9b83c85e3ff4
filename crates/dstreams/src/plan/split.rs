//! Blocks to tasks.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;

use crate::blocks::Block;

/// Number of tasks that read a batch of `rows` rows.
pub fn tasks_for(rows: u64, rows_per_task: usize, threads: usize) -> usize {
    if rows > rows_per_task as u64 {
        threads
    } else {
        1
    }
}

/// The rows of `blocks`, in their order, as runs of nearly equal length, one for each task.
pub fn split(blocks: &[Arc<Block>], tasks: usize) -> Vec<Vec<RecordBatch>> {
    let total: u64 = blocks.iter().map(|block| block.meta.rows).sum();
    let mut parts: Vec<Vec<RecordBatch>> = vec![Vec::new(); tasks];
    let end_of = |task: usize| (total as u128 * (task as u128 + 1) / tasks as u128) as u64;
    let (mut task, mut before) = (0, 0u64);
    for batch in blocks.iter().flat_map(|block| &block.batches) {
        let mut from = 0;
        while from < batch.num_rows() {
            while task + 1 < tasks && before >= end_of(task) {
                task += 1;
            }
            let left = batch.num_rows() - from;
            let room = match task + 1 < tasks {
                true => (end_of(task) - before) as usize,
                false => left,
            };
            let rows = left.min(room);
            parts[task].push(batch.slice(from, rows));
            from += rows;
            before += rows as u64;
        }
    }
    parts
}
