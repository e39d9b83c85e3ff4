//! [`Placement`]: which worker runs a task.
//!
//! A task that needs a partition of state runs where it is and nowhere else, and not before the state
//! of the batch before is there; one that reads rows a worker holds prefers that worker; of the others, task i goes to worker i, modulo their number,
//! so that they spread and stay. A task waits without holding anybody up until its worker has room.
//!
//! Which workers have room is counted here, from the tasks that run. The engine's own count is not
//! right after a loss: tasks of a stage that is rolled back are never given back.

use std::collections::HashMap;
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

use crate::plan::{Place, StepExec};

/// Decides which worker runs a task.
#[derive(Debug, Default, Clone)]
pub struct Placement {
    /// How many tasks each worker runs at once, and its address, by its name for the engine.
    workers: Arc<Mutex<Workers>>,
}

type Workers = HashMap<String, (usize, String)>;

impl Placement {
    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker that runs so many tasks at once.
    pub fn add(&self, worker: &str, cores: usize, address: &str) {
        self.lock()
            .insert(worker.to_owned(), (cores, address.to_owned()));
    }

    /// Where a worker is.
    pub fn address(&self, worker: &str) -> Option<String> {
        self.lock().get(worker).map(|(_, address)| address.clone())
    }

    /// The workers that are there.
    pub fn workers(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// A worker that is gone.
    pub fn remove(&self, worker: &str) {
        self.lock().remove(worker);
    }
}

/// A worker, and how many more tasks it can run.
struct Room<'b> {
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
        // The order of a map is random; older batches go first, and names of jobs are in their order.
        let mut ordered = Vec::with_capacity(jobs.len());
        let mut running: HashMap<String, usize> = HashMap::new();
        for (job, info) in jobs.iter() {
            ordered.push((count(info, &mut running).await, job, info));
        }
        ordered.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let mut rooms = {
            let workers = self.lock();
            let room = |budget| room(budget, &workers, &running);
            budgets.into_iter().map(room).collect::<Vec<_>>()
        };
        rooms.sort_by(|a, b| a.budget.executor_id.cmp(&b.budget.executor_id));
        let mut bound = Vec::new();
        for (_, job, info) in ordered {
            let mut graph = info.execution_graph.write().await;
            let session = graph.session_id().to_string();
            let mut seen = Vec::new();
            while let Some(stage) = graph.fetch_running_stage(&seen) {
                seen.push(stage.stage_id);
                bind_stage(stage, job, &session, &mut rooms, &mut bound);
            }
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "dstreams placement"
    }
}

/// Adds the tasks that run to those of their workers; returns the name of the job.
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
) -> Room<'b> {
    let worker = &budget.executor_id;
    let cores = workers.get(worker).map_or(0, |(cores, _)| *cores);
    let tasks = cores.saturating_sub(running.get(worker).copied().unwrap_or_default());
    Room { budget, tasks }
}

fn bind_stage(
    stage: &mut RunningStage,
    job: &JobId,
    session: &str,
    rooms: &mut [Room<'_>],
    bound: &mut Vec<BoundTask>,
) {
    let places = places(&stage.plan);
    let mut waiting = Vec::new();
    for partition in stage.pending.next_slice(usize::MAX) {
        let place = places.get(partition).cloned().unwrap_or_default();
        let Some(at) = choose(&place, partition, rooms) else {
            waiting.push(partition);
            continue;
        };
        let room = &mut rooms[at];
        let executor = room.budget.executor_id.clone();
        room.budget.vcores = room.budget.vcores.saturating_sub(1);
        room.tasks -= 1;
        let task_id = stage.task_infos.len();
        let mut info = create_task_info(executor.clone(), task_id);
        info.global_input_partition_ids = vec![partition];
        info.vcores_consumed = 1;
        stage.task_infos.push(info);
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

/// The worker for a task, if one has room.
fn choose(place: &Place, partition: usize, rooms: &[Room<'_>]) -> Option<usize> {
    let free = |at: &usize| rooms[*at].tasks > 0;
    let preferred = place.prefer.iter().find_map(|worker| {
        let at = rooms
            .iter()
            .position(|room| room.budget.executor_id == *worker)?;
        free(&at).then_some(at)
    });
    match &place.only {
        Some(gate) => return preferred.filter(|_| gate.is_open()),
        None if preferred.is_some() => return preferred,
        None => {}
    }
    let count = rooms.len();
    (0..count).map(|step| (partition + step) % count).find(free)
}

/// Where the tasks of a stage should run: its topmost steps say.
fn places(plan: &Arc<dyn ExecutionPlan>) -> Vec<Place> {
    if let Some(step) = plan.downcast_ref::<StepExec>() {
        return step.places.to_vec();
    }
    if plan.is::<UnionExec>() {
        return plan.children().into_iter().flat_map(places).collect();
    }
    match plan.children().as_slice() {
        [child] => places(child),
        _ => Vec::new(),
    }
}
