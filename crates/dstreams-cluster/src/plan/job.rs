//! [`Job`]: a plan for the engine, bound to the blocks of a batch.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use dstreams::Result;
use dstreams::internal::{Plans, PreviousBatch, Read, Step, Template};
use dstreams_control::BatchTime;

use super::exchange::LANE;
use super::shape::{Delivery, Group, Shape, into, parts_of, route};
use super::step::{Exit, Gate, Place, StepExec, StepHeader, TaskWork, Wire};
use super::task::{CachedId, ReadSpec, Slice, Source, TaskSpec};

type Plan = Arc<dyn ExecutionPlan>;

/// The batch, inputs and workers to which a job is bound.
pub struct Binding<'a> {
    pub plans: &'a Plans,
    pub many: bool,
    pub batch: BatchTime,
    /// The batch before it, if that is known.
    pub before: Option<PreviousBatch>,
    pub attempt: u32,
    /// Whether it is run for lost state, which is rebuilt.
    pub rebuilds: bool,
    pub era: u32,
    /// The rows that each task reads, for each input.
    pub inputs: &'a [Vec<Vec<Slice>>],
    /// The primary of each partition of state; empty if there is no state.
    pub primaries: &'a [String],
    /// Opens when the primaries have the state on which the batch starts.
    pub gate: &'a Gate,
    /// Addresses of the workers that cache each partition of a dataset.
    pub cached_at: &'a HashMap<(usize, usize), String>,
    /// Names of the workers at the addresses.
    pub names: &'a HashMap<String, String>,
}

/// A plan, and the dataset and partition of each partition of its output.
pub struct Job {
    pub plan: Plan,
    pub outputs: Vec<(usize, usize)>,
}

impl Job {
    /// The job that computes and caches the datasets of these steps.
    pub fn new(shape: &Shape, roots: &[usize], binding: &Binding<'_>) -> Result<Self> {
        let builder = Builder { shape, binding };
        let mut plans = Vec::new();
        let mut outputs = Vec::new();
        for root in roots {
            let step = &builder.template().steps[*root];
            let slot = into(step).0;
            let parts = parts_of(step, &shape.groups[root]);
            outputs.extend((0..parts).map(|partition| (slot, partition)));
            plans.extend(builder.cached_plans(*root)?);
        }
        let plan = match plans.len() {
            1 => plans.swap_remove(0),
            _ => UnionExec::try_new(plans)?,
        };
        Ok(Job { plan, outputs })
    }
}

struct Builder<'a> {
    shape: &'a Shape,
    binding: &'a Binding<'a>,
}

