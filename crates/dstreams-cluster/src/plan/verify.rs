//! Checks that the engine cuts a plan into the intended stages.
//!
//! The engine's planner silently drops nodes that it does not know. So it first cuts one plan of each
//! shape for a check: the stages, their tasks and their nodes must be the ones we made.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::prelude::SessionConfig;
use dstreams::{Error, Result};

use super::step::StepExec;

/// Number of occurrences of each step and number of tasks.
type Steps = BTreeMap<(String, usize), usize>;

/// Rejects a plan that the engine would cut differently.
pub fn check(plan: &Arc<dyn ExecutionPlan>, config: &SessionConfig) -> Result<()> {
    let mut wanted = Steps::new();
    let exchanges = count(plan, &mut wanted);
    let job = JobId::from("check".to_string());
    let cut = DefaultDistributedPlanner::new()
        .plan_query_stages(&job, Arc::clone(plan), config.options())
        .map_err(|error| refused(error.to_string()))?;
    let mut found = Steps::new();
    for stage in &cut {
        for child in stage.children() {
            if count(child, &mut found) != 0 {
                return Err(refused("an exchange is inside a stage".into()));
            }
        }
    }
    if cut.len() != exchanges + 1 {
        let stages = cut.len();
        return Err(refused(format!(
            "{stages} stages for {exchanges} exchanges"
        )));
    }
    if found != wanted {
        return Err(refused(format!("steps {found:?} instead of {wanted:?}")));
    }
    Ok(())
}

fn refused(what: String) -> Error {
    let text = format!("the engine cuts a job into unexpected stages: {what}");
    Error::Engine(Arc::new(DataFusionError::Internal(text)))
}

/// Counts the steps of a plan; returns how many exchanges there are.
fn count(plan: &Arc<dyn ExecutionPlan>, steps: &mut Steps) -> usize {
    if let Some(step) = plan.downcast_ref::<StepExec>() {
        let header = &step.header;
        let name = format!("{} {:?} {:?}", header.step, header.work, header.exit);
        let tasks = step.properties().output_partitioning().partition_count();
        *steps.entry((name, tasks)).or_default() += 1;
    }
    let own = usize::from(plan.is::<RepartitionExec>());
    let children = plan.children().into_iter();
    own + children.map(|child| count(child, steps)).sum::<usize>()
}
