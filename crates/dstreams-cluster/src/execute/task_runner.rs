//! [`TaskRunner`]: runs a worker's tasks on its plans, blocks and state.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, RwLockReadGuard};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use dstreams::internal::{
    BlockStore, Datasets, Partitions, Plans, ProbeStep, Slot, Stage, StateInstaller, States, Step,
    point, run_task,
};
use dstreams::{BatchTime, Operator};
use futures::{StreamExt, TryStreamExt};

use super::dataset_cache::DatasetCache;
use super::era::Era;
use super::tasks::TaskLog;
use crate::data::Peers;
use crate::plan::exchange::{in_order, lanes, tag};
use crate::plan::{
    CachedId, Exit, RunStep, Source, StepHeader, TaskSpec, TaskWork, Wire, due_rows, into,
};
use crate::retry::retryable;

/// The plans, blocks and state of a worker.
pub struct TaskRunner {
    pub plans: Arc<Plans>,
    pub states: States,
    pub store: Arc<BlockStore>,
    pub cache: DatasetCache,
    pub peers: Peers,
    /// The engine's tasks that run or have ended here.
    pub tasks: Arc<TaskLog>,
    /// Which runs may change the states.
    era: Era,
    config: SessionConfig,
    resources: Arc<RuntimeEnv>,
}

impl fmt::Debug for TaskRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskRunner")
    }
}

impl RunStep for TaskRunner {
    fn plans(&self) -> &Arc<Plans> {
        &self.plans
    }

