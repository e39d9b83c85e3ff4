//! A template: the steps of a batch, in order.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use dstreams_control::BatchTime;

use super::aggregate::Results;
use super::by_time::{ByTimeSpec, VersionedResults};
use super::datasets::Slot;
use super::history::HistorySpec;
use super::sessions::EachSession;
use super::state_views::Views;
use crate::debug::debug_as;
use crate::error::{Operator, Result};
use crate::stream::agg::AggPlan;
use crate::stream::history::Recall;
use crate::stream::join_within::WithinOp;
use crate::stream::lifetime::Lifetime;
use crate::stream::rows::RowsTask;
use crate::stream::sessions::SessionOp;
use crate::stream::timetable::Timetable;
use crate::stream::tracker::Tracker;
use crate::stream::with_state::AsOf;

/// The steps of a batch. A step reads slots that earlier steps fill.
pub struct Template {
    /// The slots of the inputs, in the order of the sources.
    pub inputs: Vec<Slot>,
    pub steps: Vec<Step>,
    /// For each output of the graph: its dataset, and the batch times at which there is one.
    pub outputs: Vec<(Slot, Timetable)>,
    pub slots: usize,
}

debug_as!(Template { slots });

/// One step.
#[derive(Debug)]
pub enum Step {
    Run(Stage),
    /// A state installs its rows of the batch.
    State(StateStep),
    /// Rows get the values that a state has for their keys.
    Probe(ProbeStep),
}

/// A plan that runs as `tasks` tasks; task i executes partition i.
pub struct Stage {
    pub plan: Arc<dyn ExecutionPlan>,
    pub tasks: usize,
    /// Whether each task needs a copy of the plan, because nodes in it share state between partitions.
    pub copies: bool,
    pub route: Route,
    pub into: Slot,
    /// The batch times at which it runs.
    pub at: Timetable,
    pub operator: Operator,
}

debug_as!(Stage { tasks, operator });

/// Where the rows of a task go.
#[derive(Debug, Clone)]
pub enum Route {
    /// Rows of task i are partition i.
    Forward,
    /// All rows are one partition, in order of tasks.
    Gather,
    /// Rows with equal keys go to the same one of `parts` partitions, in order of tasks.
    Hash {
        keys: Vec<Arc<dyn PhysicalExpr>>,
        parts: usize,
    },
    /// The rows of each task are cut into `parts` runs of equal length; in order of tasks.
    Deal { parts: usize },
    /// All rows of a task go to one of `parts` partitions, in order of tasks: the next one with each batch, so that
    /// small batches, which are one task, spread over the partitions.
    Turn {
        parts: usize,
        /// The time between two batches, in milliseconds.
        every_ms: u64,
    },
}

impl Route {
    /// The partition of the rows of task `task`, if that is the same for all of them.
    pub fn partition_of(&self, task: usize, batch: BatchTime) -> usize {
        match self {
            Route::Turn { parts, every_ms } => {
                let batches = batch.millis().checked_div(*every_ms).unwrap_or_default();
                (task + (batches % *parts as u64) as usize) % parts
            }
            Route::Forward | Route::Gather | Route::Hash { .. } | Route::Deal { .. } => 0,
        }
    }
}

/// The rows that a batch has for a state are taken in; what the state gives then is the dataset.
#[derive(Debug)]
pub struct StateStep {
    /// The number of the state in its context.
    pub state: usize,
    pub from: Slot,
    pub into: Slot,
    /// The batch times at which it takes rows in.
    pub input_at: Timetable,
    /// The batch times at which its dataset is read.
    pub at: Timetable,
    pub operator: Operator,
}

/// The rows of a dataset, which has the partitions of a state, get the values of their keys in it. Runs after the
/// state has installed its rows of the batch.
#[derive(Debug)]
pub struct ProbeStep {
    /// The number of the state in its context.
    pub state: usize,
    /// The rows.
    pub from: Slot,
    /// The dataset of the state's step, which must have run.
    pub after: Slot,
    pub into: Slot,
    pub probe: Probe,
    /// The batch times at which it runs.
    pub at: Timetable,
    pub operator: Operator,
}

/// A lookup in a state: the columns of its result, and the version that it reads.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Keys, values of the rows, values of the state.
    pub schema: SchemaRef,
    pub as_of: AsOf,
    /// Whether a column before the values of the state says if they are there.
    pub marked: bool,
}

/// What a state is: made when the graph is compiled.
#[derive(Debug, Clone)]
pub enum StateSpec {
    /// A state of the last batches.
    Window(Arc<WindowSpec>),
    /// A state of all batches.
    Keyed(Arc<KeyedSpec>),
    /// The rows of the last batches, as they are.
    History(Arc<HistorySpec>),
}

