//! [`Placement`]: which worker runs a task.
//!
//! A task on a partition of state runs only on the primary, and only after the previous batch's state is
//! installed. A task prefers a worker that stores its rows: the first one, then the replicas. Of the others,
//! task i goes to worker i modulo their number, so that they spread and stay. A task that waits for a free core
//! blocks no other.
//!
//! Free cores are counted here, from the running tasks, and from those that the engine has given up and that still run.
//! The engine's own count is wrong after a loss: it never gets back the cores of tasks of a stage that was rolled back.
//!
//! A copy of a slow task goes to any worker but that of its original. A slow worker that rests gets only the tasks that can
//! run nowhere else.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::serde::protobuf::AvailableVcores;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::scheduler::TaskKey;
use ballista_scheduler::cluster::{BoundTask, DistributionPolicy};
use ballista_scheduler::state::execution_graph::{TaskDescription, create_task_info};
use ballista_scheduler::state::execution_stage::{ExecutionStage, RunningStage};
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use dstreams_control::cluster::StageTask;

use super::speculate::TaskCopies;
use crate::plan::{Place, StepExec};

/// Decides which worker runs a task.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The cores and the address of each worker, by its name in the engine.
    workers: Arc<Mutex<Workers>>,
    copies: TaskCopies,
}

type Workers = HashMap<String, (usize, String)>;

impl Placement {
    /// No workers yet.
    pub fn new(copies: TaskCopies) -> Self {
        Placement {
            workers: Arc::default(),
            copies,
        }
    }

    /// A worker's name for each of its free cores, except those of workers that rest.
    pub async fn free(&self, jobs: &HashMap<JobId, JobInfoCache>) -> Vec<String> {
        let mut running = HashMap::new();
        for info in jobs.values() {
            count(info, &mut running).await;
        }
        self.copies.count(&mut running);
        let resting = self.copies.resting();
        let workers = self.lock();
        let workers = workers.iter().filter(|(name, _)| !resting.contains(*name));
        let mut workers: Vec<_> = workers.collect();
        workers.sort_unstable_by_key(|(worker, _)| *worker);
        let free = workers.into_iter().flat_map(|(worker, (cores, _))| {
            let busy = running.get(worker).copied().unwrap_or_default();
            std::iter::repeat_n(worker.clone(), cores.saturating_sub(busy))
        });
        free.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a worker that runs `cores` tasks at once.
    pub fn add(&self, worker: &str, cores: usize, address: &str) {
        self.copies.joined(worker);
        self.lock()
            .insert(worker.to_owned(), (cores, address.to_owned()));
    }

    /// The address of a worker.
    pub fn address(&self, worker: &str) -> Option<String> {
        self.lock().get(worker).map(|(_, address)| address.clone())
    }

    /// The present workers.
    pub fn workers(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Removes a lost worker.
    pub fn remove(&self, worker: &str) {
        self.lock().remove(worker);
    }
}

/// A worker, and the number of further tasks that it can run.
struct FreeSlots<'b> {
    budget: &'b mut AvailableVcores,
    tasks: usize,
}

#[async_trait]
impl DistributionPolicy for Placement {
    async fn bind_tasks(
        &self,
        budgets: Vec<&mut AvailableVcores>,
        jobs: Arc<HashMap<JobId, JobInfoCache>>,
    ) -> Result<Vec<BoundTask>> {
        // A map's order is random. Older batches go first; names of jobs sort by batch.
        let mut ordered = Vec::with_capacity(jobs.len());
        let mut running: HashMap<String, usize> = HashMap::new();
        for (job, info) in jobs.iter() {
            ordered.push((count(info, &mut running).await, job, info));
        }
        self.copies.count(&mut running);
        ordered.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let mut free_slots = {
            let workers = self.lock();
            let room = |budget| room(budget, &workers, &running);
            budgets.into_iter().map(room).collect::<Vec<_>>()
        };
        free_slots.sort_by(|a, b| a.budget.executor_id.cmp(&b.budget.executor_id));
        let resting = self.copies.resting();
        let mut bound = Vec::new();
        for (_, job, info) in ordered {
            let mut graph = info.execution_graph.write().await;
            let session = graph.session_id().to_string();
            let mut seen = Vec::new();
            while let Some(stage) = graph.fetch_running_stage(&seen) {
                seen.push(stage.stage_id);
                let of = (job, session.as_str(), &self.copies);
                bind_stage(stage, of, (&mut free_slots, &resting), &mut bound);
            }
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "dstreams placement"
    }
}

/// Adds the job's running tasks to the counts of their workers; returns the name of the job.
async fn count(info: &JobInfoCache, running: &mut HashMap<String, usize>) -> String {
    let graph = info.execution_graph.read().await;
    for stage in graph.stages().values() {
        let ExecutionStage::Running(stage) = stage else {
            continue;
        };
        for task in &stage.task_infos {
            if let Status::Running(task) = &task.task_status {
                *running.entry(task.executor_id.clone()).or_default() += 1;
            }
        }
    }
    graph.job_name().to_owned()
}

fn room<'b>(
    budget: &'b mut AvailableVcores,
    workers: &Workers,
    running: &HashMap<String, usize>,
) -> FreeSlots<'b> {
    let worker = &budget.executor_id;
    let cores = workers.get(worker).map_or(0, |(cores, _)| *cores);
    let tasks = cores.saturating_sub(running.get(worker).copied().unwrap_or_default());
    FreeSlots { budget, tasks }
}