impl Builder<'_> {
    fn template(&self) -> &Template {
        self.binding.plans.of(self.binding.many)
    }

    /// Plans that compute and cache the partitions of the step's dataset.
    fn cached_plans(&self, at: usize) -> Result<Vec<Plan>> {
        let step = &self.template().steps[at];
        let Some(parts) = route(step) else {
            return self.step(at, Exit::Keep);
        };
        let wire = Wire {
            slot: into(step).0,
            exchange: true,
            first: 0,
            parts,
            whole: false,
        };
        let tasks: Vec<TaskSpec> = (0..parts).map(TaskSpec::number).collect();
        let places = vec![Place::default(); parts];
        let exchange = self.exchange(at, parts)?;
        let header = self.header(at, TaskWork::Hold, Exit::Keep, vec![wire]);
        Ok(vec![self.exec(header, tasks, places, vec![exchange])?])
    }

    /// Plans whose partitions are the tasks of a step, in their order.
    fn step(&self, at: usize, exit: Exit) -> Result<Vec<Plan>> {
        let groups = self.shape.groups[&at].iter();
        groups.map(|group| self.group(at, group, exit)).collect()
    }

    fn group(&self, at: usize, group: &Group, exit: Exit) -> Result<Plan> {
        let step = &self.template().steps[at];
        let mut tasks: Vec<TaskSpec> = (0..group.tasks)
            .map(|task| TaskSpec::number(group.first + task))
            .collect();
        let mut places = vec![Place::default(); group.tasks];
        let (mut wires, mut children) = (Vec::new(), Vec::new());
        for read in &group.reads {
            let slot = read.slot.0;
            let way = self.shape.ways[slot];
            let (Some(maker), Some(Delivery::Pass | Delivery::Exchange)) =
                (self.shape.makers[slot], way)
            else {
                self.reference(read, &mut tasks, &mut places);
                continue;
            };
            let exchange = way == Some(Delivery::Exchange);
            let parts = parts_of(&self.template().steps[maker], &self.shape.groups[&maker]);
            wires.push(Wire {
                slot,
                exchange,
                first: group.first,
                parts,
                whole: read.whole,
            });
            children.push(match exchange {
                true => self.exchange(maker, parts)?,
                false => union(self.step(maker, Exit::Pass)?)?,
            });
        }
        if needs_state(step) {
            for (place, primary) in places.iter_mut().zip(self.binding.primaries) {
                *place = Place::only(primary, self.binding.gate);
            }
        }
        for wire in &wires {
            // A task above one that is bound to a worker runs there too.
            if let (false, Some(maker)) = (wire.exchange, self.shape.makers[wire.slot])
                && needs_state(&self.template().steps[maker])
            {
                for (place, primary) in places.iter_mut().zip(self.binding.primaries) {
                    *place = Place::only(primary, self.binding.gate);
                }
            }
        }
        let work = match (self.shape.unread.contains(&at), self.binding.rebuilds) {
            (false, _) => TaskWork::Step,
            (true, false) => TaskWork::Install,
            (true, true) => TaskWork::Rebuild,
        };
        let header = self.header(at, work, exit, wires);
        self.exec(header, tasks, places, children)
    }

    /// Adds reads of rows stored on workers: blocks, and datasets that an earlier job cached.
    fn reference(&self, read: &Read, tasks: &mut [TaskSpec], places: &mut [Place]) {
        let slot = read.slot.0;
        for (at, (task, place)) in tasks.iter_mut().zip(places).enumerate() {
            let partition = read.partition + if read.whole { 0 } else { at };
            let input = self.binding.inputs.get(slot);
            let slices = match (self.shape.ways[slot], input) {
                (Some(Delivery::Input), Some(input)) => input[partition].clone(),
                _ => self.cached_slice(slot, partition).into_iter().collect(),
            };
            for (first, address) in slices.iter().flat_map(|slice| (0..).zip(&slice.at)) {
                let of = if first == 0 {
                    &mut place.prefer
                } else {
                    &mut place.replicas
                };
                if let Some(name) = self.binding.names.get(address)
                    && !of.contains(name)
                {
                    of.push(name.clone());
                }
            }
            task.reads.push(ReadSpec {
                slot,
                partition,
                slices,
            });
        }
    }

    fn cached_slice(&self, slot: usize, partition: usize) -> Option<Slice> {
        let cached_at = self.binding.cached_at.get(&(slot, partition))?;
        let source = Source::Kept(CachedId {
            batch: self.binding.batch,
            attempt: self.binding.attempt,
            slot,
            partition,
        });
        Some(Slice {
            part: source.into(),
            at: vec![cached_at.clone()],
        })
    }

    fn exchange(&self, maker: usize, parts: usize) -> Result<Plan> {
        let input = union(self.step(maker, Exit::Exchange)?)?;
        let lane = input.schema().fields().len() - 1;
        let lane = Arc::new(Column::new(LANE, lane));
        let by = Partitioning::Hash(vec![lane], parts);
        Ok(Arc::new(RepartitionExec::try_new(input, by)?))
    }

    fn header(&self, step: usize, work: TaskWork, exit: Exit, wires: Vec<Wire>) -> StepHeader {
        StepHeader {
            batch: self.binding.batch,
            before: self.binding.before,
            attempt: self.binding.attempt,
            era: self.binding.era,
            many: self.binding.many,
            step,
            work,
            exit,
            wires,
        }
    }

    fn exec(
        &self,
        header: StepHeader,
        tasks: Vec<TaskSpec>,
        places: Vec<Place>,
        children: Vec<Plan>,
    ) -> Result<Plan> {
        let mut inputs = vec![table(&tasks)?];
        inputs.extend(children);
        let plans = self.binding.plans;
        let exec = StepExec::new(header, inputs, plans, Arc::new(places), None)?;
        Ok(Arc::new(exec))
    }
}

/// Whether a step runs on the primaries of a state only.
fn needs_state(step: &Step) -> bool {
    matches!(step, Step::State(_) | Step::Probe(_))
}

fn union(mut plans: Vec<Plan>) -> Result<Plan> {
    Ok(match plans.len() {
        1 => plans.swap_remove(0),
        _ => UnionExec::try_new(plans)?,
    })
}

/// The task table: one partition with one row for each task.
fn table(tasks: &[TaskSpec]) -> Result<Plan> {
    let schema = table_schema();
    let mut partitions = Vec::with_capacity(tasks.len());
    for task in tasks {
        let column: ArrayRef = Arc::new(BinaryArray::from_iter_values([task.to_bytes()]));
        partitions.push(vec![RecordBatch::try_new(
            Arc::clone(&schema),
            vec![column],
        )?]);
    }
    Ok(MemorySourceConfig::try_new_exec(&partitions, schema, None)?)
}

fn table_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(
        "task",
        DataType::Binary,
        false,
    )]))
}
