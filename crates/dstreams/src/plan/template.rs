//! A template: what is done for each batch, in order.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::datasets::Slot;
use crate::error::Operator;
use crate::stream::agg::AggPlan;

/// The steps of a batch. A step reads slots that earlier steps fill.
pub struct Template {
    /// Slots of the inputs, by their place among the sources.
    pub inputs: Vec<Slot>,
    pub steps: Vec<Step>,
    /// For each output of the graph: its dataset, and at which multiples of milliseconds.
    pub outputs: Vec<(Slot, u64)>,
    pub slots: usize,
}

/// One step.
pub enum Step {
    Run(Stage),
    Window(WindowStep),
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

/// Where the rows of a task go.
#[derive(Clone)]
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

/// Partial results of a batch enter a window; what the window holds then is the dataset.
pub struct WindowStep {
    /// Number of the window in its context.
    pub window: usize,
    pub from: Slot,
    pub into: Slot,
    /// The window's dataset is read at multiples of this, in milliseconds.
    pub slide_ms: u64,
    pub operator: Operator,
}

/// What a window holds: made when the graph is compiled.
#[derive(Clone)]
pub struct WindowSpec {
    pub keys: usize,
    /// Keys, then one column for each part of the aggregate.
    pub schema: SchemaRef,
    pub(crate) plan: AggPlan,
    /// Which part counts the records of a key.
    pub count: usize,
    pub length_ms: u64,
    /// Time between two RDDs of the window's input, in milliseconds.
    pub every_ms: u64,
}

impl WindowSpec {
    /// What its state depends on, in words.
    pub(crate) fn describe(&self) -> String {
        let (keys, length, every) = (self.keys, self.length_ms, self.every_ms);
        let fields: Vec<_> = (self.schema.fields().iter())
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        let parts = &self.plan.parts;
        format!("{length} ms of {keys} key(s) every {every} ms, {fields:?}, {parts:?}")
    }
}
