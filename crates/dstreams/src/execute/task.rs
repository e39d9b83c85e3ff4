//! One task: runs one partition of a stage and routes its rows.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;

use crate::error::Result;
use crate::plan::{Route, deal, split_by_route};

/// The rows of one task, by partition of the target dataset (one, unless they are routed by hash).
pub async fn run_task(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    route: Route,
) -> Result<Vec<Vec<RecordBatch>>> {
    let parts = match &route {
        Route::Hash { parts, .. } => *parts,
        Route::Keep | Route::Gather | Route::Deal { .. } => 1,
    };
    let mut output = vec![Vec::new(); parts];
    let mut rows = plan.execute(partition, context)?;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        match &route {
            _ if batch.num_rows() == 0 => {}
            Route::Hash { keys, parts } if *parts > 1 => split_by_route(&batch, keys, &mut output)?,
            _ => output[0].push(batch),
        }
    }
    if let Route::Deal { parts } = route {
        return Ok(deal(output.swap_remove(0), partition, parts));
    }
    Ok(output)
}

/// The dataset of a stage from the outputs of its tasks, in their order.
pub(super) fn join(tasks: Vec<Vec<Vec<RecordBatch>>>, route: &Route) -> Vec<Vec<RecordBatch>> {
    match route {
        Route::Keep => tasks
            .into_iter()
            .map(|mut parts| parts.swap_remove(0))
            .collect(),
        Route::Gather => vec![tasks.into_iter().flatten().flatten().collect()],
        Route::Hash { parts, .. } | Route::Deal { parts } => {
            let mut dataset = vec![Vec::new(); *parts];
            for task in tasks {
                for (partition, rows) in dataset.iter_mut().zip(task) {
                    partition.extend(rows);
                }
            }
            dataset
        }
    }
}
