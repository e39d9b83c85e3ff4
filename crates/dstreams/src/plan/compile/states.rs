//! States in the plan: their inputs, and the plans of their readers.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::{Compiler, ExecPlan, apply, results};
use crate::error::{Operator, Result};
use crate::plan::aggregate::Aggregation;
use crate::plan::by_time::{ByTimeSpec, VersionedResults};
use crate::plan::datasets::Slot;
use crate::plan::exec_node::internal;
use crate::plan::history::HistorySpec;
use crate::plan::route::split_by_route;
use crate::plan::sessions::{EachSession, session_state_schema};
use crate::plan::state_views::Views;
use crate::plan::template::{KeyedSpec, Route, StateSpec, StateStep, Step, Update, WindowSpec};
use crate::stream::agg::{AggPart, AggPlan, Function};
use crate::stream::graph::{Node, NodeId, Op, View};
use crate::stream::history::Recall;
use crate::stream::initial::Initial;
use crate::stream::rejects::OffTimeReaders;

impl Compiler<'_> {
    /// The plan that reads a state; its steps are added once.
    pub(super) fn state_of(&mut self, id: NodeId) -> Result<ExecPlan> {
        if let Some(plan) = self.state_plans.get(&id) {
            return Ok(Arc::clone(plan));
        }
        let plan = match &self.graph.node(id).op {
            Op::Window {
                keys,
                plan,
                batches,
                ..
            } => self.window(id, *keys, plan, *batches)?,
            Op::Running {
                keys,
                plan,
                timeout_ms,
                ..
            } => {
                let plan = plan.clone();
                let partial = self.partial(id, *keys, &plan)?;
                let held = partial.schema();
                let update = match *timeout_ms {
                    None => Update::Running(plan),
                    Some(timeout_ms) => Update::RunningFor { plan, timeout_ms },
                };
                self.keyed(id, *keys, partial, held, update)?
            }
            Op::ByTime {
                keys,
                plan,
                rule,
                emitted,
                ..
            } => {
                let spec = ByTimeSpec::new(plan.clone(), *rule, emitted.clone());
                let partial = self.partial(id, *keys, plan)?;
                let held = spec.state_schema(&partial.schema());
                self.keyed(id, *keys, partial, held, Update::ByTime(spec))?
            }
            Op::Tracked {
                keys,
                lifetime,
                tracker,
                initial,
                ..
            } => {
                let initial = initial.as_ref();
                let update = Update::Tracked {
                    tracker: Arc::clone(tracker),
                    lifetime: *lifetime,
                    initial: self.initial(initial, *keys)?,
                };
                let node = self.graph.node(id);
                let held = Arc::clone(&node.schema);
                let events = self.shared(node.inputs[0])?;
                self.keyed(id, *keys, events, held, update)?
            }
            Op::History {
                keys,
                recall,
                off_time,
                ..
            } => self.history(id, *keys, *recall, off_time.clone())?,
            Op::Within(within) => {
                let update = Update::Within(Arc::clone(within));
                let node = self.graph.node(id);
                let held = Arc::clone(&node.schema);
                let records = self.shared(node.inputs[0])?;
                self.keyed(id, within.keys, records, held, update)?
            }
            Op::Sessions(sessions) => {
                let (keys, update) = (sessions.keys, Update::Sessions(Arc::clone(sessions)));
                let partial = self.partial(id, keys + 1, &sessions.plan)?;
                let held = session_state_schema(&partial.schema(), keys);
                self.keyed(id, keys, partial, held, update)?
            }
            _ => return Ok(internal(format!("{id:?} is not a state"))?),
        };
        self.state_plans.insert(id, Arc::clone(&plan));
        Ok(plan)
    }

    /// The initial rows of a state, by partition.
    fn initial(&self, initial: Option<&Initial>, keys: usize) -> Result<Vec<Vec<RecordBatch>>> {
        let mut split = vec![Vec::new(); self.parts];
        if let Some(Initial { rows, .. }) = initial {
            let Route::Hash { keys, .. } = self.by_keys(&rows.schema(), keys) else {
                return Ok(internal("keys without a route".into())?);
            };
            split_by_route(rows, &keys, &mut split)?;
        }
        Ok(split)
    }

    /// The partial results of a batch for a state.
    fn partial(&mut self, id: NodeId, keys: usize, plan: &AggPlan) -> Result<ExecPlan> {
        let input = self.graph.node(id).inputs[0];
        let before = Arc::clone(&self.graph.node(input).schema);
        let aggregation = Aggregation {
            keys,
            plan,
            input: before,
        };
        aggregation.partial(self.shared(input)?)
    }

    /// A state with columns `schema` that installs the rows of `plan` by their keys.
    fn keyed(
        &mut self,
        id: NodeId,
        keys: usize,
        plan: ExecPlan,
        schema: SchemaRef,
        update: Update,
    ) -> Result<ExecPlan> {
        let node = self.graph.node(id);
        let mut route = self.by_keys(&plan.schema(), keys);
        if let (Route::Hash { keys, .. }, Update::ByTime(_)) = (&mut route, &update) {
            // All intervals of a key are in one partition.
            keys.remove(0);
        }
        let (from, parts) = self.stage(plan, route, node.inputs[0]);
        let mapped = match &update {
            Update::Running(_) | Update::RunningFor { .. } => None,
            Update::ByTime(spec) => Some(spec.emitted.schema()),
            Update::Tracked { tracker, .. } => tracker.mapped(),
            Update::Within(within) => Some(Arc::clone(&within.results)),
            Update::Sessions(sessions) => Some(Arc::clone(&sessions.emitted)),
        };
        let views = self.views(id, &schema, mapped);
        self.views.insert(id, views.clone());
        let spec = KeyedSpec {
            name: node.op.state_name().unwrap_or_default().to_owned(),
            keys,
            views,
            schema,
            results: Arc::clone(&node.schema),
            update,
            every_ms: self.graph.node(node.inputs[0]).slide_ms,
        };
        Ok(self.take_in(id, from, parts, StateSpec::Keyed(Arc::new(spec))))
    }

    /// The views of a state with columns `schema` that its readers want.
    fn views(&self, id: NodeId, schema: &SchemaRef, mapped: Option<SchemaRef>) -> Views {
        let view = |node: &Node| match node.op {
            Op::StateView(view) if node.inputs == [id] => Some(view),
            _ => None,
        };
        let views = self.graph.nodes.iter().filter_map(view);
        Views::new(views, Arc::clone(schema), mapped)
    }

    /// Adds the step by which a state installs the rows of a slot; returns the plan that reads the state.
    fn take_in(&mut self, id: NodeId, from: Slot, parts: usize, spec: StateSpec) -> ExecPlan {
        let node = self.graph.node(id);
        let (into, dataset) = (self.slot(), spec.dataset());
        self.steps.push(Step::State(StateStep {
            state: self.states.len(),
            from,
            into,
            input_at: self.graph.node(node.inputs[0]).timetable(),
            at: node.timetable(),
            operator: node.operator.clone(),
        }));
        self.steps_of.insert(id, (self.states.len(), into));
        self.states.push(spec);
        self.scan(into, dataset, parts)
    }

    /// A state that keeps the rows of its input.
    fn history(
        &mut self,
        id: NodeId,
        keys: usize,
        recall: Recall,
        off_time: Option<OffTimeReaders>,
    ) -> Result<ExecPlan> {
        let node = self.graph.node(id);
        let input = node.inputs[0];
        let input_at = self.graph.node(input).timetable();
        let plan = self.shared(input)?;
        let schema = plan.schema();
        let route = match keys {
            0 => Route::Turn {
                parts: self.parts,
                every_ms: input_at.slide_ms,
            },
            keys => self.by_keys(&schema, keys),
        };
        let (from, parts) = self.stage(plan, route, input);
        let views = matches!(recall, Recall::ByTime { .. }).then(|| self.views(id, &schema, None));
        if let Some(views) = &views {
            self.views.insert(id, views.clone());
        }
        let mut spec = HistorySpec::new(
            node.op.state_name().map(str::to_owned),
            self.graph.streams_of(id).join(", "),
            (schema, keys),
            input_at,
            recall,
        );
        (spec.views, spec.off_time) = (views, off_time);
        Ok(self.take_in(id, from, parts, StateSpec::History(Arc::new(spec))))
    }

    /// The plan of a reader of a state.
    pub(super) fn state_view(
        &mut self,
        view: View,
        state: NodeId,
        schema: SchemaRef,
        operator: &Operator,
    ) -> Result<ExecPlan> {
        let mut plan = self.state_of(state)?;
        if let Some(pick) = self.views.get(&state).and_then(|views| views.pick(view)) {
            let columns = Arc::clone(&pick.schema);
            plan = apply(plan, Arc::new(pick), columns, operator);
        }
        Ok(match &self.graph.node(state).op {
            Op::Running {
                keys, plan: parts, ..
            } => results(plan, *keys, parts, schema, operator),
            Op::ByTime {
                keys, plan: parts, ..
            } if view == View::All => {
                let results = VersionedResults::of_plan(parts, *keys, &schema);
                apply(plan, Arc::new(results), schema, operator)
            }
            Op::Sessions(op) if view == View::All => {
                let each = EachSession {
                    op: Arc::clone(op),
                    schema: Arc::clone(&schema),
                };
                apply(plan, Arc::new(each), schema, operator)
            }
            _ => plan,
        })
    }

    fn window(
        &mut self,
        id: NodeId,
        keys: usize,
        plan: &AggPlan,
        batches: usize,
    ) -> Result<ExecPlan> {
        let node = self.graph.node(id);
        let input_node = self.graph.node(node.inputs[0]);
        // A key is removed with its last record, so records are always counted.
        let mut held = plan.clone();
        let count = held.column_of(AggPart {
            function: Function::Count,
            column: None,
        });
        let input = self.shared(node.inputs[0])?;
        let aggregation = Aggregation {
            keys,
            plan: &held,
            input: Arc::clone(&input_node.schema),
        };
        let partial = aggregation.partial(input)?;
        let schema = partial.schema();
        let route = self.by_keys(&schema, keys);
        let (from, parts) = self.stage(partial, route, node.inputs[0]);
        let spec = WindowSpec {
            name: node.op.state_name().map(str::to_owned),
            keys,
            schema,
            plan: held,
            streams: self.graph.streams_of(id).join(", "),
            count,
            length_ms: input_node.slide_ms * batches as u64,
            every_ms: input_node.slide_ms,
        };
        let state = self.take_in(id, from, parts, StateSpec::Window(Arc::new(spec)));
        let schema = Arc::clone(&node.schema);
        Ok(results(state, keys, plan, schema, &node.operator))
    }
}
