//! The graph a program builds: nodes (D-Streams), what they are made of, and outputs.
//!
//! Building it does no I/O; everything that can be checked without data is checked here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::ScalarUDF;

use super::agg::AggPlan;
use super::event_time::IntervalRule;
use super::history::Recall;
use super::initial::Initial;
use super::join::JoinOp;
use super::join_within::WithinOp;
use super::lifetime::Lifetime;
use super::output::Output;
use super::rejects::{OffTimeReaders, Readers};
use super::relational::Query;
use super::result_rows::ResultRows;
use super::rows::{Reducer, RowsFn};
use super::sessions::SessionOp;
use super::timetable::Timetable;
use super::tracker::Tracker;
use super::with_state::ProbeOp;
use crate::error::{Error, Operator, Result};

/// Number of a node in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub usize);

/// The operation of a node on its inputs.
pub(crate) enum Op {
    /// An input stream, by its index among the sources.
    Source(usize),
    /// A closure over rows, batch by batch.
    Rows(Arc<dyn RowsFn>),
    /// Aggregation by the first `keys` columns, within a batch.
    Aggregate { keys: usize, plan: AggPlan },
    /// Aggregation by the first `keys` columns over the last `batches` batches of the input.
    Window {
        name: Option<String>,
        keys: usize,
        plan: AggPlan,
        batches: usize,
    },
    /// Aggregation by the first `keys` columns over all batches: a state, perhaps without keys that had no record for
    /// so long.
    Running {
        name: String,
        keys: usize,
        plan: AggPlan,
        timeout_ms: Option<u64>,
    },
    /// Aggregation by the first `keys` columns, of which the first is an interval of event time: a state of the
    /// intervals that are not final.
    ByTime {
        name: String,
        keys: usize,
        plan: AggPlan,
        rule: IntervalRule,
        emitted: ResultRows,
    },
    /// Closures over the events of each key, over all batches: a state.
    Tracked {
        name: String,
        keys: usize,
        lifetime: Lifetime,
        tracker: Arc<dyn Tracker>,
        /// The rows before the first batch.
        initial: Option<Initial>,
    },
    /// The rows of earlier RDDs, as they are: a state, in partitions by the first `keys` columns.
    History {
        name: Option<String>,
        keys: usize,
        recall: Recall,
        /// The readers of records that are in no interval, of a history by event time.
        off_time: Option<OffTimeReaders>,
    },
    /// One view of the results of a state.
    StateView(View),
    /// Reduction by closures, by the first `keys` columns, within a batch.
    Reduce {
        keys: usize,
        /// Of the records of a task.
        first: Arc<dyn Reducer>,
        /// Of the results of tasks.
        rest: Arc<dyn Reducer>,
    },
    /// The same rows in so many partitions.
    Repartition { partitions: usize },
    /// Pairs of rows with equal keys of two inputs.
    Join(JoinOp),
    /// The rows of each key as lists, one for each input.
    Cogroup { keys: usize },
    /// The rows of the first input with those of the second, a state, for their keys.
    Probe(ProbeOp),
    /// Pairs of records of two streams that are near in time: a state.
    Within(Arc<WithinOp>),
    /// Aggregation by sessions of the first columns: a state of those that are open.
    Sessions(Arc<SessionOp>),
    /// All rows of all inputs.
    Union,
    /// A relational query over the inputs.
    Query(Query),
    /// The first `limit` rows by the columns from `keys` on, descending, then by the keys.
    Top { keys: usize, limit: usize },
}

impl Op {
    /// Whether it keeps a state from batch to batch.
    pub fn is_state(&self) -> bool {
        match self {
            Op::Window { .. }
            | Op::Running { .. }
            | Op::ByTime { .. }
            | Op::Tracked { .. }
            | Op::Within(_)
            | Op::Sessions(_)
            | Op::History { .. } => true,
            Op::Source(_)
            | Op::Rows(_)
            | Op::Aggregate { .. }
            | Op::StateView(_)
            | Op::Reduce { .. }
            | Op::Repartition { .. }
            | Op::Join(_)
            | Op::Cogroup { .. }
            | Op::Probe(_)
            | Op::Union
            | Op::Query(_)
            | Op::Top { .. } => false,
        }
    }

    /// The name of its state, if that has one.
    pub fn state_name(&self) -> Option<&str> {
        match self {
            Op::Running { name, .. } | Op::ByTime { name, .. } | Op::Tracked { name, .. } => {
                Some(name)
            }
            Op::Window { name, .. } | Op::History { name, .. } => name.as_deref(),
            Op::Within(within) => Some(&within.name),
            Op::Sessions(sessions) => Some(&sessions.name),
            _ => None,
        }
    }

