//! [`Shape`]: how the due steps of a template become jobs.
//!
//! A dataset with one reader stays inside a job: rows go to the step above in the same task, or
//! through an exchange. A dataset with several readers, or of an output, is computed once and cached
//! by its workers, and later jobs read it from there. So there is one job per level of cached
//! datasets, usually one in all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use dstreams::internal::{Plans, Read, Route, Slot, Step, Template};
use dstreams::{Error, Result};
use dstreams_control::BatchTime;

/// How the rows of a dataset reach their readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// They are read from blocks.
    Input,
    /// To the step above, in the same task.
    Pass,
    /// Through an exchange.
    Exchange,
    /// They are cached by the worker that made them; after an exchange, if the step has one.
    Cache,
}

/// Tasks of a step that read the same datasets in the same way.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The first task.
    pub first: usize,
    pub tasks: usize,
    /// Reads of the first task. Of a dataset that is not read whole, the next task reads the next
    /// partition.
    pub reads: Vec<Read>,
}

/// The jobs of a batch: how the due steps of a template are combined.
#[derive(Debug)]
pub struct Shape {
    /// How the dataset of each slot is read; `None` if it is not computed.
    pub ways: Vec<Option<Delivery>>,
    /// The step that fills each slot.
    pub makers: Vec<Option<usize>>,
    /// The tasks of each step that is due.
    pub groups: BTreeMap<usize, Vec<Group>>,
    /// Steps whose rows nobody reads, on states, in a batch that is run for these alone.
    pub unread: BTreeSet<usize>,
    /// For each job, the steps whose datasets are cached.
    pub jobs: Vec<Vec<usize>>,
}

/// The shapes so far, by the steps that are due.
#[derive(Default)]
pub struct Shapes(Mutex<HashMap<Due, Arc<Shape>>>);

/// Whether there are several tasks, whether it is for the states alone, and which steps and outputs are due.
type Due = (bool, bool, Vec<bool>);

impl Shapes {
    /// The shape of a batch, and whether it is new; with the steps that states need, if it is for these alone.
    pub fn of(
        &self,
        plans: &Plans,
        (many, states_alone): (bool, bool),
        batch: BatchTime,
    ) -> Result<(Arc<Shape>, bool)> {
        let template = plans.of(many);
        let steps = template.steps.iter().map(|step| match step {
            Step::Run(stage) => stage.at,
            Step::State(state) => state.at,
            Step::Probe(probe) => probe.at,
        });
        let timetables = steps.chain(template.outputs.iter().map(|(_, at)| *at));
        let due = timetables.map(|at| at.has(batch)).collect();
        let key = (many, states_alone, due);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = known.get(&key) {
            return Ok((Arc::clone(shape), false));
        }
        let needs = states_alone.then(|| Needs::of(template)).transpose()?;
        let shape = Arc::new(Shape::of(template, plans.tasks, batch, needs.as_ref())?);
        known.insert(key, Arc::clone(&shape));
        Ok((shape, true))
    }
}

impl Shape {
    /// The shape of a batch; of what states need alone, if that is given.
    fn of(
        template: &Template,
        parts: usize,
        batch: BatchTime,
        needs: Option<&Needs>,
    ) -> Result<Self> {
        let mut shape = Shape {
            ways: vec![None; template.slots],
            makers: vec![None; template.slots],
            groups: BTreeMap::new(),
            unread: BTreeSet::new(),
            jobs: Vec::new(),
        };
        for slot in &template.inputs {
            shape.ways[slot.0] = Some(Delivery::Input);
        }
        for (at, step) in template.steps.iter().enumerate() {
            if needs.is_none_or(|needs| needs.steps.contains(&at)) {
                shape.add(at, step, parts, batch)?;
            }
        }
        let outputs = template.outputs.iter().filter(|_| needs.is_none());
        let outputs = outputs.filter(|(_, at)| at.has(batch));
        let readers = shape.choose_ways(template, outputs.map(|(slot, _)| *slot));
        if needs.is_some() {
            let steps = shape.groups.keys().copied();
            shape.unread = steps
                .filter(|at| readers[into(&template.steps[*at]).0] == 0)
                .collect();
        }
        shape.level(template)?;
        Ok(shape)
    }

    /// Adds a step, if it is due and its input exists.
    fn add(&mut self, at: usize, step: &Step, parts: usize, batch: BatchTime) -> Result<()> {
        let (into, reads) = match step {
            Step::Run(stage) if !stage.at.has(batch) => return Ok(()),
            Step::Run(stage) => (stage.into, stage.reads()?),
            Step::State(state) => {
                let takes_in = self.makers[state.from.0].is_some();
                if !takes_in && !state.at.has(batch) {
                    return Ok(());
                }
                // Without rows to take in it is only read.
                match takes_in {
                    true => (state.into, each(parts, &[state.from])),
                    false => (state.into, each(parts, &[])),
                }
            }
            Step::Probe(probe) if !probe.at.has(batch) => return Ok(()),
            Step::Probe(probe) => (probe.into, each(parts, &[probe.from, probe.after])),
        };
        self.makers[into.0] = Some(at);
        self.groups.insert(at, grouped(reads));
        Ok(())
    }

