//! Which columns of a query's result may be null, as far as that is known when the graph is built.
//!
//! DataFusion's own answer is of no use here: it declares nearly every function and aggregate nullable. So there are
//! three answers. Columns that are known to be nullable are refused for fields without `Option`; unknown ones are
//! checked when there are rows.

mod items;

use datafusion::common::{Column, DFSchema, JoinType, NullEquality};
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, Between, BinaryExpr, Case, Distinct, Expr, Join, LogicalPlan, Operator, TableScan,
    WindowFrameBound, WindowFunctionDefinition,
};

pub(super) use items::items;

/// Whether a column may be null.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nulls {
    Never,
    Unknown,
    /// An aggregate of all rows, of which there may be none: it always has one row. In a join, that row may be
    /// missing.
    OfNothing(String),
    /// It may be null, with the reason.
    May(String),
}

use Nulls::{May, Never, OfNothing, Unknown};

impl Nulls {
    /// Why a column may be null, if that is known.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Never | Unknown => None,
            OfNothing(why) | May(why) => Some(why),
        }
    }

    /// This answer, without certainty that there may be a null.
    fn unconfirmed(self) -> Nulls {
        self.min(Unknown)
    }

    fn joined(self) -> Nulls {
        match self {
            OfNothing(_) => Unknown,
            other => other,
        }
    }
}

/// The nullability of each column of a plan.
pub(super) fn columns(plan: &LogicalPlan) -> Vec<Nulls> {
    match plan {
        LogicalPlan::TableScan(scan) => match scan.source.get_logical_plan() {
            // A view.
            Some(view) => {
                let all = columns(&view);
                let schema = scan.projected_schema.fields();
                let chosen =
                    (scan.projection.clone()).unwrap_or_else(|| (0..schema.len()).collect());
                let chosen = chosen.iter().map(|at| all.get(*at).cloned());
                chosen.map(|nulls| nulls.unwrap_or(Unknown)).collect()
            }
            None => {
                let fields = scan.projected_schema.fields().iter();
                let nulls = fields.map(|field| match field.is_nullable() {
                    true => May(format!(
                        "`{}` of `{}` may have nulls",
                        field.name(),
                        scan.table_name
                    )),
                    false => Never,
                });
                nulls.collect()
            }
        },
        LogicalPlan::Projection(projection) => {
            let below = Below::of(&projection.input);
            projection
                .expr
                .iter()
                .map(|expr| below.value(expr))
                .collect()
        }
        LogicalPlan::Filter(filter) => {
            let mut below = Below::of(&filter.input);
            below.pass(&filter.predicate);
            below.nulls
        }
        LogicalPlan::Aggregate(aggregate) => grouped(aggregate),
        LogicalPlan::Window(window) => {
            let below = Below::of(&window.input);
            let new: Vec<_> = window
                .window_expr
                .iter()
                .map(|expr| below.value(expr))
                .collect();
            [below.nulls, new].concat()
        }
        LogicalPlan::Join(join) => joined(join),
        LogicalPlan::Union(union) => {
            let inputs: Vec<_> = union.inputs.iter().map(|input| columns(input)).collect();
            let fields = 0..plan.schema().fields().len();
            let worst = |at: usize| inputs.iter().filter_map(|input| input.get(at)).max();
            fields
                .map(|at| worst(at).cloned().unwrap_or(Unknown))
                .collect()
        }
        LogicalPlan::Values(values) => {
            let nothing = Below {
                schema: &values.schema,
                nulls: Vec::new(),
            };
            let rows = values.values.iter();
            let rows: Vec<Vec<_>> = rows
                .map(|row| row.iter().map(|expr| nothing.value(expr)).collect())
                .collect();
            let fields = 0..values.schema.fields().len();
            let worst = |at: usize| rows.iter().filter_map(|row: &Vec<Nulls>| row.get(at)).max();
            fields
                .map(|at| worst(at).cloned().unwrap_or(Unknown))
                .collect()
        }
        LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => match plan.inputs()[..] {
            [input] => columns(input),
            _ => declared(plan.schema()),
        },
        other => declared(other.schema()),
    }
}

/// Whether the table has rows of its own, and is no view of others.
fn is_no_view(scan: &TableScan) -> bool {
    scan.source.get_logical_plan().is_none()
}

fn declared(schema: &DFSchema) -> Vec<Nulls> {
    let fields = schema.fields().iter();
    let nulls = fields.map(|field| match field.is_nullable() {
        true => Unknown,
        false => Never,
    });
    nulls.collect()
}

