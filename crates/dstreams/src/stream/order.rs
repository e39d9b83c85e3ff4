//! The order of rows in queries: results must not depend on the number of partitions.
//!
//! Rows that are equal by an `order by` are ordered by their other columns, so that a limit takes the same ones.
//! Functions without an order that distinguishes rows (`limit` alone, `array_agg`, `row_number() over ()`) see them
//! in the order of the input, in one partition. Functions whose results have an arbitrary order are refused by name.

use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, LogicalPlan, WindowFrameBound, WindowFunctionDefinition,
};

use crate::error::{Error, Result};

/// Aggregates that depend on the order of their values.
const ORDERED: [&str; 6] = [
    "any_value",
    "array_agg",
    "first_value",
    "last_value",
    "nth_value",
    "string_agg",
];

/// Extends each sort of the plan by all columns: only identical rows are then equal.
pub(super) fn total(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let mut sort = match node {
            LogicalPlan::Sort(sort) => sort,
            other => return Ok(Transformed::no(other)),
        };
        let all = sort.input.schema();
        let columns = all.columns().into_iter().zip(all.fields());
        let columns = columns.filter(|(_, field)| can_be_sorted(field.data_type()));
        let columns = columns.map(|(column, _)| Expr::Column(column));
        let columns = columns.filter(|column| !sort.expr.iter().any(|by| by.expr == *column));
        let columns: Vec<_> = columns.map(|column| column.sort(true, false)).collect();
        sort.expr.extend(columns);
        Ok(Transformed::yes(LogicalPlan::Sort(sort)))
    })?;
    Ok(plan.data)
}

/// Whether columns of this type can be sorted.
pub(crate) fn can_be_sorted(kind: &DataType) -> bool {
    RowConverter::supports_fields(&[SortField::new(kind.clone())])
}

/// Whether the result depends on the order of the inputs' rows.
pub(super) fn of_inputs_matters(plan: &LogicalPlan) -> EngineResult<bool> {
    let mut matters = false;
    plan.apply_with_subqueries(|node| {
        matters |= match node {
            LogicalPlan::Limit(limit) => !is_sorted(&limit.input),
            LogicalPlan::Distinct(Distinct::On(_)) => true,
            _ => false,
        };
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                matters |= match part {
                    Expr::AggregateFunction(call) => is_ordered(call.func.name()),
                    Expr::WindowFunction(call) => is_of_input_order(call),
                    _ => false,
                };
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(matters)
}

fn is_ordered(aggregate: &str) -> bool {
    ORDERED.contains(&aggregate)
}

/// Whether all rows of a plan have one order.
fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Limit(_) => {
            plan.inputs().into_iter().all(is_sorted)
        }
        // One row.
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// Whether a window function has no order of its own but depends on one. (With partitions or an order its rows are
/// sorted by all columns when the plan is cut.)
fn is_of_input_order(call: &WindowFunction) -> bool {
    let params = &call.params;
    if !params.partition_by.is_empty() || !params.order_by.is_empty() {
        return false;
    }
    let frame = &params.window_frame;
    let is_open = |bound: &WindowFrameBound| bound.is_unbounded();
    let is_whole = is_open(&frame.start_bound) && is_open(&frame.end_bound);
    match &call.fun {
        WindowFunctionDefinition::AggregateUDF(func) => is_ordered(func.name()) || !is_whole,
        WindowFunctionDefinition::WindowUDF(_) => true,
    }
}

/// Refuses nondeterministic queries: distinct floating-point numbers are added in the order of a hash table.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        let inputs = node.inputs();
        let is_float = |args: &[Expr]| {
            let kinds = args.iter().zip(&inputs);
            let mut kinds = kinds.filter_map(|(of, input)| of.get_type(input.schema()).ok());
            kinds.any(|kind| kind.is_floating())
        };
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                let (name, is_distinct, args) = match part {
                    Expr::AggregateFunction(call) => {
                        (call.func.name(), call.params.distinct, &call.params.args)
                    }
                    Expr::WindowFunction(call) => {
                        (call.fun.name(), call.params.distinct, &call.params.args)
                    }
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                if is_distinct && matches!(name, "sum" | "avg") && is_float(args) {
                    found = Some(name.to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match found {
        None => Ok(()),
        Some(name) => Err(Error::Schema {
            what: "functions of the query".into(),
            expected: "functions with the same result in every run of a batch".into(),
            found: format!(
                "`{name}(distinct ..)` of floating-point numbers, which adds them in arbitrary order; use `{name}` over a \
                 `select distinct`"
            ),
        }),
    }
}