    /// Describes the operation, except for the code of closures.
    fn describe(&self) -> String {
        match self {
            Op::Source(input) => format!("source {input}"),
            Op::Rows(_) => "rows".into(),
            Op::Aggregate { keys, plan } => format!("aggregate {keys} {:?}", plan.parts),
            Op::Window {
                name,
                keys,
                plan,
                batches,
            } => {
                let name = name.as_ref().map(|name| format!("`{name}` "));
                let name = name.unwrap_or_default();
                format!("window {name}{keys} {:?} {batches}", plan.parts)
            }
            Op::Running {
                name,
                keys,
                plan,
                timeout_ms,
            } => {
                let timeout = timeout_ms.map(|timeout| format!(" {timeout}"));
                let timeout = timeout.unwrap_or_default();
                format!("running `{name}` {keys} {:?}{timeout}", plan.parts)
            }
            Op::ByTime {
                name,
                keys,
                plan,
                rule,
                ..
            } => format!("by time `{name}` {keys} {:?} {rule:?}", plan.parts),
            Op::Tracked {
                name,
                keys,
                lifetime,
                initial,
                ..
            } => {
                let initial = initial.as_ref().map(Initial::describe);
                let lifetime = lifetime.describe();
                format!("track `{name}` {keys} {lifetime} {initial:?}")
            }
            Op::History {
                name, keys, recall, ..
            } => format!("history {name:?} {keys} {recall:?}"),
            Op::StateView(view) => format!("held {view:?}"),
            Op::Reduce { keys, .. } => format!("reduce {keys}"),
            Op::Repartition { partitions } => format!("repartition {partitions}"),
            Op::Join(join) => format!("{join:?}"),
            Op::Cogroup { keys } => format!("cogroup {keys}"),
            Op::Probe(probe) => format!("{probe:?}"),
            Op::Within(within) => format!("{within:?}"),
            Op::Sessions(sessions) => {
                let SessionOp {
                    name,
                    keys,
                    plan,
                    rule,
                    ..
                } = &**sessions;
                format!("sessions `{name}` {keys} {:?} {rule:?}", plan.parts)
            }
            Op::Union => "union".into(),
            Op::Query(query) => format!("query {}", query.describe()),
            Op::Top { keys, limit } => format!("top {keys} {limit}"),
        }
    }
}

/// The rows that a reader of a state gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum View {
    /// The keys with a new value in the batch, with that value.
    Changes,
    /// All keys.
    All,
    /// The keys that expired with the batch, with their last value.
    TimedOut,
    /// The rows that the state makes of a batch: the results of closures over events and states, or emitted results.
    Mapped,
    /// The records of the interval that is complete by now.
    Released,
    /// The records of the batch whose interval was complete before.
    Late,
    /// The records of the batch whose interval is too far ahead.
    Ahead,
}

/// A D-Stream of the graph.
pub(crate) struct Node {
    pub op: Op,
    pub inputs: Vec<NodeId>,
    pub schema: SchemaRef,
    pub operator: Operator,
    /// The interval of its RDDs in milliseconds: they are of the intervals that end at multiples of it.
    pub slide_ms: u64,
    /// How much later than its interval an RDD is there, in milliseconds.
    pub shift_ms: u64,
}

impl Node {
    /// The batch times at which it has RDDs.
    pub fn timetable(&self) -> Timetable {
        Timetable {
            slide_ms: self.slide_ms,
            shift_ms: self.shift_ms,
        }
    }
}

/// An input stream.
pub(crate) struct Input {
    pub name: String,
    pub schema: SchemaRef,
}

/// An output: its node, its effect and its name.
pub(crate) struct OutputNode {
    pub node: NodeId,
    pub output: Output,
    pub operator: Operator,
}

/// The complete description of a program.
#[derive(Default)]
pub(crate) struct Graph {
    pub interval_ms: u64,
    pub nodes: Vec<Node>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<OutputNode>,
    /// Directories of outputs, one output each.
    pub directories: BTreeMap<PathBuf, Operator>,
    pub tables: BTreeMap<String, Arc<dyn TableProvider>>,
    pub functions: Vec<Arc<ScalarUDF>>,
    /// One for each operator that may reject records.
    pub rejects: Vec<Arc<Readers>>,
}

impl Graph {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Refuses a state whose name is in use.
    pub fn check_name(&self, op: &Op, operator: &Operator) -> Result<()> {
        let Some(name) = op.state_name() else {
            return Ok(());
        };
        let mut nodes = self.nodes.iter();
        match nodes.find(|node| node.op.state_name() == Some(name)) {
            None => Ok(()),
            Some(other) => Err(Error::Graph {
                message: format!(
                    "another state is called `{name}`, that of {}; give each a name of its own",
                    other.operator
                ),
                operator: operator.clone(),
            }),
        }
    }

    /// Nodes and outputs that read `id`.
    pub fn readers(&self, id: NodeId) -> usize {
        let nodes = self.nodes.iter().flat_map(|n| &n.inputs);
        let outputs = self.outputs.iter().map(|o| &o.node);
        nodes.chain(outputs).filter(|input| **input == id).count()
    }

    /// The names of the input streams from which the node's records come, in the order of the inputs.
    pub fn streams_of(&self, id: NodeId) -> Vec<&str> {
        let (mut seen, mut next, mut inputs) = (BTreeSet::new(), vec![id], BTreeSet::new());
        while let Some(id) = next.pop() {
            let node = self.node(id);
            if let Op::Source(input) = node.op {
                inputs.insert(input);
            }
            next.extend(node.inputs.iter().filter(|input| seen.insert(input.0)));
        }
        let names = inputs
            .into_iter()
            .filter_map(|input| self.inputs.get(input));
        names.map(|input| &*input.name).collect()
    }