    /// Chooses how each dataset is read. Returns the number of reads of each slot.
    fn choose_ways(
        &mut self,
        template: &Template,
        outputs: impl Iterator<Item = Slot>,
    ) -> Vec<usize> {
        let mut readers = vec![0; template.slots];
        let mut aligned = vec![true; template.slots];
        for group in self.groups.values().flatten() {
            for read in &group.reads {
                readers[read.slot.0] += 1;
                let all = self.makers[read.slot.0].is_none_or(|maker| {
                    read.whole
                        || group.tasks == parts_of(&template.steps[maker], &self.groups[&maker])
                });
                aligned[read.slot.0] &= read.partition == 0 && all;
                let passed = self.makers[read.slot.0]
                    .is_some_and(|maker| route(&template.steps[maker]).is_none());
                aligned[read.slot.0] &= !(read.whole && passed);
            }
        }
        for slot in outputs {
            readers[slot.0] += 2; // the master's reading is another job's
        }
        for (slot, maker) in self.makers.iter().enumerate() {
            let Some(maker) = maker else { continue };
            self.ways[slot] = Some(match (readers[slot], aligned[slot]) {
                (1, true) if route(&template.steps[*maker]).is_some() => Delivery::Exchange,
                (1, true) => Delivery::Pass,
                _ => Delivery::Cache,
            });
        }
        readers
    }

    fn level(&mut self, template: &Template) -> Result<()> {
        let mut levels: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, groups) in &self.groups {
            let mut level = 0;
            for read in groups.iter().flat_map(|group| &group.reads) {
                let below = match (self.ways[read.slot.0], self.makers[read.slot.0]) {
                    (Some(Delivery::Input), _) => 0,
                    (Some(way), Some(maker)) => {
                        levels[&maker] + usize::from(way == Delivery::Cache)
                    }
                    _ => {
                        return Err(Error::Graph {
                            operator: operator(&template.steps[*at]).clone(),
                            message: "its input has no RDD at that time".into(),
                        });
                    }
                };
                level = level.max(below);
            }
            levels.insert(*at, level);
            if self.ways[into(&template.steps[*at]).0] == Some(Delivery::Cache) {
                self.jobs
                    .resize_with(self.jobs.len().max(level + 1), Vec::new);
                self.jobs[level].push(*at);
            }
        }
        self.jobs.retain(|roots| !roots.is_empty());
        Ok(())
    }
}

/// The steps that the states of a template need, for batches that run without outputs.
struct Needs {
    steps: BTreeSet<usize>,
    /// Whether a state needs rows of another state.
    is_chained: bool,
}

impl Needs {
    fn of(template: &Template) -> Result<Self> {
        let (mut slots, mut steps) = (BTreeSet::new(), BTreeSet::new());
        let mut is_chained = false;
        // A step comes after those that it reads.
        for (at, step) in template.steps.iter().enumerate().rev() {
            let is_read = slots.contains(&into(step).0);
            match step {
                Step::State(state) => {
                    is_chained |= is_read;
                    slots.insert(state.from.0);
                }
                _ if !is_read => continue,
                Step::Run(stage) => {
                    let reads = stage.reads()?;
                    slots.extend(reads.iter().flatten().map(|read| read.slot.0));
                }
                Step::Probe(probe) => {
                    is_chained = true;
                    slots.extend([probe.from.0, probe.after.0]);
                }
            }
            steps.insert(at);
        }
        Ok(Needs { steps, is_chained })
    }
}

/// Whether a state needs rows of another state: then no partition can be rebuilt without the others.
pub fn states_are_chained(plans: &Plans) -> Result<bool> {
    let [few, many] = [false, true].map(|many| Needs::of(plans.of(many)));
    Ok(few?.is_chained || many?.is_chained)
}

/// The reads of tasks that each read one partition of some datasets.
fn each(parts: usize, slots: &[Slot]) -> Vec<Vec<Read>> {
    let reads = |partition| {
        let read = |slot: &Slot| Read {
            slot: *slot,
            partition,
            whole: false,
        };
        slots.iter().map(read).collect()
    };
    (0..parts).map(reads).collect()
}

