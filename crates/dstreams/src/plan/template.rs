//! A template: what is done for each batch, in order.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::aggregate::Results;
use super::datasets::Slot;
use super::state_views::Views;
use crate::debug::debug_as;
use crate::error::{Operator, Result};
use crate::stream::agg::AggPlan;
use crate::stream::rows::RowsTask;
use crate::stream::tracker::Tracker;

/// The steps of a batch. A step reads slots that earlier steps fill.
pub struct Template {
    /// Slots of the inputs, by their place among the sources.
    pub inputs: Vec<Slot>,
    pub steps: Vec<Step>,
    /// For each output of the graph: its dataset, and at which multiples of milliseconds.
    pub outputs: Vec<(Slot, u64)>,
    pub slots: usize,
}

debug_as!(Template { slots });

/// One step.
#[derive(Debug)]
pub enum Step {
    Run(Stage),
    /// A state takes in what the batch has for it.
    State(StateStep),
}

/// A plan that runs as `tasks` tasks; task i executes partition i.
pub struct Stage {
    pub plan: Arc<dyn ExecutionPlan>,
    pub tasks: usize,
    /// Whether each task needs a copy of the plan: nodes in it keep state from one partition to
    /// the next.
    pub copies: bool,
    pub route: Route,
    pub into: Slot,
    /// Runs at batch times that are multiples of this, in milliseconds.
    pub slide_ms: u64,
    pub operator: Operator,
}

debug_as!(Stage { tasks, operator });

/// Where the rows of a task go.
#[derive(Debug, Clone)]
pub enum Route {
    /// Rows of task i are partition i.
    Keep,
    /// All rows are one partition, in order of tasks.
    Gather,
    /// Rows with equal keys go to the same one of `parts` partitions, in order of tasks.
    Hash {
        keys: Vec<Arc<dyn PhysicalExpr>>,
        parts: usize,
    },
}

/// The rows that a batch has for a state are taken in; what the state gives then is the dataset.
#[derive(Debug)]
pub struct StateStep {
    /// Number of the state in its context.
    pub state: usize,
    pub from: Slot,
    pub into: Slot,
    /// Its dataset is read at multiples of this, in milliseconds.
    pub slide_ms: u64,
    pub operator: Operator,
}

/// What a state is: made when the graph is compiled.
#[derive(Debug, Clone)]
pub enum StateSpec {
    /// Of the last batches.
    Window(Arc<WindowSpec>),
    /// Of all batches.
    Keyed(Arc<KeyedSpec>),
}

impl StateSpec {
    /// Columns of the dataset that it gives.
    pub fn dataset(&self) -> SchemaRef {
        match self {
            StateSpec::Window(window) => Arc::clone(&window.schema),
            StateSpec::Keyed(keyed) => keyed.dataset(),
        }
    }

    /// Time between two RDDs of its input, in milliseconds.
    pub fn every_ms(&self) -> u64 {
        match self {
            StateSpec::Window(window) => window.every_ms,
            StateSpec::Keyed(keyed) => keyed.every_ms,
        }
    }

    /// The name that the program gave it, which a window need not have.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            StateSpec::Window(window) => window.name.as_deref(),
            StateSpec::Keyed(keyed) => Some(&keyed.name),
        }
    }

    /// What a program can ask while it runs: the name that it gave the state, and the columns.
    pub fn table(&self) -> Option<(&str, &SchemaRef)> {
        match self {
            StateSpec::Window(_) => None,
            StateSpec::Keyed(keyed) => Some((&keyed.name, &keyed.results)),
        }
    }

    /// The streams that a window is of.
    pub(crate) fn streams(&self) -> Option<&str> {
        match self {
            StateSpec::Window(window) => Some(&window.streams),
            StateSpec::Keyed(_) => None,
        }
    }

    /// What it holds, in words.
    pub(crate) fn holds(&self) -> String {
        match self {
            StateSpec::Window(window) => window.describe(),
            StateSpec::Keyed(keyed) => keyed.holds(),
        }
    }
}

/// What a keyed state holds.
pub struct KeyedSpec {
    pub name: String,
    pub keys: usize,
    /// Keys, then the values that are held.
    pub schema: SchemaRef,
    /// Keys, then what a program reads: results that follow from these.
    pub results: SchemaRef,
    pub(crate) update: Update,
    /// What its readers want of it.
    pub(crate) views: Views,
    /// Time between two RDDs of its input, in milliseconds.
    pub every_ms: u64,
}

debug_as!(KeyedSpec { name });

/// How the rows of a batch change a state.
pub(crate) enum Update {
    /// They are partial results.
    Running(AggPlan),
    /// They are events.
    Tracked {
        tracker: Arc<dyn Tracker>,
        timeout_ms: Option<u64>,
        /// Rows that the state begins with, by partition.
        initial: Vec<Vec<RecordBatch>>,
    },
}

impl KeyedSpec {
    /// Columns of the dataset that it gives.
    pub fn dataset(&self) -> SchemaRef {
        self.views.schema()
    }

    /// What a program reads of rows that are held.
    pub(crate) fn results_of(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        match &self.update {
            Update::Running(plan) => {
                let mut results = Results {
                    keys: self.keys,
                    finish: plan.finish.clone(),
                    schema: Arc::clone(&self.results),
                };
                Ok(results.run(rows, 0, usize::MAX)?.0)
            }
            Update::Tracked { .. } => Ok(rows.clone()),
        }
    }

    /// What its state depends on, in words.
    pub(crate) fn describe(&self) -> String {
        format!("`{}`: {}", self.name, self.holds())
    }

    /// The same, without its name; and without columns that earlier versions did not hold.
    pub(crate) fn holds(&self) -> String {
        let keys = self.keys;
        match &self.update {
            Update::Running(plan) => {
                let (parts, schema) = plan.without_highs(&self.schema, keys);
                format!("{parts:?} by {keys} key(s), {:?}", fields(&schema))
            }
            Update::Tracked { .. } => {
                format!("tracked by {keys} key(s), {:?}", fields(&self.schema))
            }
        }
    }

    /// The columns that follow from others where bytes are of earlier versions: see [`AggPlan::highs`].
    pub(crate) fn highs(&self) -> Vec<(usize, usize)> {
        match &self.update {
            Update::Running(plan) => plan.highs(),
            Update::Tracked { .. } => Vec::new(),
        }
    }
}

/// What a window holds.
#[derive(Clone)]
pub struct WindowSpec {
    /// The name that the program gave it, if it did.
    pub name: Option<String>,
    pub keys: usize,
    /// Keys, then the columns of each part of the aggregate.
    pub schema: SchemaRef,
    pub(crate) plan: AggPlan,
    /// The streams that its records come from: what tells it from others that hold the same.
    pub streams: String,
    /// Which column of the parts counts the records of a key.
    pub count: usize,
    pub length_ms: u64,
    /// Time between two RDDs of the window's input, in milliseconds.
    pub every_ms: u64,
}

debug_as!(WindowSpec { name });

impl WindowSpec {
    /// What its state depends on, in words; without columns that earlier versions did not hold.
    pub(crate) fn describe(&self) -> String {
        let (keys, length, every) = (self.keys, self.length_ms, self.every_ms);
        let (parts, schema) = self.plan.without_highs(&self.schema, keys);
        let fields = fields(&schema);
        format!("{length} ms of {keys} key(s) every {every} ms, {fields:?}, {parts:?}")
    }
}

fn fields(schema: &SchemaRef) -> Vec<String> {
    let fields = schema.fields().iter();
    fields
        .map(|field| format!("{} {}", field.name(), field.data_type()))
        .collect()
}
