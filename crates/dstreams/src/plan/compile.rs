//! Compiles a graph to a template: each node becomes a plan over the plans of its inputs, cut into stages.

mod joins;
mod states;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::union::UnionExec;

use super::aggregate::{Aggregation, Results, column};
use super::apply::ApplyExec;
use super::cogroup::CogroupExec;
use super::cut::{Cuts, by_all_columns, cut, partitions, shares_state};
use super::datasets::{DatasetScanExec, Slot};
use super::exec_node::internal;
use super::join::JoinExec;
use super::query_input::InputTable;
use super::reduce::ReduceExec;
use super::state_views::Views;
use super::template::{Route, Stage, StateSpec, Step, Template};
use super::total_order::first_rows;
use crate::error::{Error, Operator, Result};
use crate::stream::agg::AggPlan;
use crate::stream::graph::{Graph, NodeId, Op};
use crate::stream::relational::Query;
use crate::stream::rows::{Reducer, Rename};

type ExecPlan = Arc<dyn ExecutionPlan>;

/// Compiles `graph` for batches whose inputs are read by `tasks` tasks; keyed data of windows has `parts`
/// partitions whatever the number of tasks. The second result describes each state.
pub(crate) fn compile(
    graph: &Graph,
    tasks: usize,
    parts: usize,
    rows_per_batch: usize,
) -> Result<(Template, Vec<StateSpec>)> {
    let mut compiler = Compiler {
        graph,
        tasks,
        parts,
        rows_per_batch,
        inputs: Vec::new(),
        steps: Vec::new(),
        states: Vec::new(),
        slots: graph.inputs.len(),
        done: HashMap::new(),
        state_plans: HashMap::new(),
        views: HashMap::new(),
        steps_of: HashMap::new(),
    };
    compiler.inputs = (0..graph.inputs.len()).map(Slot).collect();
    // States install every batch, even if no output reads them then. They are compiled in the order of their
    // nodes, so that their numbers are the same in every template.
    for (at, node) in graph.nodes.iter().enumerate() {
        let is_unnamed = matches!(node.op, Op::Window { .. } | Op::History { .. });
        if is_unnamed || node.op.state_name().is_some() {
            compiler.state_of(NodeId(at))?;
        }
    }
    let mut outputs = Vec::new();
    for output in &graph.outputs {
        let slot = compiler.dataset(output.node)?;
        outputs.push((slot, graph.node(output.node).timetable()));
    }
    let template = Template {
        inputs: compiler.inputs,
        steps: compiler.steps,
        outputs,
        slots: compiler.slots,
    };
    Ok((template, compiler.states))
}

struct Compiler<'a> {
    graph: &'a Graph,
    tasks: usize,
    parts: usize,
    rows_per_batch: usize,
    inputs: Vec<Slot>,
    steps: Vec<Step>,
    states: Vec<StateSpec>,
    slots: usize,
    /// Nodes whose dataset has a slot: the slot, and its number of partitions.
    done: HashMap<NodeId, (Slot, usize)>,
    /// The plans that read the states compiled so far.
    state_plans: HashMap<NodeId, ExecPlan>,
    /// And the contents of the dataset of each.
    views: HashMap<NodeId, Views>,
    /// The number of each, and the slot of its dataset.
    steps_of: HashMap<NodeId, (usize, Slot)>,
}

