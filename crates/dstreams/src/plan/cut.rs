//! Cuts a plan that DataFusion made into stages: wherever rows change partitions.
//!
//! Inside a stage nothing is exchanged between tasks, so the order of rows follows from the input.
//! DataFusion's own exchange would deliver them as they come.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, Partitioning, ReplaceChildrenOptions,
};

use super::node::internal;
use super::relation::InputExec;
use super::template::Route;
use crate::error::Result;

/// Where the pieces of a cut plan go.
pub(super) trait Cuts {
    /// Makes a stage of `plan`; returns a scan of its dataset.
    fn stage(
        &mut self,
        plan: Arc<dyn ExecutionPlan>,
        route: Route,
    ) -> Result<Arc<dyn ExecutionPlan>>;
    /// The plan of an input of the query.
    fn input(&mut self, input: usize) -> Result<Arc<dyn ExecutionPlan>>;
}

/// Cuts `plan`, bottom up; returns what is left at the top.
pub(super) fn cut(
    plan: Arc<dyn ExecutionPlan>,
    cuts: &mut dyn Cuts,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(input) = plan.downcast_ref::<InputExec>() {
        return cuts.input(input.input);
    }
    let old: Vec<_> = plan.children().into_iter().cloned().collect();
    let mut children = Vec::with_capacity(old.len());
    for child in &old {
        children.push(cut(Arc::clone(child), cuts)?);
    }
    if let Some(exchange) = plan.downcast_ref::<RepartitionExec>() {
        let child = children.swap_remove(0);
        return match exchange.partitioning() {
            Partitioning::Hash(keys, parts) => {
                let (keys, parts) = (keys.clone(), *parts);
                cuts.stage(child, Route::Hash { keys, parts })
            }
            other => Ok(internal(format!(
                "an exchange by {other} was not expected"
            ))?),
        };
    }
    if plan.downcast_ref::<CoalescePartitionsExec>().is_some() && partitions(&children[0]) > 1 {
        children[0] = cuts.stage(Arc::clone(&children[0]), Route::Gather)?;
    }
    if plan.downcast_ref::<SortPreservingMergeExec>().is_some() && partitions(&children[0]) > 1 {
        children[0] = cuts.stage(Arc::clone(&children[0]), Route::Keep)?;
    }
    if ends_with_build_side(&plan) && partitions(&children[1]) > 1 {
        children[1] = cuts.stage(Arc::clone(&children[1]), Route::Gather)?;
    }
    let changed = old
        .iter()
        .zip(&children)
        .any(|(old, new)| !Arc::ptr_eq(old, new));
    if !changed {
        return Ok(plan);
    }
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Ok(plan.replace_children(children, options)?)
}

/// Whether a join's last task gives the rows of the build side that had no match in any task:
/// which one is last depends on time.
fn ends_with_build_side(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let kind = if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        match join.partition_mode() {
            PartitionMode::CollectLeft => *join.join_type(),
            _ => return false,
        }
    } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        *join.join_type()
    } else {
        return false;
    };
    use JoinType::{Full, Left, LeftAnti, LeftMark, LeftSemi};
    matches!(kind, Full | Left | LeftAnti | LeftMark | LeftSemi)
}

/// Whether nodes of the plan hand something on from one partition to the others: sorts for the
/// first rows drop rows by what other partitions have found so far, and which of equal rows stay
/// would depend on time.
pub(super) fn keeps_state(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let top = plan
        .downcast_ref::<SortExec>()
        .is_some_and(|sort| sort.fetch().is_some());
    top || plan.children().into_iter().any(keeps_state)
}

pub(super) fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.properties().partitioning.partition_count()
}