    fn run(
        self: Arc<Self>,
        header: StepHeader,
        table: SendableRecordBatchStream,
        wires: Vec<(Wire, SendableRecordBatchStream)>,
        schema: SchemaRef,
    ) -> SendableRecordBatchStream {
        let columns = Arc::clone(&schema);
        let rows = async move {
            let rows = self.task(&header, table, wires, &columns).await?;
            Ok::<_, DataFusionError>(futures::stream::iter(rows.into_iter().map(Ok)))
        };
        let rows = futures::stream::once(rows).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

impl TaskRunner {
    pub fn new(
        plans: Arc<Plans>,
        rows_per_batch: usize,
        peers: Peers,
        (states, store): (States, BlockStore),
    ) -> Self {
        TaskRunner {
            plans,
            states,
            store: Arc::new(store),
            cache: DatasetCache::default(),
            peers,
            tasks: Arc::default(),
            era: Era::default(),
            config: SessionConfig::new().with_batch_size(rows_per_batch),
            resources: Arc::default(),
        }
    }

    async fn task(
        &self,
        header: &StepHeader,
        table: SendableRecordBatchStream,
        wires: Vec<(Wire, SendableRecordBatchStream)>,
        schema: &SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        let spec = task_of(table).await?;
        point("execute:task");
        let template = self.plans.of(header.many);
        let step = &template.steps[header.step];
        if header.work == TaskWork::Rebuild && self.has(step, spec.task, header.batch) {
            return self.leave(header, spec.task, vec![Vec::new()], schema);
        }
        let mut datasets = Gathered::default();
        for (wire, rows) in wires {
            let partition = if wire.whole {
                0
            } else {
                spec.task - wire.first
            };
            let mut rows: Vec<_> = rows.try_collect().await?;
            if wire.exchange {
                let lane = lanes(wire.parts)?[partition];
                rows = in_order(rows, lane)?;
            }
            datasets.add(wire.slot, partition, rows);
        }
        for read in &spec.reads {
            let mut held = Vec::with_capacity(read.slices.len());
            for slice in &read.slices {
                held.push(self.local_rows(&slice.part.source).await?);
            }
            let rows = self.peers.read(&read.slices, held).await?;
            datasets.add(read.slot, read.partition, rows);
        }
        let output = match (header.work, step) {
            (TaskWork::Hold, _) => vec![datasets.only()],
            (_, Step::State(window)) => {
                let delta = datasets.only();
                let takes_in = window.input_at.has(header.batch);
                if takes_in && header.work != TaskWork::Rebuild {
                    // For the standby, which installs it after the batch.
                    self.cache_partition(header, window.from, spec.task, &delta)?;
                }
                let due = header.work == TaskWork::Step && window.at.has(header.batch);
                let at = window.state;
                // Closures of the program may run in it.
                let installed = catch_unwind(AssertUnwindSafe(|| {
                    // Until its rows are read. I6, and lock order L5 (ARCHITECTURE.md).
                    let _change = self.change(header)?;
                    if takes_in {
                        let (batch, before) = (header.batch, header.before);
                        self.states.install(at, spec.task, batch, before, &delta)?;
                    }
                    point("state:installed");
                    due.then(|| self.states.read(at, spec.task)).transpose()
                }));
                let rows = installed.map_err(|panic| panicked(&window.operator, &*panic))?;
                let rows = rows.map_err(|error| error.of(&window.operator))?;
                vec![rows.unwrap_or_default()]
            }
            (_, Step::Probe(step)) => {
                let rows = datasets.take(step.from);
                let probed = catch_unwind(AssertUnwindSafe(|| {
                    self.probe(header, step, spec.task, &rows)
                }));
                let rows = probed.map_err(|panic| panicked(&step.operator, &*panic))?;
                vec![rows.map_err(|error| error.of(&step.operator))?]
            }
            (_, Step::Run(stage)) => {
                let datasets = datasets.into_datasets(header.batch, template.slots);
                self.stage(stage, spec.task, datasets, header).await?
            }
        };
        let left = self.leave(header, spec.task, output, schema);
        point("execute:done");
        left
    }

    /// Whether a partition of the step's state has the batch.
    fn has(&self, step: &Step, partition: usize, batch: BatchTime) -> bool {
        let Step::State(step) = step else {
            return false;
        };
        self.states.version_of(step.state, partition) >= Some(batch)
    }

    /// Rejects changes by tasks of runs before this era from now on. Does not wait for those in progress: see
    /// [`wait_for_older_runs`](Self::wait_for_older_runs).
    pub fn invalidate(&self, era: u32) {
        self.era.begin(era);
    }

    /// Waits for changes by tasks of runs before this era, which may take as long as closures of the program do.
    pub fn wait_for_older_runs(&self) {
        self.era.wait_for_older();
    }

    /// Begins a change of the states, unless they were rebuilt since this run began.
    fn change(&self, header: &StepHeader) -> dstreams::Result<RwLockReadGuard<'_, ()>> {
        self.era.change(header.era).ok_or_else(|| {
            retryable(format!(
                "states were rebuilt since this run of batch {} began",
                header.batch
            ))
        })
    }

    fn probe(
        &self,
        header: &StepHeader,
        step: &ProbeStep,
        partition: usize,
        rows: &[RecordBatch],
    ) -> dstreams::Result<Vec<RecordBatch>> {
        // Lock order L5 (ARCHITECTURE.md).
        let _change = self.change(header)?;
        let states = &self.states;
        states.probe(step.state, partition, header.batch, &step.probe, rows)
    }

    async fn stage(
        &self,
        stage: &Stage,
        task: usize,
        datasets: Datasets,
        header: &StepHeader,
    ) -> Result<Vec<Vec<RecordBatch>>> {
        let config = self.config.clone().with_extension(Arc::new(datasets));
        let context = TaskContext::new(
            None,
            header.batch.millis().to_string(),
            config,
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            Arc::clone(&self.resources),
        );
        // Joins keep their build side, and metrics grow with each execution: reset both.
        let plan = reset_plan_states(Arc::clone(&stage.plan))?;
        // A panic in an operator is an error of the program, not of the engine.
        let (context, route) = (Arc::new(context), stage.route.clone());
        let run = run_task(plan, task, context, route, header.batch);
        let run = AssertUnwindSafe(run);
        match futures::FutureExt::catch_unwind(run).await {
            Ok(rows) => Ok(rows.map_err(|error| error.of(&stage.operator))?),
            Err(panic) => Err(panicked(&stage.operator, &*panic).into()),
        }
    }

    /// Passes on, tags or caches a task's rows, as the step's exit says.
    fn leave(
        &self,
        header: &StepHeader,
        task: usize,
        output: Vec<Vec<RecordBatch>>,
        schema: &SchemaRef,
    ) -> Result<Vec<RecordBatch>> {
        match header.exit {
            Exit::Pass => Ok(output.into_iter().flatten().collect()),
            Exit::Exchange => {
                let lanes = lanes(output.len())?;
                let mut tagged = Vec::new();
                for (rows, lane) in output.iter().zip(lanes.iter()) {
                    for rows in rows {
                        tagged.push(tag(&compact(rows)?, schema, task as u32, *lane)?);
                    }
                }
                Ok(tagged)
            }
            Exit::Keep => {
                let slot = into(&self.plans.of(header.many).steps[header.step]);
                let rows: Vec<_> = output.into_iter().flatten().collect();
                self.cache_partition(header, slot, task, &rows)?;
                Ok(Vec::new())
            }
        }
    }

    /// Caches a partition until the batch is forgotten.
    fn cache_partition(
        &self,
        header: &StepHeader,
        slot: Slot,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<()> {
        let id = CachedId {
            batch: header.batch,
            attempt: header.attempt,
            slot: slot.0,
            partition,
        };
        let rows = rows.iter().map(compact).collect::<Result<Vec<_>>>()?;
        self.cache.insert(id, rows);
        Ok(())
    }

    /// The rows of a source, if they are on this worker.
    pub async fn local_rows(&self, source: &Source) -> dstreams::Result<Option<Vec<RecordBatch>>> {
        Ok(match source {
            Source::Block(id) => {
                let block = self.store.fetch(*id).await?;
                block.map(|block| block.batches.clone())
            }
            Source::Kept(id) => self.cache.get(id).map(|rows| rows.to_vec()),
            Source::State {
                state,
                partition,
                batch,
            } => {
                point("state:read");
                Some(self.states.table(*state, *partition, *batch)?)
            }
            Source::Due { partition, after } => {
                let due = self.states.due(*partition, *after);
                Some(due.map(due_rows).transpose()?.into_iter().collect())
            }
        })
    }
}

/// Datasets of a task, by slot and partition.
#[derive(Default)]
struct Gathered(BTreeMap<usize, BTreeMap<usize, Vec<RecordBatch>>>);

impl Gathered {
    fn add(&mut self, slot: usize, partition: usize, rows: Vec<RecordBatch>) {
        self.0.entry(slot).or_default().insert(partition, rows);
    }

    /// The rows of the only dataset.
    fn only(self) -> Vec<RecordBatch> {
        let rows = self.0.into_values().flat_map(BTreeMap::into_values);
        rows.flatten().collect()
    }

    /// The rows of one dataset.
    fn take(&mut self, slot: Slot) -> Vec<RecordBatch> {
        let partitions = self.0.remove(&slot.0).into_iter();
        partitions
            .flat_map(BTreeMap::into_values)
            .flatten()
            .collect()
    }

    fn into_datasets(self, batch: BatchTime, slots: usize) -> Datasets {
        let datasets = Datasets::new(batch, slots);
        for (slot, partitions) in self.0 {
            let last = partitions.keys().last().copied().unwrap_or_default();
            let mut all = vec![Vec::new(); last + 1];
            for (partition, rows) in partitions {
                all[partition] = rows;
            }
            let all: Partitions = Arc::new(all);
            datasets.set(Slot(slot), all);
        }
        datasets
    }
}

/// Parses this task's row of the task table.
async fn task_of(mut table: SendableRecordBatchStream) -> Result<TaskSpec> {
    while let Some(rows) = table.next().await {
        let rows = rows?;
        let Some(column) = rows.column(0).as_binary_opt::<i32>() else {
            break;
        };
        if let [Some(bytes)] = column.iter().collect::<Vec<_>>()[..] {
            return TaskSpec::parse(bytes)
                .map_err(|error| DataFusionError::External(Box::new(error)));
        }
    }
    internal_err!("a task without its row of the task table, or with several")
}

/// The same rows; texts move to buffers of their own if theirs contain much else.
pub fn compact(rows: &RecordBatch) -> Result<RecordBatch> {
    let wasteful = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => {
            let held: usize = column
                .as_string_view()
                .data_buffers()
                .iter()
                .map(|b| b.len())
                .sum();
            held > 2 * column.as_string_view().total_buffer_bytes_used() + 4096
        }
        DataType::BinaryView => !column.as_binary_view().data_buffers().is_empty(),
        _ => false,
    };
    match rows.columns().iter().any(wasteful) {
        true => Ok(dstreams::internal::compact(rows)?),
        false => Ok(rows.clone()),
    }
}

fn panicked(operator: &Operator, panic: &(dyn std::any::Any + Send)) -> dstreams::Error {
    dstreams::Error::Panic {
        operator: operator.clone(),
        message: panic_message(panic),
    }
}

/// The message of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "a panic without a message".into(),
    }
}