impl Compiler<'_> {
    fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots - 1)
    }

    fn scan(&self, slot: Slot, schema: SchemaRef, partitions: usize) -> ExecPlan {
        let scan = DatasetScanExec::new(slot, schema, partitions, self.rows_per_batch);
        Arc::new(scan)
    }

    /// A stage that runs `plan`; returns its dataset and number of partitions.
    fn stage(&mut self, plan: ExecPlan, route: Route, node: NodeId) -> (Slot, usize) {
        let into = self.slot();
        let tasks = partitions(&plan);
        let parts = match &route {
            Route::Forward => tasks,
            Route::Gather => 1,
            Route::Hash { parts, .. } | Route::Turn { parts, .. } | Route::Deal { parts } => *parts,
        };
        let node = self.graph.node(node);
        self.steps.push(Step::Run(Stage {
            copies: tasks > 1 && shares_state(&plan),
            plan,
            tasks,
            route,
            into,
            at: node.timetable(),
            operator: node.operator.clone(),
        }));
        (into, parts)
    }

    fn exchange(&mut self, plan: ExecPlan, route: Route, node: NodeId) -> ExecPlan {
        let schema = plan.schema();
        let (slot, parts) = self.stage(plan, route, node);
        self.scan(slot, schema, parts)
    }

    /// The slot of a node's full dataset.
    fn dataset(&mut self, id: NodeId) -> Result<Slot> {
        if let Op::Source(input) = self.graph.node(id).op {
            return Ok(self.inputs[input]);
        }
        if let Some((slot, _)) = self.done.get(&id) {
            return Ok(*slot);
        }
        let plan = self.node(id)?;
        let (slot, parts) = self.stage(plan, Route::Forward, id);
        self.done.insert(id, (slot, parts));
        Ok(slot)
    }

    /// The plan by which a reader reads a node: the node's own, or a scan of its dataset if it has several
    /// readers.
    fn shared(&mut self, id: NodeId) -> Result<ExecPlan> {
        let source = matches!(self.graph.node(id).op, Op::Source(_));
        if source || self.graph.readers(id) < 2 {
            return self.node(id);
        }
        if !self.done.contains_key(&id) {
            let plan = self.node(id)?;
            let kept = self.stage(plan, Route::Forward, id);
            self.done.insert(id, kept);
        }
        let (slot, parts) = self.done[&id];
        let schema = Arc::clone(&self.graph.node(id).schema);
        Ok(self.scan(slot, schema, parts))
    }

    fn node(&mut self, id: NodeId) -> Result<ExecPlan> {
        let node = self.graph.node(id);
        let schema = Arc::clone(&node.schema);
        let operator = node.operator.clone();
        let inputs = node.inputs.clone();
        match &node.op {
            Op::Source(input) => Ok(self.scan(self.inputs[*input], schema, self.tasks)),
            Op::Rows(rows) => {
                let input = self.shared(inputs[0])?;
                Ok(apply(input, Arc::clone(rows) as _, schema, &operator))
            }
            Op::Aggregate { keys, plan } => {
                let before = Arc::clone(&self.graph.node(inputs[0]).schema);
                let input = self.shared(inputs[0])?;
                let parts = self.aggregate(id, input, before, *keys, plan)?;
                Ok(results(parts, *keys, plan, schema, &operator))
            }
            Op::Window { .. }
            | Op::Running { .. }
            | Op::ByTime { .. }
            | Op::Tracked { .. }
            | Op::Within(_)
            | Op::Sessions(_)
            | Op::History { .. } => self.state_of(id),
            Op::StateView(view) => self.state_view(*view, inputs[0], schema, &operator),
            Op::Reduce { keys, first, rest } => {
                let reduce = |input, reducer: &Arc<dyn Reducer>| -> ExecPlan {
                    let (schema, reducer) = (Arc::clone(&schema), Arc::clone(reducer));
                    let reduce = ReduceExec::new(input, schema, *keys, reducer, operator.clone());
                    Arc::new(reduce)
                };
                let reduced = reduce(self.shared(inputs[0])?, first);
                if partitions(&reduced) == 1 {
                    return Ok(reduced);
                }
                let route = match keys {
                    0 => Route::Gather,
                    keys => self.by_keys(&schema, *keys),
                };
                let split = self.exchange(reduced, route, id);
                Ok(reduce(split, rest))
            }
            Op::Repartition { partitions } => {
                let input = self.shared(inputs[0])?;
                let parts = *partitions;
                Ok(self.exchange(input, Route::Deal { parts }, id))
            }
            Op::Join(join) => {
                let inputs = self.inputs_by_key(id, join.keys)?;
                Ok(Arc::new(JoinExec::new(inputs, *join, schema, operator)))
            }
            Op::Cogroup { keys } => {
                let inputs = self.inputs_by_key(id, *keys)?;
                let groups = CogroupExec::new(inputs, *keys, schema, operator);
                Ok(Arc::new(groups))
            }
            Op::Probe(probe) => self.probe(id, *probe),
            Op::Union => {
                let plans = inputs.iter().map(|input| self.shared(*input));
                Ok(UnionExec::try_new(plans.collect::<Result<_>>()?)?)
            }
            Op::Query(query) => self.query(id, query),
            Op::Top { keys, limit } => {
                let input = self.shared(inputs[0])?;
                let sorted = top(input, &schema, *keys, *limit)?;
                if partitions(&sorted) == 1 {
                    return Ok(sorted);
                }
                let gathered = self.exchange(sorted, Route::Gather, id);
                top(gathered, &schema, *keys, *limit)
            }
        }
    }

    fn by_keys(&self, schema: &SchemaRef, keys: usize) -> Route {
        let fields = schema.fields()[..keys].iter().enumerate();
        Route::Hash {
            keys: fields.map(|(at, field)| column(field.name(), at)).collect(),
            parts: self.parts,
        }
    }

    /// The parts of an aggregate for each key of a batch.
    fn aggregate(
        &mut self,
        id: NodeId,
        input: ExecPlan,
        before: SchemaRef,
        keys: usize,
        plan: &AggPlan,
    ) -> Result<ExecPlan> {
        let aggregation = Aggregation {
            keys,
            plan,
            input: before,
        };
        if partitions(&input) == 1 {
            return aggregation.single(input);
        }
        let partial = aggregation.partial(input)?;
        if keys == 0 {
            let gathered = self.exchange(partial, Route::Gather, id);
            return aggregation.last(gathered);
        }
        let route = self.by_keys(&partial.schema(), keys);
        let split = self.exchange(partial, route, id);
        aggregation.last(split)
    }

    fn query(&mut self, id: NodeId, query: &Query) -> Result<ExecPlan> {
        let node = self.graph.node(id);
        let mut inputs = Vec::new();
        let mut tables = Vec::new();
        let tasks = if query.of_order { 1 } else { self.tasks };
        for (at, input) in node.inputs.iter().enumerate() {
            let mut plan = self.shared(*input)?;
            if query.of_order {
                plan = self.in_order(plan, *input, id)?;
            }
            tables.push(Arc::new(InputTable {
                input: at,
                schema: Arc::clone(&self.graph.node(*input).schema),
                partitions: partitions(&plan),
            }) as _);
            inputs.push(plan);
        }
        let named = |error: Error| Error::Graph {
            operator: node.operator.clone(),
            message: error.to_string(),
        };
        let frame = query.frame(self.graph, tasks, tables).map_err(named)?;
        let plan = futures::executor::block_on(frame.create_physical_plan())?;
        let mut cuts = QueryCuts {
            compiler: self,
            node: id,
            inputs,
            in_order: query.of_order,
        };
        let plan = cut(plan, &mut cuts)?;
        let schema = Arc::clone(&node.schema);
        let rename = Arc::new(Rename(Arc::clone(&schema)));
        Ok(apply(plan, rename, schema, &node.operator))
    }

    /// All rows of a query's input as one partition, in an order that does not depend on the number of tasks: that
    /// of their arrival, if it is preserved; else by all columns.
    fn in_order(&mut self, plan: ExecPlan, input: NodeId, query: NodeId) -> Result<ExecPlan> {
        let mut plan = plan;
        if partitions(&plan) > 1 {
            plan = self.exchange(plan, Route::Gather, query);
        }
        match self.is_as_received(input) {
            true => Ok(plan),
            false => Ok(by_all_columns(&[], plan)),
        }
    }

    fn is_as_received(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        match &node.op {
            Op::Source(_) | Op::Top { .. } => true,
            Op::Rows(rows) if !rows.as_received() => false,
            Op::Rows(_) | Op::Union => node.inputs.iter().all(|input| self.is_as_received(*input)),
            // One partition, in order.
            Op::Query(query) => query.of_order,
            _ => false,
        }
    }
}