impl StateSpec {
    /// The columns of its dataset.
    pub fn dataset(&self) -> SchemaRef {
        match self {
            StateSpec::Window(window) => Arc::clone(&window.schema),
            StateSpec::Keyed(keyed) => keyed.dataset(),
            StateSpec::History(history) => history.dataset(),
        }
    }

    /// The time between two RDDs of its input, in milliseconds.
    pub fn every_ms(&self) -> u64 {
        match self {
            StateSpec::Window(window) => window.every_ms,
            StateSpec::Keyed(keyed) => keyed.every_ms,
            StateSpec::History(history) => history.every_ms,
        }
    }

    /// The name that the program gave it; optional for a window.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            StateSpec::Window(window) => window.name.as_deref(),
            StateSpec::Keyed(keyed) => Some(&keyed.name),
            StateSpec::History(history) => history.name.as_deref(),
        }
    }

    /// The name and columns by which a program can query the state while it runs.
    pub fn table(&self) -> Option<(&str, &SchemaRef)> {
        match self {
            StateSpec::Window(_) => None,
            StateSpec::Keyed(keyed) => Some((&keyed.name, &keyed.results)),
            StateSpec::History(history) => {
                Some((history.name.as_deref()?, history.table.as_ref()?))
            }
        }
    }

    /// The source streams of a state of the last batches.
    pub(crate) fn streams(&self) -> Option<&str> {
        match self {
            StateSpec::Window(window) => Some(&window.streams),
            StateSpec::History(history) => Some(&history.streams),
            StateSpec::Keyed(_) => None,
        }
    }

    /// The times that must not change between two runs, if it has some: but see [`StateSpec::times_may_change`].
    pub(crate) fn times(&self) -> Option<String> {
        match self {
            StateSpec::Window(_) => None,
            StateSpec::History(history) => match history.recall {
                Recall::ByTime { wait_ms, .. } => Some(format!("slack {wait_ms} ms")),
                _ => None,
            },
            StateSpec::Keyed(keyed) => match &keyed.update {
                Update::ByTime(of) => Some(format!(
                    "slack {} ms, final after {} ms",
                    of.rule.slack,
                    of.rule.final_at(0)
                )),
                Update::Within(within) => Some(format!(
                    "{} ms before to {} ms after, at most {} records of a key",
                    within.before_ms, within.after_ms, within.most
                )),
                Update::Sessions(op) => Some(op.rule.times()),
                Update::RunningFor { timeout_ms, .. } => Some(format!("timeout {timeout_ms} ms")),
                Update::Tracked { lifetime, .. } => Some(lifetime.describe()),
                Update::Running(_) => None,
            },
        }
    }

    /// Whether these times may change if no batch runs again: where what is stored does not depend on them.
    pub(crate) fn times_may_change(&self) -> bool {
        match self {
            StateSpec::Window(_) | StateSpec::History(_) => false,
            StateSpec::Keyed(keyed) => match &keyed.update {
                Update::Tracked { .. } | Update::RunningFor { .. } => true,
                Update::Running(_)
                | Update::ByTime(_)
                | Update::Within(_)
                | Update::Sessions(_) => false,
            },
        }
    }

    /// A description of its contents.
    pub(crate) fn contents(&self) -> String {
        match self {
            StateSpec::Window(window) => window.describe(),
            StateSpec::Keyed(keyed) => keyed.contents(),
            StateSpec::History(history) => history.contents(),
        }
    }
}

/// The specification of a keyed state.
pub struct KeyedSpec {
    pub name: String,
    pub keys: usize,
    /// Keys, then the stored values.
    pub schema: SchemaRef,
    /// Keys, then the results that a program reads, computed from the stored values.
    pub results: SchemaRef,
    pub(crate) update: Update,
    /// The views that its readers want.
    pub(crate) views: Views,
    /// The time between two RDDs of its input, in milliseconds.
    pub every_ms: u64,
}

debug_as!(KeyedSpec { name });

/// How the rows of a batch change a state.
pub(crate) enum Update {
    /// The rows are partial results.
    Running(AggPlan),
    /// The same; keys leave so long after the last batch in which they had any.
    RunningFor { plan: AggPlan, timeout_ms: u64 },
    /// The rows are partial results of intervals of event time.
    ByTime(ByTimeSpec),
    /// The rows are events.
    Tracked {
        tracker: Arc<dyn Tracker>,
        lifetime: Lifetime,
        /// The initial rows of the state, by partition.
        initial: Vec<Vec<RecordBatch>>,
    },
    /// A join of two streams over time.
    Within(Arc<WithinOp>),
    /// The rows are partial results of intervals of the stream in event time.
    Sessions(Arc<SessionOp>),
}