fn bind_stage(
    stage: &mut RunningStage,
    (job, session, copies): (&JobId, &str, &TaskCopies),
    (free_slots, resting): (&mut [FreeSlots<'_>], &BTreeSet<String>),
    bound: &mut Vec<BoundTask>,
) {
    let places = places(&stage.plan);
    let name = (job.to_string(), stage.stage_id, stage.stage_attempt_num);
    let mut waiting = Vec::new();
    for partition in stage.pending.next_slice(usize::MAX) {
        let (place, may_copy) = places.get(partition).cloned().unwrap_or_default();
        let avoid = copies.avoid(&name, partition);
        let resting = may_copy.then_some(resting);
        let may_run = may_run(avoid.as_deref(), resting, free_slots);
        let Some(at) = choose(&place, partition, (free_slots, may_run)) else {
            waiting.push(partition);
            continue;
        };
        let room = &mut free_slots[at];
        let executor = room.budget.executor_id.clone();
        room.budget.vcores = room.budget.vcores.saturating_sub(1);
        room.tasks -= 1;
        let task_id = stage.task_infos.len();
        let mut info = create_task_info(executor.clone(), task_id);
        info.global_input_partition_ids = vec![partition];
        info.vcores_consumed = 1;
        stage.task_infos.push(info);
        let started = StageTask {
            task: task_id,
            partition,
            worker: executor.clone(),
        };
        copies.started(&name, stage.partitions, started, may_copy);
        let task = TaskDescription {
            session_id: session.to_owned(),
            key: TaskKey {
                job_id: job.clone(),
                stage_id: stage.stage_id,
                task_id,
            },
            stage_attempt_num: stage.stage_attempt_num,
            task_attempt: stage.task_failure_numbers[partition],
            global_input_partition_ids: vec![partition],
            vcores_consumed: 1,
            plan: Arc::clone(&stage.plan),
            session_config: Arc::clone(&stage.session_config),
        };
        bound.push((executor, task));
    }
    stage.pending.reschedule(waiting);
}

/// Where a task may run: not where its original runs, and on a worker that rests only if no other is there.
fn may_run<'a>(
    avoid: Option<&'a str>,
    resting: Option<&'a BTreeSet<String>>,
    there: &[FreeSlots<'_>],
) -> impl Fn(&str) -> bool + use<'a> {
    let fits = move |worker: &str| avoid != Some(worker);
    let rests = move |worker: &str| resting.is_some_and(|resting| resting.contains(worker));
    let mut there = there.iter().map(|room| room.budget.executor_id.as_str());
    let others = there.any(|worker| fits(worker) && !rests(worker));
    move |worker| fits(worker) && !(others && rests(worker))
}

/// The worker for a task, if one has a free core and the task may run there.
fn choose(
    place: &Place,
    partition: usize,
    (free_slots, may_run): (&[FreeSlots<'_>], impl Fn(&str) -> bool),
) -> Option<usize> {
    let free = |at: &usize| {
        let room = &free_slots[*at];
        room.tasks > 0 && may_run(&room.budget.executor_id)
    };
    let mut holders = place.prefer.iter().chain(&place.replicas);
    let preferred = holders.find_map(|worker| {
        let at = free_slots
            .iter()
            .position(|room| room.budget.executor_id == *worker)?;
        free(&at).then_some(at)
    });
    match &place.only {
        Some(gate) => return preferred.filter(|_| gate.is_open()),
        None if preferred.is_some() => return preferred,
        None => {}
    }
    let count = free_slots.len();
    (0..count).map(|step| (partition + step) % count).find(free)
}

/// Where the tasks of a stage should run, as its topmost steps say; and whether they may run on any worker: none of
/// their steps works on state.
fn places(plan: &Arc<dyn ExecutionPlan>) -> Vec<(Place, bool)> {
    if let Some(step) = plan.downcast_ref::<StepExec>() {
        let anywhere = !step.children().into_iter().any(is_on_state);
        let places = step.places.iter();
        let places = places.map(|place| (place.clone(), anywhere && place.only.is_none()));
        return places.collect();
    }
    if plan.is::<UnionExec>() {
        return plan.children().into_iter().flat_map(places).collect();
    }
    match plan.children().as_slice() {
        [child] => places(child),
        _ => Vec::new(),
    }
}

fn is_on_state(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let step = plan.downcast_ref::<StepExec>();
    step.is_some_and(|step| step.places.iter().any(|place| place.only.is_some()))
        || plan.children().into_iter().any(is_on_state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_prefers_the_workers_that_store_its_rows() {
        let mut budgets: Vec<_> = ["a", "b", "c"].map(budget).into();
        let slots: Vec<_> = budgets
            .iter_mut()
            .map(|budget| FreeSlots { budget, tasks: 1 })
            .collect();
        let mut place = Place {
            prefer: vec!["b".into()],
            replicas: vec!["c".into()],
            only: None,
        };
        let not_b = |worker: &str| worker != "b";
        assert_eq!(choose(&place, 0, (&slots, |_: &str| true)), Some(1));
        assert_eq!(choose(&place, 0, (&slots, not_b)), Some(2));
        place.replicas.clear();
        assert_eq!(choose(&place, 1, (&slots, not_b)), Some(2));
        assert_eq!(choose(&place, 1, (&slots[1..2], not_b)), None);
    }

    #[test]
    fn a_worker_that_rests_gets_a_task_only_if_no_other_is_there() {
        let mut budgets: Vec<_> = ["a", "b"].map(budget).into();
        // The others are busy, and the task waits for one of them.
        let slots: Vec<_> = budgets
            .iter_mut()
            .map(|budget| FreeSlots { budget, tasks: 0 })
            .collect();
        let resting = ["a".to_owned()].into();
        let runs = |avoid, resting, slots: &[_]| {
            let may_run = may_run(avoid, resting, slots);
            ["a", "b"].map(may_run)
        };
        assert_eq!(runs(None, None, &slots), [true, true]);
        assert_eq!(runs(None, Some(&resting), &slots), [false, true]);
        assert_eq!(runs(None, Some(&resting), &slots[..1]), [true, true]);
        assert_eq!(runs(Some("b"), Some(&resting), &slots), [true, false]);
        assert_eq!(runs(Some("a"), Some(&resting), &slots), [false, true]);
    }

    fn budget(worker: &str) -> AvailableVcores {
        AvailableVcores {
            executor_id: worker.into(),
            vcores: 1,
        }
    }
}
