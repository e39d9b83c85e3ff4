//! [`StepExec`]: a step of a template as a node of the engine's plans.
//!
//! Every process compiles the same program to the same templates, so a plan only names its steps and
//! contains no closure and no expression: nothing that the engine's optimiser could rewrite. The first
//! child is the task table, one row for each task; the others are exchanges or steps below, whose
//! partition i belongs to task i.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, Partitioning,
    PlanProperties,
};
use dstreams::internal::{Plans, PreviousBatch, Step};
use dstreams_control::BatchTime;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::exchange::with_lanes;

/// The step, its batch, and the destination of its rows. This is the wire format of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepHeader {
    pub batch: BatchTime,
    /// The batch before it, if that is known.
    pub before: Option<PreviousBatch>,
    pub attempt: u32,
    /// Number of times that states had been rebuilt when its run began.
    pub era: u32,
    /// Whether it belongs to the template for several tasks.
    pub many: bool,
    /// Its index in the template.
    pub step: usize,
    pub work: TaskWork,
    pub exit: Exit,
    /// The children after the first.
    pub wires: Vec<Wire>,
}

/// The work of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskWork {
    /// It runs the step.
    Step,
    /// It runs a step on a state, and reads nothing of it.
    Install,
    /// The same while lost state is rebuilt: a state that has the batch stays as it is.
    Rebuild,
    /// It only receives its partition of the step's dataset from an exchange.
    Hold,
}

/// The destination of a step's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// They go to the step above in the same task.
    Pass,
    /// They go through an exchange.
    Exchange,
    /// The worker caches them, to be fetched.
    Keep,
}

/// A child whose rows are a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    pub slot: usize,
    /// Whether it is an exchange, with lanes in its rows.
    pub exchange: bool,
    /// The task that reads its first partition.
    pub first: usize,
    /// Number of its partitions.
    pub parts: usize,
    /// Whether every task reads all of its one partition.
    pub whole: bool,
}

/// Where a task runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Workers with its input, best first.
    pub prefer: Vec<String>,
    /// Further workers with its input.
    pub replicas: Vec<String>,
    /// Set if it may run nowhere else, and only once the gate is open.
    pub only: Option<Gate>,
}

impl Place {
    /// Only on `worker`, once the gate is open.
    pub fn only(worker: &str, gate: &Gate) -> Self {
        Place {
            prefer: vec![worker.to_owned()],
            replicas: Vec::new(),
            only: Some(gate.clone()),
        }
    }
}

/// Whether the state is there on which the tasks of a batch start.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    pub async fn opened(&self) {
        // Cannot fail: `self` owns the sender.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// Runs steps on a worker. The master only builds plans, and has none.
pub trait RunStep: fmt::Debug + Send + Sync {
    /// The plans of the program.
    fn plans(&self) -> &Arc<Plans>;

    /// Runs one task of a step; `table` describes the task.
    fn run(
        self: Arc<Self>,
        header: StepHeader,
        table: SendableRecordBatchStream,
        wires: Vec<(Wire, SendableRecordBatchStream)>,
        schema: SchemaRef,
    ) -> SendableRecordBatchStream;
}

/// A step of a template as a node of the engine's physical plan.
#[derive(Debug)]
pub struct StepExec {
    pub header: StepHeader,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// On the master: where each task should run.
    pub places: Arc<Vec<Place>>,
    /// On a worker: runs the tasks.
    site: Option<Arc<dyn RunStep>>,
    properties: Arc<PlanProperties>,
}

/// The columns of a step that caches its rows; its output is empty.
fn receipt() -> SchemaRef {
    let field = Field::new("rows", DataType::UInt64, false);
    Arc::new(Schema::new(vec![field]))
}

impl StepExec {
    pub fn new(
        header: StepHeader,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        plans: &Plans,
        places: Arc<Vec<Place>>,
        site: Option<Arc<dyn RunStep>>,
    ) -> Result<Self> {
        let Some(step) = plans.of(header.many).steps.get(header.step) else {
            return internal_err!("there is no step {}: different programs?", header.step);
        };
        let rows = match step {
            Step::Run(stage) => stage.plan.schema(),
            Step::State(window) => plans.states[window.state].dataset(),
            Step::Probe(probe) => probe.probe.schema.clone(),
        };
        let schema = match header.exit {
            Exit::Pass => rows,
            Exit::Exchange => with_lanes(&rows),
            Exit::Keep => receipt(),
        };
        Self::with_schema(header, inputs, schema, places, site)
    }

    fn with_schema(
        header: StepHeader,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        schema: SchemaRef,
        places: Arc<Vec<Place>>,
        site: Option<Arc<dyn RunStep>>,
    ) -> Result<Self> {
        if inputs.len() != header.wires.len() + 1 {
            return internal_err!("a step with {} children", inputs.len());
        }
        let tasks = inputs[0]
            .properties()
            .output_partitioning()
            .partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(tasks),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(StepExec {
            header,
            inputs,
            places,
            site,
            properties: Arc::new(properties),
        })
    }
}

impl DisplayAs for StepExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let StepHeader { step, exit, .. } = &self.header;
        write!(f, "StepExec: step={step}, exit={exit:?}")
    }
}

impl ExecutionPlan for StepExec {
    fn name(&self) -> &str {
        "StepExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    /// Marks children that every task reads whole: the engine cuts the others to the task's share.
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let wires = self.header.wires.iter().map(|wire| match wire.whole {
            true => Distribution::SinglePartition,
            false => Distribution::UnspecifiedDistribution,
        });
        InputDistributionRequirements::new(
            std::iter::once(Distribution::UnspecifiedDistribution)
                .chain(wires)
                .collect(),
        )
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
    }

    fn with_new_children(
        self: Arc<Self>,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::with_schema(
            self.header.clone(),
            inputs,
            self.schema(),
            Arc::clone(&self.places),
            self.site.clone(),
        )?))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(site) = &self.site else {
            return internal_err!("a step runs on workers only");
        };
        let tables = self.inputs[0].execute(partition, Arc::clone(&context))?;
        let mut wires = Vec::new();
        for (wire, input) in self.header.wires.iter().zip(&self.inputs[1..]) {
            let partition = if wire.whole { 0 } else { partition };
            wires.push((*wire, input.execute(partition, Arc::clone(&context))?));
        }
        let run = Arc::clone(site).run(self.header.clone(), tables, wires, self.schema());
        Ok(run)
    }
}
