//! Cuts a plan from DataFusion into stages: wherever rows change partitions.
//!
//! Inside a stage, tasks exchange nothing, so the order of rows follows from the input. DataFusion's own exchange
//! delivers rows in the order of their arrival.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::common::JoinType;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    ReplaceChildrenOptions,
};

use super::aggregate::column;
use super::exec_node::internal;
use super::group_exec::group;
use super::query_input::InputExec;
use super::template::Route;
use super::total_order::{first_rows, of_values};
use crate::error::Result;
use crate::stream::order::can_be_sorted;

/// The consumer of the pieces of a cut plan.
pub(super) trait Cuts {
    /// Makes a stage of `plan`; returns a scan of its dataset.
    fn stage(
        &mut self,
        plan: Arc<dyn ExecutionPlan>,
        route: Route,
    ) -> Result<Arc<dyn ExecutionPlan>>;
    /// The plan of an input of the query.
    fn input(&mut self, input: usize) -> Result<Arc<dyn ExecutionPlan>>;
    /// Whether the rows of each input are one partition, in an order that does not depend on tasks.
    fn in_order(&self) -> bool;
}

/// Cuts `plan`, bottom up; returns the remaining top.
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
            other => Ok(internal(format!("unexpected exchange by {other}"))?),
        };
    }
    if plan.downcast_ref::<CoalescePartitionsExec>().is_some() && partitions(&children[0]) > 1 {
        children[0] = cuts.stage(Arc::clone(&children[0]), Route::Gather)?;
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        let order = total(sort.expr(), &children[0]).unwrap_or_else(|| sort.expr().clone());
        let sorted = first_rows(order, children.swap_remove(0), sort.fetch());
        return Ok(Arc::new(
            sorted.with_preserve_partitioning(sort.preserve_partitioning()),
        ));
    }
    if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>()
        && partitions(&children[0]) > 1
    {
        // Below the merge, rows that are equal in its order are ordered by other columns.
        let order = children[0].output_ordering().and_then(of_values);
        let order = order.filter(|order| order[..].starts_with(merge.expr()));
        let order = order.unwrap_or_else(|| merge.expr().clone());
        let parts = cuts.stage(children.swap_remove(0), Route::Forward)?;
        let merged = SortPreservingMergeExec::new(order, parts).with_fetch(merge.fetch());
        return Ok(Arc::new(merged));
    }
    if !cuts.in_order() && has_windows_in_order(&plan) && !is_sorted(&old[0]) {
        children[0] = by_all_columns(
            children[0]
                .output_ordering()
                .map_or(&[][..], |order| &order[..]),
            Arc::clone(&children[0]),
        );
    }
    if ends_with_build_side(&plan) && partitions(&children[1]) > 1 {
        children[1] = cuts.stage(Arc::clone(&children[1]), Route::Gather)?;
    }
    let changed = old
        .iter()
        .zip(&children)
        .any(|(old, new)| !Arc::ptr_eq(old, new));
    let plan = match changed {
        true => {
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            plan.replace_children(children, options)?
        }
        false => plan,
    };
    let grouped = plan
        .downcast_ref::<AggregateExec>()
        .map(group)
        .transpose()?;
    Ok(grouped.flatten().unwrap_or(plan))
}

/// An order, extended by all columns: rows that are equal in it are identical.
fn total(order: &[PhysicalSortExpr], input: &Arc<dyn ExecutionPlan>) -> Option<LexOrdering> {
    let schema = input.schema();
    let columns = schema.fields().iter().enumerate();
    let columns = columns.filter(|(_, field)| can_be_sorted(field.data_type()));
    let columns = columns.map(|(at, field)| PhysicalSortExpr {
        expr: column(field.name(), at),
        options: SortOptions {
            descending: false,
            nulls_first: false,
        },
    });
    LexOrdering::new(order.iter().cloned().chain(columns))
}

/// Sorts each partition by an order, and then by all columns.
pub(super) fn by_all_columns(
    order: &[PhysicalSortExpr],
    input: Arc<dyn ExecutionPlan>,
) -> Arc<dyn ExecutionPlan> {
    match total(order, &input) {
        Some(order) => Arc::new(SortExec::new(order, input).with_preserve_partitioning(true)),
        None => input,
    }
}

/// Whether a node has window functions that depend on the order, or on partitions, of rows.
fn has_windows_in_order(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let windows = if let Some(node) = plan.downcast_ref::<WindowAggExec>() {
        node.window_expr()
    } else if let Some(node) = plan.downcast_ref::<BoundedWindowAggExec>() {
        node.window_expr()
    } else {
        return false;
    };
    let in_order = |window: &Arc<dyn WindowExpr>| {
        !window.order_by().is_empty() || !window.partition_by().is_empty()
    };
    windows.iter().any(in_order)
}

/// Whether the rows of a plan, which is not cut yet, come unchanged from a sort. If all rows are equal in a
/// window's order, DataFusion omits the sort.
fn is_sorted(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let passes = plan.downcast_ref::<SortPreservingMergeExec>().is_some()
        || plan.downcast_ref::<WindowAggExec>().is_some()
        || plan.downcast_ref::<BoundedWindowAggExec>().is_some()
        || plan.downcast_ref::<ProjectionExec>().is_some();
    plan.downcast_ref::<SortExec>().is_some() || passes && is_sorted(plan.children()[0])
}

/// Whether a join's last task returns the rows of the build side without a match in any task: which task is last
/// depends on time.
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

/// Whether nodes of the plan share state between partitions: sorts for the first rows drop rows depending on the
/// rows found in other partitions, so which of equal rows remain would depend on time.
pub(super) fn shares_state(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let top = plan
        .downcast_ref::<SortExec>()
        .is_some_and(|sort| sort.fetch().is_some());
    top || plan.children().into_iter().any(shares_state)
}

pub(super) fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.properties().partitioning.partition_count()
}