impl KeyedSpec {
    /// The columns of its dataset.
    pub fn dataset(&self) -> SchemaRef {
        self.views.schema()
    }

    /// The results that a program reads, from stored rows.
    pub(crate) fn results_of(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        match &self.update {
            Update::Running(plan) | Update::RunningFor { plan, .. } => {
                let mut results = Results {
                    keys: self.keys,
                    finish: plan.finish.clone(),
                    schema: Arc::clone(&self.results),
                };
                Ok(results.run(rows, 0, usize::MAX)?.0)
            }
            Update::ByTime(of) => {
                let mut results = VersionedResults::new(of, self.keys, &self.results);
                Ok(results.run(rows, 0, usize::MAX)?.0)
            }
            Update::Tracked { .. } | Update::Within(_) => Ok(rows.clone()),
            Update::Sessions(op) => {
                let mut each = EachSession {
                    op: Arc::clone(op),
                    schema: Arc::clone(&self.results),
                };
                Ok(each.run(rows, 0, usize::MAX)?.0)
            }
        }
    }

    /// A description of everything on which its state depends.
    pub(crate) fn describe(&self) -> String {
        format!("`{}`: {}", self.name, self.contents())
    }

    /// The same without its name, and without columns that earlier versions lacked.
    pub(crate) fn contents(&self) -> String {
        let keys = self.keys;
        match &self.update {
            Update::Running(plan) => {
                let (parts, schema) = plan.without_highs(&self.schema, keys);
                format!("{parts:?} by {keys} key(s), {:?}", fields(&schema))
            }
            Update::RunningFor { plan, .. } => {
                let (parts, fields) = (&plan.parts, fields(&self.schema));
                format!("{parts:?} by {keys} key column(s) with a timeout, {fields:?}")
            }
            Update::ByTime(of) => {
                let (parts, rule) = (&of.plan.parts, &of.rule);
                let over = match rule.panes() {
                    1 => String::new(),
                    _ => format!("over {} ms ", rule.over),
                };
                let (every, fields) = (rule.every, fields(&self.schema));
                format!(
                    "{parts:?} by event time {over}every {every} ms and {keys} column(s), {fields:?}"
                )
            }
            Update::Tracked { .. } => {
                format!("tracked by {keys} key(s), {:?}", fields(&self.schema))
            }
            Update::Within(_) => {
                format!("joined by {keys} key(s), {:?}", fields(&self.schema))
            }
            Update::Sessions(op) => {
                let (parts, fields) = (&op.plan.parts, fields(&self.schema));
                format!("{parts:?} by sessions and {keys} key column(s), {fields:?}")
            }
        }
    }

    /// The columns that are derived from others if an earlier version wrote the bytes: see [`AggPlan::highs`].
    pub(crate) fn highs(&self) -> Vec<(usize, usize)> {
        match &self.update {
            Update::Running(plan) => plan.highs(),
            // Its first version has all columns.
            Update::ByTime(_)
            | Update::RunningFor { .. }
            | Update::Tracked { .. }
            | Update::Within(_)
            | Update::Sessions(_) => Vec::new(),
        }
    }
}

/// The specification of a window.
#[derive(Clone)]
pub struct WindowSpec {
    /// The name from the program, if any.
    pub name: Option<String>,
    pub keys: usize,
    /// Keys, then the columns of each part of the aggregate.
    pub schema: SchemaRef,
    pub(crate) plan: AggPlan,
    /// The source streams of its records, which distinguish it from windows with the same contents.
    pub streams: String,
    /// The column of the parts with the number of records of a key.
    pub count: usize,
    pub length_ms: u64,
    /// The time between two RDDs of the window's input, in milliseconds.
    pub every_ms: u64,
}

debug_as!(WindowSpec { name });

impl WindowSpec {
    /// A description of everything on which its state depends, without columns that earlier versions lacked.
    pub(crate) fn describe(&self) -> String {
        let (keys, length, every) = (self.keys, self.length_ms, self.every_ms);
        let (parts, schema) = self.plan.without_highs(&self.schema, keys);
        let fields = fields(&schema);
        format!("{length} ms of {keys} key(s) every {every} ms, {fields:?}, {parts:?}")
    }
}

pub(super) fn fields(schema: &SchemaRef) -> Vec<String> {
    let fields = schema.fields().iter();
    fields
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect()
}
