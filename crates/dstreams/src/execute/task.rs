//! One task: runs one partition of a stage and routes its rows.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use dstreams_control::BatchTime;
use futures::StreamExt;

use crate::error::Result;
use crate::plan::{Route, deal, split_by_route};

/// The rows of one task of a batch, by partition of the target dataset (one, unless its route has several).
pub async fn run_task(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
    route: Route,
    batch: BatchTime,
) -> Result<Vec<Vec<RecordBatch>>> {
    let parts = match &route {
        Route::Hash { parts, .. } | Route::Turn { parts, .. } => *parts,
        Route::Forward | Route::Gather | Route::Deal { .. } => 1,
    };
    let own = route.partition_of(partition, batch);
    let mut output = vec![Vec::new(); parts];
    let mut rows = plan.execute(partition, context)?;
    while let Some(some) = rows.next().await {
        let some = some?;
        match &route {
            _ if some.num_rows() == 0 => {}
            Route::Hash { keys, parts } if *parts > 1 => split_by_route(&some, keys, &mut output)?,
            _ => output[own].push(some),
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
        Route::Forward => tasks
            .into_iter()
            .map(|mut parts| parts.swap_remove(0))
            .collect(),
        Route::Gather => vec![tasks.into_iter().flatten().flatten().collect()],
        Route::Hash { parts, .. } | Route::Turn { parts, .. } | Route::Deal { parts } => {
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