/// The number of partitions of the exchange after a step, if it has one.
pub fn route(step: &Step) -> Option<usize> {
    match step {
        Step::Run(stage) => match &stage.route {
            Route::Forward => None,
            Route::Gather => Some(1),
            Route::Hash { parts, .. } | Route::Turn { parts, .. } | Route::Deal { parts } => {
                Some(*parts)
            }
        },
        Step::State(_) | Step::Probe(_) => None,
    }
}

/// The slot that a step fills.
pub fn into(step: &Step) -> Slot {
    match step {
        Step::Run(stage) => stage.into,
        Step::State(window) => window.into,
        Step::Probe(probe) => probe.into,
    }
}

pub fn operator(step: &Step) -> &dstreams::Operator {
    match step {
        Step::Run(stage) => &stage.operator,
        Step::State(window) => &window.operator,
        Step::Probe(probe) => &probe.operator,
    }
}

/// Number of partitions of a step's dataset.
pub fn parts_of(step: &Step, groups: &[Group]) -> usize {
    route(step).unwrap_or_else(|| groups.iter().map(|group| group.tasks).sum())
}

/// Groups consecutive tasks with the same shape.
fn grouped(tasks: Vec<Vec<Read>>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (task, reads) in tasks.into_iter().enumerate() {
        if let Some(group) = groups.last_mut()
            && group.continues(task, &reads)
        {
            group.tasks += 1;
            continue;
        }
        groups.push(Group {
            first: task,
            tasks: 1,
            reads,
        });
    }
    groups
}

impl Group {
    fn continues(&self, task: usize, reads: &[Read]) -> bool {
        let next = |first: &Read, read: &Read| {
            let partition = match first.whole {
                true => first.partition,
                false => first.partition + task - self.first,
            };
            (first.slot, first.whole, partition) == (read.slot, read.whole, read.partition)
        };
        self.reads.len() == reads.len() && self.reads.iter().zip(reads).all(|(f, r)| next(f, r))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use dstreams::agg::count;
    use dstreams::internal::Description;
    use dstreams::{AsOf, DStream, StreamContext};

    use super::*;

    /// The plans of a program that counts keys; `more` adds to it.
    fn plans(more: impl Fn(&DStream<(u64, i64)>)) -> Plans {
        let mut ctx = StreamContext::new(Duration::from_secs(1)).unwrap();
        let (_, numbers) = ctx.queue::<(u64, i64)>("numbers");
        let counts = numbers.by_key().running_agg("counts", count()).unwrap();
        let seen = numbers.by_key().with_state(&counts, AsOf::After).unwrap();
        seen.pairs().for_each_rdd(|_| ());
        more(&counts.all().pairs().map(|(key, count)| (key + 1, count)));
        Description::of(ctx).unwrap().plans(2).unwrap()
    }

    fn shape(plans: &Plans, states_alone: bool) -> Arc<Shape> {
        let shapes = Shapes::default();
        let of = (true, states_alone);
        shapes.of(plans, of, BatchTime(1_000)).unwrap().0
    }

    #[test]
    fn a_batch_that_runs_for_its_state_alone_has_no_step_that_only_outputs_need() {
        let plans = plans(|counts| counts.for_each_rdd(|_| ()));
        let template = plans.of(true);
        let is_state = |at: &usize| matches!(template.steps[*at], Step::State(_));
        let (live, alone) = (shape(&plans, false), shape(&plans, true));
        assert!(live.groups.len() == template.steps.len() && live.unread.is_empty());
        let state = alone.unread.iter().copied().collect::<Vec<_>>();
        assert_eq!(alone.jobs, vec![state.clone()]);
        assert!(matches!(state[..], [at] if is_state(&at)));
        let others = alone.groups.keys().filter(|at| !is_state(at));
        assert!(others.clone().all(|at| *at < state[0]), "{alone:?}");
        assert!(others.count() > 0, "the rows that the state takes in");
    }

    #[test]
    fn a_state_that_takes_in_rows_of_another_one_or_of_a_lookup_is_chained() {
        assert!(!states_are_chained(&plans(|_| ())).unwrap());
        let alone = |counts: &DStream<(u64, i64)>| counts.for_each_rdd(|_| ());
        assert!(!states_are_chained(&plans(alone)).unwrap());
        let chained = plans(|counts| {
            let window = Duration::from_secs(2);
            let sums = counts.by_key().window_agg(window, window, count());
            sums.unwrap().pairs().for_each_rdd(|_| ());
        });
        assert!(states_are_chained(&chained).unwrap());
        // The first state is read.
        let [batch, even] = [1_000, 2_000].map(BatchTime);
        let shapes = Shapes::default();
        for batch in [batch, even] {
            let (shape, _) = shapes.of(&chained, (true, true), batch).unwrap();
            assert_eq!(shape.unread.len(), 1, "{batch}: {shape:?}");
        }
    }
}
