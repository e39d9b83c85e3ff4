//! Relational operators: SQL and DataFrames over RDDs.
//!
//! A query is planned when the graph is built, to check it, and once for each shape of a batch; never per batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, ScalarUDF, Volatility, ident};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::extreme;
use super::fit_list::fitted;
use super::graph::Graph;
use super::nulls::{self, Nulls};
use super::order;
use super::quiet;
use super::record::refits;
use crate::error::{Error, Operator, Result};

type Build = dyn Fn(&SessionContext, &[String]) -> EngineResult<DataFrame> + Send + Sync;

/// A query over the inputs of a node.
#[derive(Clone)]
pub(crate) struct Query {
    names: Vec<String>,
    build: Arc<Build>,
    /// Columns of the result: the names and types of the record.
    result: SchemaRef,
    /// The plan of the query, as text.
    text: String,
    /// Whether its result depends on the order of the inputs' rows.
    pub of_order: bool,
    /// Whether it has rows even if its inputs have none.
    pub never_empty: bool,
}

/// Session settings of every plan. Options that could change the order or the number of partitions between planning
/// and execution are off.
pub(crate) fn session_config(partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_round_robin_repartition(false)
        .with_information_schema(false);
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.repartition_file_scans = false;
    // Scalar subqueries become joins: a node that passes the value to other nodes directly would not reach those in
    // other stages.
    optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    // Not `InterleaveExec`, which needs inputs that say how their rows are spread: ours do not once they are cut.
    optimizer.prefer_existing_union = true;
    config
}

impl Query {
    pub fn sql(names: Vec<String>, text: &str) -> Self {
        let text = text.to_owned();
        Query::new(names, move |session, _| {
            futures::executor::block_on(session.sql(&text))
        })
    }

    pub fn frames(
        names: Vec<String>,
        f: impl Fn(Vec<DataFrame>) -> EngineResult<DataFrame> + Send + Sync + 'static,
    ) -> Self {
        Query::new(names, move |session, names| {
            let frames = names.iter();
            let frames = frames.map(|name| futures::executor::block_on(session.table(name)));
            f(frames.collect::<EngineResult<_>>()?)
        })
    }

    fn new(
        names: Vec<String>,
        build: impl Fn(&SessionContext, &[String]) -> EngineResult<DataFrame> + Send + Sync + 'static,
    ) -> Self {
        Query {
            names,
            build: Arc::new(build),
            result: Arc::new(Schema::empty()),
            text: String::new(),
            of_order: false,
            never_empty: true,
        }
    }

    /// Checks the query for inputs with `schemas` and results with the columns of `result`.
    pub fn check(
        mut self,
        graph: &Graph,
        schemas: &[SchemaRef],
        result: &SchemaRef,
        operator: &Operator,
    ) -> Result<Self> {
        self.result = Arc::clone(result);
        let tables = schemas.iter();
        let tables = tables.map(|s| Arc::new(EmptyTable::new(Arc::clone(s))) as _);
        let frame = self.frame(graph, 1, tables.collect());
        let frame = frame.map_err(|error| Error::Graph {
            operator: operator.clone(),
            message: error.to_string(),
        })?;
        self.of_order = order::of_inputs_matters(frame.logical_plan())?;
        self.never_empty = !quiet::is_empty_of_nothing(frame.logical_plan(), &self.names);
        self.text = frame.logical_plan().display_indent().to_string();
        Ok(self)
    }

    /// Describes the query.
    pub fn describe(&self) -> &str {
        &self.text
    }

    /// The query over `inputs`, as a DataFrame with the columns of the record.
    pub fn frame(
        &self,
        graph: &Graph,
        partitions: usize,
        inputs: Vec<Arc<dyn TableProvider>>,
    ) -> Result<DataFrame> {
        let session = SessionContext::new_with_config(session_config(partitions));
        register(&session, graph)?;
        for (name, table) in self.names.iter().zip(inputs) {
            session.register_table(name.as_str(), table)?;
        }
        let frame = (self.build)(&session, &self.names)?;
        let (state, plan) = frame.into_parts();
        let plan = order::total(extreme::in_place_of_others(plan)?)?;
        let frame = DataFrame::new(state, plan);
        check_deterministic(frame.logical_plan())?;
        order::check(frame.logical_plan())?;
        select_columns(frame, &self.result)
    }
}

/// Registers the tables and functions of the context in `session`.
fn register(session: &SessionContext, graph: &Graph) -> Result<()> {
    Catalog::of(graph).register(session)
}

/// The tables and functions of a context, which its queries know.
pub(crate) struct Catalog {
    tables: BTreeMap<String, Arc<dyn TableProvider>>,
    functions: Vec<Arc<ScalarUDF>>,
}