fn grouped(aggregate: &Aggregate) -> Vec<Nulls> {
    let below = Below::of(&aggregate.input);
    let of = |expr: &Expr| below.value(expr);
    let mut all: Vec<Nulls> = match &aggregate.group_expr[..] {
        [Expr::GroupingSet(_)] => {
            let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
            vec![May("some grouping sets omit it".into()); groups]
        }
        keys => keys.iter().map(of).collect(),
    };
    let single = aggregate.group_expr.is_empty();
    let results = aggregate.aggr_expr.iter();
    all.extend(results.map(|expr| below.aggregate(expr, single)));
    all
}

fn joined(join: &Join) -> Vec<Nulls> {
    let (mut left, mut right) = (Below::of(&join.left), Below::of(&join.right));
    let absent = |side: &mut Below<'_>, of: &str| {
        let why = format!("a row may have no partner in the {of}");
        side.nulls.fill(May(why));
    };
    match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti => return left.nulls,
        JoinType::RightSemi | JoinType::RightAnti => return right.nulls,
        JoinType::LeftMark | JoinType::RightMark => return declared(&join.schema),
        JoinType::Left => absent(&mut right, "left join"),
        JoinType::Right => absent(&mut left, "right join"),
        JoinType::Full => {
            absent(&mut left, "full join");
            absent(&mut right, "full join");
        }
        JoinType::Inner => {
            if join.null_equality == NullEquality::NullEqualsNothing {
                for (one, other) in &join.on {
                    left.pass(&one.clone().eq(other.clone()));
                    right.pass(&one.clone().eq(other.clone()));
                }
            }
            if let Some(part) = &join.filter {
                left.pass(part);
                right.pass(part);
            }
        }
    }
    let all = left.nulls.into_iter().chain(right.nulls);
    all.map(Nulls::joined).collect()
}

/// Known facts about the rows that an expression reads.
struct Below<'a> {
    schema: &'a DFSchema,
    nulls: Vec<Nulls>,
}

impl<'a> Below<'a> {
    fn of(plan: &'a LogicalPlan) -> Self {
        Below {
            schema: plan.schema(),
            nulls: columns(plan),
        }
    }

    fn place(&self, column: &Column) -> Option<usize> {
        self.schema.maybe_index_of_column(column)
    }

    /// Keeps only the rows for which `predicate` is true.
    fn pass(&mut self, predicate: &Expr) {
        for part in split_conjunction(predicate) {
            let mut there = Vec::new();
            let inner = match part {
                Expr::IsNotNull(inner) | Expr::IsTrue(inner) | Expr::IsFalse(inner) => inner,
                other => other,
            };
            needed(inner, &mut there);
            for column in part.column_refs() {
                if let Some(place) = self.place(column) {
                    let nulls = std::mem::replace(&mut self.nulls[place], Never);
                    if !there.contains(&column) {
                        self.nulls[place] = nulls.unconfirmed();
                    }
                }
            }
        }
    }