    /// Refuses two inputs with one name: it identifies addresses, dead letters and offsets of producers.
    pub fn check_names(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for node in &self.nodes {
            let Op::Source(input) = node.op else { continue };
            let name = &*self.inputs[input].name;
            if let Some(first) = seen.insert(name, &node.operator) {
                return Err(Error::Graph {
                    operator: node.operator.clone(),
                    message: format!(
                        "stream `{name}` already exists, created by {first}; give each stream a unique name"
                    ),
                });
            }
        }
        Ok(())
    }

    /// The whole graph as text: equal for equal graphs.
    pub fn describe(&self) -> String {
        let mut text = format!("every {} ms\n", self.interval_ms);
        for input in &self.inputs {
            text += &format!("input {} {:?}\n", input.name, input.schema.fields());
        }
        for node in &self.nodes {
            let (op, operator, slide) = (node.op.describe(), &node.operator, node.slide_ms);
            let columns = node.schema.fields();
            text += &format!("{op} {operator} {:?} {slide} {columns:?}\n", node.inputs);
            if node.shift_ms > 0 {
                text += &format!("late by {}\n", node.shift_ms);
            }
        }
        for output in &self.outputs {
            text += &format!("output {} of {:?}\n", output.operator, output.node);
        }
        text
    }

    /// The time between two RDDs of all inputs, in milliseconds.
    pub fn slide_of(&self, inputs: &[NodeId], operator: &Operator) -> Result<u64> {
        let mut nodes = inputs.iter().map(|id| self.node(*id));
        let Some(first) = nodes.next() else {
            return Ok(self.interval_ms);
        };
        let mut others = nodes.clone();
        if let Some(other) = others.find(|node| node.slide_ms != first.slide_ms) {
            let every = |node: &Node| format!("{} every {} ms", node.operator, node.slide_ms);
            return Err(Error::Graph {
                operator: operator.clone(),
                message: format!(
                    "its inputs have RDDs at different times ({}, {}); give their windows the same slide, or take the \
                     `latest` of the slower one",
                    every(first),
                    every(other)
                ),
            });
        }
        if let Some(other) = nodes.find(|node| node.shift_ms != first.shift_ms) {
            let late = |node: &Node| format!("{} by {} ms", node.operator, node.shift_ms);
            return Err(Error::Graph {
                operator: operator.clone(),
                message: format!(
                    "its inputs are late by different times ({}, {}), so their RDDs at one batch time are of different \
                     intervals; make the one that is less late as late with `delayed`",
                    late(first),
                    late(other)
                ),
            });
        }
        Ok(first.slide_ms)
    }
}

/// The graph, shared by the handles into it.
#[derive(Clone)]
pub(crate) struct GraphRef(Arc<Mutex<Graph>>);

impl GraphRef {
    pub fn new(interval: Duration) -> Self {
        GraphRef(Arc::new(Mutex::new(Graph {
            interval_ms: interval.as_millis() as u64,
            ..Graph::default()
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Graph> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn same(&self, other: &GraphRef) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds a node; its slide and its shift are those of its inputs.
    pub fn add(
        &self,
        op: Op,
        inputs: Vec<NodeId>,
        schema: SchemaRef,
        operator: Operator,
    ) -> Result<NodeId> {
        let mut graph = self.lock();
        let slide_ms = graph.slide_of(&inputs, &operator)?;
        Ok(graph.push(op, inputs, schema, operator, slide_ms))
    }

    /// Adds a node with one input, which cannot fail.
    pub fn add_to(&self, input: NodeId, op: Op, schema: SchemaRef, operator: Operator) -> NodeId {
        let mut graph = self.lock();
        let slide_ms = graph.node(input).slide_ms;
        graph.push(op, vec![input], schema, operator, slide_ms)
    }
}

impl Graph {
    /// Refuses an input whose RDDs are late: an operator would take all of its records for late ones.
    pub fn check_not_late(&self, input: NodeId, operator: &Operator, remedy: &str) -> Result<()> {
        match self.node(input).shift_ms {
            0 => Ok(()),
            shift => Err(Error::Graph {
                operator: operator.clone(),
                message: format!(
                    "its input is late by {shift} ms already, by `by_time` or `delayed`; {remedy}"
                ),
            }),
        }
    }

    /// Makes the RDDs of a node be there so much later.
    pub fn shift(&mut self, node: NodeId, by_ms: u64) {
        self.nodes[node.0].shift_ms += by_ms;
    }

    pub fn push(
        &mut self,
        op: Op,
        inputs: Vec<NodeId>,
        schema: SchemaRef,
        operator: Operator,
        slide_ms: u64,
    ) -> NodeId {
        let shift_ms = inputs.first().map_or(0, |input| self.node(*input).shift_ms);
        self.nodes.push(Node {
            op,
            inputs,
            schema,
            operator,
            slide_ms,
            shift_ms,
        });
        NodeId(self.nodes.len() - 1)
    }
}
