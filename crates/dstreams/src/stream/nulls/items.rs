//! Which lists of a query's result may have null items, as far as that is known when the graph is built.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchemaRef;
use datafusion::logical_expr::expr::NullTreatment;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

use super::Nulls::{self, May, Never, Unknown};
use super::{Below, is_no_view};

/// The nullability of the items of each column of a plan; unknown for columns that are no lists.
pub(in crate::stream) fn items(plan: &LogicalPlan) -> Vec<Nulls> {
    match plan {
        LogicalPlan::TableScan(scan) if is_no_view(scan) => {
            let fields = scan.projected_schema.fields().iter();
            let nulls = fields.map(|field| match field.data_type() {
                DataType::List(item) if item.is_nullable() => May(format!(
                    "items of `{}` of `{}` may be null",
                    field.name(),
                    scan.table_name
                )),
                DataType::List(_) => Never,
                _ => Unknown,
            });
            nulls.collect()
        }
        LogicalPlan::Projection(projection) => {
            let lists = Lists::of(&projection.input);
            projection
                .expr
                .iter()
                .map(|expr| lists.items(expr))
                .collect()
        }
        LogicalPlan::Aggregate(aggregate) => {
            let lists = Lists::of(&aggregate.input);
            match &aggregate.group_expr[..] {
                [Expr::GroupingSet(_)] => unknown(&aggregate.schema),
                keys => {
                    let all = keys.iter().chain(&aggregate.aggr_expr);
                    all.map(|expr| lists.items(expr)).collect()
                }
            }
        }
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => match plan.inputs()[..] {
            [input] => items(input),
            _ => unknown(plan.schema()),
        },
        other => unknown(other.schema()),
    }
}

fn unknown(schema: &DFSchemaRef) -> Vec<Nulls> {
    vec![Unknown; schema.fields().len()]
}

/// Known facts about the values and the items that an expression reads.
struct Lists<'a> {
    below: Below<'a>,
    items: Vec<Nulls>,
}

impl<'a> Lists<'a> {
    fn of(plan: &'a LogicalPlan) -> Self {
        Lists {
            below: Below::of(plan),
            items: items(plan),
        }
    }

    fn items(&self, expr: &Expr) -> Nulls {
        match expr {
            Expr::Alias(alias) => self.items(&alias.expr),
            Expr::Column(column) => {
                let items = self.below.place(column).and_then(|at| self.items.get(at));
                items.cloned().unwrap_or(Unknown)
            }
            Expr::ScalarFunction(call) if call.name() == "make_array" => {
                self.below.worst(&call.args)
            }
            Expr::AggregateFunction(call) if call.func.name() == "array_agg" => {
                let nulls = self.below.worst(call.params.args.first());
                match (&call.params.null_treatment, &call.params.filter) {
                    (Some(NullTreatment::IgnoreNulls), _) => Never,
                    (_, Some(_)) => nulls.unconfirmed(),
                    (_, None) => nulls,
                }
            }
            _ => Unknown,
        }
    }
}