    fn worst<'e>(&self, of: impl IntoIterator<Item = &'e Expr>) -> Nulls {
        let nulls = of.into_iter().map(|expr| self.value(expr));
        nulls.max().unwrap_or(Never)
    }

    fn value(&self, expr: &Expr) -> Nulls {
        match expr {
            Expr::Alias(alias) => self.value(&alias.expr),
            Expr::Column(column) => {
                let nulls = self.place(column).and_then(|at| self.nulls.get(at));
                nulls.cloned().unwrap_or(Unknown)
            }
            Expr::Literal(value, _) => match value.is_null() {
                true => May("it is a null that the query names".into()),
                false => Never,
            },
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => Never,
                // `false and null` is false.
                Operator::And | Operator::Or => self.worst([&**left, right]).unconfirmed(),
                op if gives_null_for_null(op) => self.worst([&**left, right]),
                _ => Unknown,
            },
            Expr::Not(of) | Expr::Negative(of) => self.value(of),
            Expr::Cast(cast) => self.value(&cast.expr),
            Expr::TryCast(_) => May("`try_cast` gives null for what it cannot convert".into()),
            Expr::Like(like) | Expr::SimilarTo(like) => self.worst([&*like.expr, &like.pattern]),
            Expr::Between(Between {
                expr, low, high, ..
            }) => self.worst([&**expr, low, high]),
            Expr::InList(list) => self.worst(list.list.iter().chain([&*list.expr])),
            Expr::IsNotNull(_)
            | Expr::IsNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Exists(_) => Never,
            Expr::Case(case) => self.case(case),
            Expr::ScalarFunction(call) => match call.name() {
                "coalesce" | "nvl" | "ifnull" => {
                    // Two nullable columns need not be null in the same row: the keys of a full join.
                    let args = call.args.iter().map(|arg| self.value(arg));
                    args.min().unwrap_or(Unknown).unconfirmed()
                }
                "nullif" => May("`nullif` gives null".into()),
                _ => Unknown,
            },
            Expr::WindowFunction(call) => self.window(call),
            _ => Unknown,
        }
    }

    /// A branch may exist because of a null: only the nulls that the query names are certain.
    fn case(&self, case: &Case) -> Nulls {
        let Some(otherwise) = &case.else_expr else {
            return May("`case` without `else` gives null".into());
        };
        let branches = case.when_then_expr.iter().map(|(_, then)| then);
        let branches = branches.chain([otherwise]).map(|expr| match &**expr {
            Expr::Literal(..) => self.value(expr),
            other => self.value(other).unconfirmed(),
        });
        branches.max().unwrap_or(Unknown)
    }

    /// An aggregate of a group, or (`single`) of all rows.
    fn aggregate(&self, expr: &Expr, single: bool) -> Nulls {
        let call = match expr {
            Expr::Alias(alias) => return self.aggregate(&alias.expr, single),
            Expr::AggregateFunction(call) => call,
            _ => return Unknown,
        };
        let AggregateFunction { func, params } = call;
        let name = func.name();
        match name {
            "count" | "approx_distinct" | "regr_count" | "grouping" => return Never,
            _ if !known_aggregate(name) => return Unknown,
            _ if single => return OfNothing(format!("`{name}` of no rows is null")),
            _ => {}
        }
        match name {
            _ if params.filter.is_some() => May(format!("`{name}` of no rows is null")),
            "var" | "stddev" | "covar_samp" => May(format!("`{name}` of one row is null")),
            // Nulls are items of the list.
            "array_agg" => Never,
            _ => self.worst(params.args.first()),
        }
    }

    fn window(&self, call: &WindowFunction) -> Nulls {
        let (name, aggregate) = match &call.fun {
            WindowFunctionDefinition::AggregateUDF(of) => (of.name(), true),
            WindowFunctionDefinition::WindowUDF(of) => (of.name(), false),
        };
        let params = &call.params;
        match name {
            "row_number" | "rank" | "dense_rank" | "ntile" | "percent_rank" | "cume_dist"
            | "count" => Never,
            "lag" | "lead" if params.args.len() < 3 => {
                May(format!("`{name}` without a default gives null"))
            }
            "var" | "stddev" | "covar_samp" => Unknown,
            _ if params.filter.is_some() => Unknown,
            _ if aggregate && known_aggregate(name) => {
                // The row itself exists.
                let frame = &params.window_frame;
                let before = matches!(
                    frame.start_bound,
                    WindowFrameBound::Preceding(_) | WindowFrameBound::CurrentRow
                );
                let behind = matches!(
                    frame.end_bound,
                    WindowFrameBound::Following(_) | WindowFrameBound::CurrentRow
                );
                match self.worst(params.args.first()) {
                    Never if before && behind => Never,
                    _ => Unknown,
                }
            }
            _ => Unknown,
        }
    }
}

/// Aggregates that are null only if there are no values (or, for samples, only one).
fn known_aggregate(name: &str) -> bool {
    matches!(
        name,
        "sum"
            | "min"
            | "max"
            | "avg"
            | "median"
            | "var"
            | "var_pop"
            | "stddev"
            | "stddev_pop"
            | "covar_samp"
            | "covar_pop"
            | "first_value"
            | "last_value"
            | "bit_and"
            | "bit_or"
            | "bit_xor"
            | "bool_and"
            | "bool_or"
            | "array_agg"
            | "string_agg"
    )
}

fn gives_null_for_null(op: &Operator) -> bool {
    use Operator::{
        BitwiseAnd, BitwiseOr, BitwiseShiftLeft, BitwiseShiftRight, BitwiseXor, Divide, Eq, Gt,
        GtEq, Lt, LtEq, Minus, Modulo, Multiply, NotEq, Plus, StringConcat,
    };
    matches!(
        op,
        Eq | NotEq
            | Lt
            | LtEq
            | Gt
            | GtEq
            | Plus
            | Minus
            | Multiply
            | Divide
            | Modulo
            | StringConcat
            | BitwiseAnd
            | BitwiseOr
            | BitwiseXor
            | BitwiseShiftLeft
            | BitwiseShiftRight
    )
}

/// Columns that are never null where `expr` is not null.
fn needed<'e>(expr: &'e Expr, to: &mut Vec<&'e Column>) {
    match expr {
        Expr::Column(column) => to.push(column),
        Expr::Alias(alias) => needed(&alias.expr, to),
        Expr::Cast(cast) => needed(&cast.expr, to),
        Expr::TryCast(cast) => needed(&cast.expr, to),
        Expr::Not(of) | Expr::Negative(of) => needed(of, to),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if gives_null_for_null(op) => {
            needed(left, to);
            needed(right, to);
        }
        Expr::Like(like) | Expr::SimilarTo(like) => needed(&like.expr, to),
        Expr::InList(list) => needed(&list.expr, to),
        // Not the bounds: one of them may be null.
        Expr::Between(between) => needed(&between.expr, to),
        _ => {}
    }
}