impl Catalog {
    pub fn of(graph: &Graph) -> Self {
        Catalog {
            tables: graph.tables.clone(),
            functions: graph.functions.clone(),
        }
    }

    /// Makes them known to `session`; a table that it has stays.
    pub fn register(&self, session: &SessionContext) -> Result<()> {
        session.register_udf(super::text::words_udf());
        extreme::register_extremes(session);
        for function in &self.functions {
            session.register_udf(function.as_ref().clone());
        }
        for (name, table) in &self.tables {
            if !session.table_exist(name.as_str())? {
                session.register_table(name.as_str(), Arc::clone(table))?;
            }
        }
        Ok(())
    }
}

/// Refuses functions that could give another result when a batch is run again.
fn check_deterministic(plan: &LogicalPlan) -> Result<()> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && call.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(call.func.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
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
            found: format!("`{name}()`; put times and random numbers into the records"),
        }),
    }
}

/// Selects the columns of the record from the result: by name if all names exist, by position otherwise. Encodings of
/// text and bytes, names and nullability of items of lists, time zones of milliseconds, and decimal numbers of fewer
/// digits are converted; any other difference of type is refused.
fn select_columns(frame: DataFrame, wanted: &SchemaRef) -> Result<DataFrame> {
    let found = Arc::new(frame.schema().as_arrow().clone());
    let mismatch = || Error::Schema {
        what: "columns of the result".into(),
        expected: describe(wanted),
        found: describe(&found),
    };
    let by_name = wanted.fields().iter().all(|field| {
        found
            .fields()
            .iter()
            .filter(|f| f.name() == field.name())
            .count()
            == 1
    });
    let positional = wanted.fields().iter().all(|f| is_generic(f.name()));
    let by_place = positional && found.fields().len() == wanted.fields().len();
    if !(by_name || by_place) {
        return Err(mismatch());
    }
    let nulls = nulls::columns(frame.logical_plan());
    let items = nulls::items(frame.logical_plan());
    let qualified = frame.schema().columns();
    let mut columns = Vec::with_capacity(wanted.fields().len());
    for (place, field) in wanted.fields().iter().enumerate() {
        let place = match by_name {
            true => found.index_of(field.name())?,
            false => place,
        };
        let reason = nulls.get(place).and_then(Nulls::reason);
        if let Some(reason) = reason.filter(|_| !field.is_nullable()) {
            return Err(Error::Schema {
                what: format!("column `{}` of the result", found.field(place).name()),
                expected: format!(
                    "no nulls, since `{}` of the record is not an `Option`",
                    field.name()
                ),
                found: format!("that it may be null: {reason}; use `coalesce`, or `Option`"),
            });
        }
        if let DataType::List(item) = field.data_type()
            && !item.is_nullable()
            && let Some(reason) = items.get(place).and_then(Nulls::reason)
        {
            return Err(Error::Schema {
                what: format!("column `{}` of the result", found.field(place).name()),
                expected: format!(
                    "no null items, since `{}` of the record is not a list of `Option`s",
                    field.name()
                ),
                found: format!(
                    "that items may be null: {reason}; use `coalesce`, `where .. is not null`, or \
                     `Vec<Option<..>>`"
                ),
            });
        }
        let kind = found.field(place).data_type();
        let column = Expr::Column(qualified[place].clone());
        let column = match field.data_type() {
            wanted if wanted == kind => column,
            wanted if wanted.is_nested() && refits(kind, wanted) => {
                fitted(column, field, found.field(place).is_nullable())
            }
            wanted if refits(kind, wanted) => {
                Expr::Cast(Cast::new(Box::new(column), wanted.clone()))
            }
            _ => return Err(mismatch()),
        };
        columns.push(column.alias(field.name()));
    }
    let same = by_name && qualified.len() == columns.len();
    let same = same
        && columns
            .iter()
            .zip(wanted.fields())
            .all(|(c, f)| *c == ident(f.name()));
    if same {
        Ok(frame)
    } else {
        Ok(frame.select(columns)?)
    }
}

/// Whether a column's name only gives its position (tuples and single values, and `Option`s of them).
fn is_generic(name: &str) -> bool {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let parts = name.split('_').enumerate();
    let mut parts = parts.filter(|(_, part)| !part.is_empty());
    parts.all(|(place, part)| match part {
        "key" | "value" => true,
        "is" | "some" => place > 0,
        part => number(part),
    })
}

/// Columns as text, for messages.
pub(crate) fn describe(schema: &Schema) -> String {
    let fields = schema.fields().iter();
    let fields: Vec<_> = fields
        .map(|f| format!("{}: {}", f.name(), f.data_type()))
        .collect();
    format!("({})", fields.join(", "))
}
