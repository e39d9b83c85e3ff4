//! Splitting blocks among tasks.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;

use crate::blocks::Block;

/// The number of tasks for a batch of `rows` rows.
pub fn tasks_for(rows: u64, rows_per_task: usize, threads: usize) -> usize {
    if rows > rows_per_task as u64 {
        threads
    } else {
        1
    }
}

/// Consecutive rows of one part of a batch's input, read by one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The index of the part.
    pub part: usize,
    /// Its first row.
    pub from: u64,
    /// The number of rows.
    pub rows: u64,
}

/// Cuts a batch's input into runs of nearly equal length, one list for each task. The cut depends on the row
/// counts alone: one machine and a cluster read the same rows in the same tasks, so their results are
/// bit-identical.
///
/// `lengths` are the rows of each part, in order.
pub fn split(lengths: &[u64], tasks: usize) -> Vec<Vec<Run>> {
    // I9 (ARCHITECTURE.md).
    let total: u64 = lengths.iter().sum();
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); tasks];
    let end_of = |task: usize| (total as u128 * (task as u128 + 1) / tasks as u128) as u64;
    let (mut task, mut before) = (0, 0u64);
    for (part, &length) in lengths.iter().enumerate() {
        let mut from = 0;
        while from < length {
            while task + 1 < tasks && before >= end_of(task) {
                task += 1;
            }
            let left = length - from;
            let rows = match task + 1 < tasks {
                true => left.min(end_of(task) - before),
                false => left,
            };
            runs[task].push(Run { part, from, rows });
            from += rows;
            before += rows;
        }
    }
    runs
}

/// The rows of `blocks` that each task reads: slices, without a copy.
pub fn split_blocks(blocks: &[Arc<Block>], tasks: usize) -> Vec<Vec<RecordBatch>> {
    let batches: Vec<_> = blocks.iter().flat_map(|block| &block.batches).collect();
    let lengths: Vec<_> = batches
        .iter()
        .map(|batch| batch.num_rows() as u64)
        .collect();
    let slice = |run: &Run| batches[run.part].slice(run.from as usize, run.rows as usize);
    let tasks = split(&lengths, tasks);
    tasks
        .iter()
        .map(|runs| runs.iter().map(slice).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each row occurs once, in order, and no task has more than one row above its share.
        #[test]
        fn every_row_is_in_one_run_and_tasks_get_equal_shares(
            lengths in prop::collection::vec(0u64..50, 0..20),
            tasks in 1usize..9,
        ) {
            let runs = split(&lengths, tasks);
            let read = runs.iter().flatten().flat_map(|run| {
                (run.from..run.from + run.rows).map(|row| (run.part, row))
            });
            let all = lengths.iter().enumerate().flat_map(|(part, &rows)| (0..rows).map(move |row| (part, row)));
            prop_assert!(read.eq(all));
            let total: u64 = lengths.iter().sum();
            let share = total.div_ceil(tasks as u64);
            for task in &runs {
                prop_assert!(task.iter().map(|run| run.rows).sum::<u64>() <= share);
            }
        }

        /// However the same rows are cut into parts, a task reads the same rows.
        #[test]
        fn the_parts_do_not_matter(lengths in prop::collection::vec(0u64..50, 1..20), tasks in 1usize..9) {
            let shares = |lengths: &[u64]| -> Vec<u64> {
                let runs = split(lengths, tasks);
                runs.iter().map(|task| task.iter().map(|run| run.rows).sum()).collect()
            };
            prop_assert_eq!(shares(&lengths), shares(&[lengths.iter().sum()]));
        }
    }
}