struct QueryCuts<'c, 'g> {
    compiler: &'c mut Compiler<'g>,
    node: NodeId,
    inputs: Vec<ExecPlan>,
    in_order: bool,
}

impl Cuts for QueryCuts<'_, '_> {
    fn stage(&mut self, plan: ExecPlan, route: Route) -> Result<ExecPlan> {
        Ok(self.compiler.exchange(plan, route, self.node))
    }

    fn input(&mut self, input: usize) -> Result<ExecPlan> {
        match self.inputs.get(input) {
            Some(plan) => Ok(Arc::clone(plan)),
            None => Ok(internal(format!("the query has no input {input}"))?),
        }
    }

    fn in_order(&self) -> bool {
        self.in_order
    }
}

fn apply(
    input: ExecPlan,
    rows: Arc<dyn crate::stream::rows::RowsFn>,
    schema: SchemaRef,
    operator: &Operator,
) -> ExecPlan {
    Arc::new(ApplyExec::new(input, rows, schema, operator.clone()))
}

fn results(
    parts: ExecPlan,
    keys: usize,
    plan: &AggPlan,
    schema: SchemaRef,
    at: &Operator,
) -> ExecPlan {
    let results = Results {
        keys,
        finish: plan.finish.clone(),
        schema: Arc::clone(&schema),
    };
    apply(parts, Arc::new(results), schema, at)
}

/// The first rows of each partition by value, descending, then by key.
fn top(input: ExecPlan, schema: &SchemaRef, keys: usize, limit: usize) -> Result<ExecPlan> {
    if limit == 0 {
        // A sort for no rows panics.
        return Ok(Arc::new(LocalLimitExec::new(input, 0)));
    }
    let order = |at: usize, descending: bool| PhysicalSortExpr {
        expr: column(schema.field(at).name(), at),
        options: SortOptions {
            descending,
            nulls_first: false,
        },
    };
    let values = (keys..schema.fields().len()).map(|at| order(at, true));
    let order = values.chain((0..keys).map(|at| order(at, false)));
    let Some(order) = LexOrdering::new(order) else {
        return Ok(internal("no columns to order by".into())?);
    };
    let sort = first_rows(order, input, Some(limit));
    Ok(Arc::new(sort.with_preserve_partitioning(true)))
}
