//! [`Placement`]: which worker runs a task.
//!
//! A task that needs a partition of state runs where it is and nowhere else; one that reads rows a
//! worker holds prefers that worker; of the others, task i goes to worker i, modulo their number,
//! so that they spread and stay. A task waits without holding anybody up until its worker has room.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::serde::protobuf::AvailableVcores;
use ballista_core::serde::scheduler::TaskKey;
use ballista_scheduler::cluster::{BoundTask, DistributionPolicy};
use ballista_scheduler::state::execution_graph::{TaskDescription, create_task_info};
use ballista_scheduler::state::execution_stage::RunningStage;
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;

use crate::plan::{Place, StepExec};

/// See the module.
#[derive(Debug, Default)]
pub struct Placement;

#[async_trait]
impl DistributionPolicy for Placement {
    async fn bind_tasks(
        &self,
        mut budgets: Vec<&mut AvailableVcores>,
        jobs: Arc<HashMap<JobId, JobInfoCache>>,
    ) -> Result<Vec<BoundTask>> {
        budgets.sort_by(|a, b| a.executor_id.cmp(&b.executor_id));
        // The order of a map is random; older batches go first.
        let mut jobs: Vec<_> = jobs.iter().collect();
        jobs.sort_by_cached_key(|(job, _)| job.to_string());
        let mut bound = Vec::new();
        for (job, info) in jobs {
            let mut graph = info.execution_graph.write().await;
            let session = graph.session_id().to_string();
            let mut seen = Vec::new();
            while let Some(stage) = graph.fetch_running_stage(&seen) {
                seen.push(stage.stage_id);
                bind_stage(stage, job, &session, &mut budgets, &mut bound);
            }
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "dstreams placement"
    }
}

fn bind_stage(
    stage: &mut RunningStage,
    job: &JobId,
    session: &str,
    budgets: &mut [&mut AvailableVcores],
    bound: &mut Vec<BoundTask>,
) {
    let places = places(&stage.plan);
    let mut waiting = Vec::new();
    for partition in stage.pending.next_slice(usize::MAX) {
        let place = places.get(partition).cloned().unwrap_or_default();
        let Some(budget) = choose(&place, partition, budgets) else {
            waiting.push(partition);
            continue;
        };
        let executor = budget.executor_id.clone();
        budget.vcores -= 1;
        let task_id = stage.task_infos.len();
        let mut info = create_task_info(executor.clone(), task_id);
        info.global_input_partition_ids = vec![partition];
        info.vcores_consumed = 1;
        stage.task_infos.push(info);
        let task = TaskDescription {
            session_id: session.to_owned(),
            key: TaskKey {
                job_id: job.clone(),
                stage_id: stage.stage_id,
                task_id,
            },
            stage_attempt_num: stage.stage_attempt_num,
            task_attempt: stage.task_failure_numbers[partition],
            global_input_partition_ids: vec![partition],
            vcores_consumed: 1,
            plan: Arc::clone(&stage.plan),
            session_config: Arc::clone(&stage.session_config),
        };
        bound.push((executor, task));
    }
    stage.pending.reschedule(waiting);
}

/// The worker for a task, if it has room.
fn choose<'b>(
    place: &Place,
    partition: usize,
    budgets: &'b mut [&mut AvailableVcores],
) -> Option<&'b mut AvailableVcores> {
    let free = |budget: &AvailableVcores| budget.vcores > 0;
    let preferred = place.prefer.iter().find_map(|worker| {
        let at = budgets.iter().position(|b| b.executor_id == *worker)?;
        free(budgets[at]).then_some(at)
    });
    let at = match (preferred, place.only) {
        (Some(at), _) => at,
        (None, true) => return None,
        (None, false) => {
            let count = budgets.len();
            (0..count)
                .map(|step| (partition + step) % count)
                .find(|at| free(budgets[*at]))?
        }
    };
    Some(budgets[at])
}

/// Where the tasks of a stage should run: its topmost steps say.
fn places(plan: &Arc<dyn ExecutionPlan>) -> Vec<Place> {
    if let Some(step) = plan.downcast_ref::<StepExec>() {
        return step.places.to_vec();
    }
    if plan.is::<UnionExec>() {
        return plan.children().into_iter().flat_map(places).collect();
    }
    match plan.children().as_slice() {
        [child] => places(child),
        _ => Vec::new(),
    }
}
