//! [`TaskCopies`]: copies of slow tasks, as [`Speculation`] decides.
//!
//! The engine has one task for each partition. For a copy it gives up the original, so that it starts another task,
//! which the placement puts on another worker. The original runs on, hidden from the engine; if it succeeds first, it
//! takes its place back. Decisions and changes of the graph are one step, under the graph's lock: so the engine never
//! takes two results of a partition.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::serde::protobuf::TaskStatus;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_scheduler::state::execution_graph::{ExecutionGraphBox, RunningTaskInfo};
use dstreams_control::cluster::{Speculation, SpeculationConfig, StageTask, Verdict};

use super::engine::Scheduler;
use super::graph::{StageName, give_up, restore, running_stage};
use super::watch::{ASK_INTERVAL, BEGIN_TIMEOUT, MAX_REPORT_DELAY};
use crate::plan::TaskState;

/// How often running tasks are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A task of a stage.
pub type Task = (StageName, usize);

/// A task that runs and that the engine has given up.
#[derive(Debug)]
struct Hidden {
    worker: String,
    since: Instant,
    /// When its worker was last asked about it.
    asked: Instant,
}

#[derive(Debug)]
struct Tasks {
    machine: Speculation<StageName, String>,
    hidden: HashMap<Task, Hidden>,
}

/// The copies of slow tasks.
#[derive(Debug, Clone)]
pub struct TaskCopies {
    began: Instant,
    /// `None` if no copies are made. Lock order L8 (ARCHITECTURE.md).
    tasks: Option<Arc<Mutex<Tasks>>>,
}

/// A task that is cancelled.
fn cancelled(stage: &StageName, task: StageTask<String>) -> RunningTaskInfo {
    RunningTaskInfo {
        task_id: task.task,
        job_id: JobId::new(&stage.0),
        stage_id: stage.1,
        executor_id: task.worker,
    }
}

async fn cancel(scheduler: &Scheduler, tasks: Vec<RunningTaskInfo>) {
    if tasks.is_empty() {
        return;
    }
    let executors = &scheduler.state.executor_manager;
    if let Err(error) = executors.cancel_running_tasks(tasks).await {
        tracing::warn!(%error, "cannot cancel tasks");
    }
}

impl Tasks {
    fn hide(&mut self, stage: &StageName, task: &StageTask<String>) {
        let now = Instant::now();
        let hidden = Hidden {
            worker: task.worker.clone(),
            since: now,
            asked: now,
        };
        self.hidden.insert((stage.clone(), task.task), hidden);
    }

    fn report(&mut self, (stage, task): &Task, success: bool, now: Duration) -> Verdict<String> {
        match success {
            true => self.machine.finished(stage, *task, now),
            false => self.machine.failed(stage, *task),
        }
    }
}

impl TaskCopies {
    /// Copies as the settings say; none without settings.
    pub fn new(config: Option<SpeculationConfig>) -> Self {
        let tasks = config.map(|config| Tasks {
            machine: Speculation::new(config),
            hidden: HashMap::new(),
        });
        TaskCopies {
            began: Instant::now(),
            tasks: tasks.map(|tasks| Arc::new(Mutex::new(tasks))),
        }
    }

    pub fn are_made(&self) -> bool {
        self.tasks.is_some()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Tasks>> {
        let tasks = self.tasks.as_ref()?;
        Some(tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The copies that were started, and those that succeeded before their original.
    pub fn counts(&self) -> (u64, u64) {
        self.lock()
            .map_or((0, 0), |tasks| (tasks.machine.made(), tasks.machine.won()))
    }

    /// The worker on which no task of the partition may start.
    pub fn avoid(&self, stage: &StageName, partition: usize) -> Option<String> {
        self.lock()?.machine.avoid(stage, partition).cloned()
    }

    /// The engine starts a task of a stage with so many partitions.
    pub fn started(
        &self,
        stage: &StageName,
        partitions: usize,
        task: StageTask<String>,
        may_copy: bool,
    ) {
        let now = self.began.elapsed();
        if let Some(mut tasks) = self.lock() {
            let machine = &mut tasks.machine;
            machine.started(stage, partitions, task, may_copy, now);
        }
    }

    /// Adds the tasks that the engine has given up, and that still run, to the counts of their workers.
    pub fn count(&self, running: &mut HashMap<String, usize>) {
        for hidden in self.lock().iter().flat_map(|tasks| tasks.hidden.values()) {
            *running.entry(hidden.worker.clone()).or_default() += 1;
        }
    }

    /// A worker is lost, or its executor has started anew: nothing of it runs any more.
    pub fn lost(&self, worker: &str) {
        if let Some(mut tasks) = self.lock() {
            tasks.machine.lost(&worker.to_owned());
            tasks.hidden.retain(|_, hidden| hidden.worker != worker);
        }
    }

    /// Whether a report goes to the engine. Takes care of the other task of its partition.
    pub async fn settle(&self, scheduler: &Scheduler, worker: &str, status: &TaskStatus) -> bool {
        let success = match &status.status {
            Some(Status::Successful(_)) => true,
            Some(Status::Failed(_)) => false,
            _ => return true,
        };
        let attempt = status.stage_attempt_num as usize;
        let stage = (status.job_id.clone(), status.stage_id as usize, attempt);
        let task = (stage, status.task_id as usize);
        let job = JobId::new(&status.job_id);
        let jobs = scheduler.state.task_manager.get_running_job_cache();
        let info = jobs.get(&job);
        match (self.settle_alone(&task, success), info) {
            (Some(passes), _) => {
                if !passes && info.is_none() {
                    // It may have written after the job's files were removed.
                    scheduler.state.executor_manager.clean_up_job_data(job);
                }
                passes
            }
            (None, Some(info)) => {
                let (passes, cancels) = {
                    let mut graph = info.execution_graph.write().await;
                    self.settle_pair(&mut graph, &task, worker, success)
                };
                cancel(scheduler, cancels).await;
                passes
            }
            // The job has ended, and the next look forgets its stages.
            (None, None) => !self.take_hidden(&task),
        }
    }

    fn take_hidden(&self, task: &Task) -> bool {
        let tasks = self.lock();
        tasks.is_some_and(|mut tasks| tasks.hidden.remove(task).is_some())
    }

    /// Whether the report of a task goes to the engine; `None` if it has a copy or is one.
    fn settle_alone(&self, task: &Task, success: bool) -> Option<bool> {
        let now = self.began.elapsed();
        let Some(mut tasks) = self.lock() else {
            return Some(true);
        };
        if tasks.machine.is_paired(&task.0, task.1) {
            return None;
        }
        let given_up = tasks.hidden.remove(task).is_some();
        let verdict = tasks.report(task, success, now);
        Some(verdict == Verdict::Counts && !given_up)
    }

    /// Whether the report of a task that has a copy, or is one, goes to the engine; and the tasks to cancel.
    fn settle_pair(
        &self,
        graph: &mut ExecutionGraphBox,
        task: &Task,
        worker: &str,
        success: bool,
    ) -> (bool, Vec<RunningTaskInfo>) {
        let now = self.began.elapsed();
        let Some(mut tasks) = self.lock() else {
            return (true, Vec::new());
        };
        let given_up = tasks.hidden.remove(task).is_some();
        let (stage, number) = task;
        match tasks.report(task, success, now) {
            Verdict::Counts => (!given_up, Vec::new()),
            Verdict::Dropped => (false, Vec::new()),
            Verdict::CopyWins(original) => {
                let (job, partition, slow) = (&stage.0, original.partition, &original.worker);
                tracing::debug!(job, stage = stage.1, partition, worker, slow, "a copy won");
                (true, vec![cancelled(stage, original)])
            }
            Verdict::OriginalWins(copy) => match restore(graph, stage, *number, worker) {
                true => {
                    copy.iter().for_each(|copy| tasks.hide(stage, copy));
                    let copy = copy.into_iter().map(|copy| cancelled(stage, copy));
                    (true, copy.collect())
                }
                // The engine has a result, or the stage is over.
                false => {
                    let left = tasks.machine.forget(stage).into_iter();
                    (false, left.map(|task| cancelled(stage, task)).collect())
                }
            },
            Verdict::OriginalStays(original) => {
                let stays = restore(graph, stage, original.task, &original.worker);
                if stays {
                    tasks.hidden.remove(&(stage.clone(), original.task));
                }
                (!stays, Vec::new())
            }
        }
    }

    /// Makes the copies that are due. `free` has a worker for each free core. Returns whether tasks wait for the
    /// engine to start them.
    pub async fn look(&self, scheduler: &Scheduler, mut free: Vec<String>) -> bool {
        let known = self.lock().map(|tasks| tasks.machine.stages());
        let Some(known) = known.filter(|known| !known.is_empty()) else {
            return false;
        };
        let jobs = scheduler.state.task_manager.get_running_job_cache();
        let (mut cancels, mut wait) = (Vec::new(), false);
        let mut of_jobs: BTreeMap<String, Vec<StageName>> = BTreeMap::new();
        for stage in known {
            of_jobs.entry(stage.0.clone()).or_default().push(stage);
        }
        for (job, stages) in of_jobs {
            let graph = jobs
                .get(&JobId::new(&job))
                .map(|info| &info.execution_graph);
            let mut graph = match graph {
                Some(graph) => Some(graph.write().await),
                None => None,
            };
            for stage in stages {
                match &mut graph {
                    Some(graph) if running_stage(graph, &stage).is_some() => {
                        wait |= self.look_at(graph, &stage, &mut free);
                    }
                    _ => cancels.extend(self.forget(&stage)),
                }
            }
        }
        cancel(scheduler, cancels).await;
        wait
    }

    fn forget(&self, stage: &StageName) -> Vec<RunningTaskInfo> {
        let left = self.lock().map(|mut tasks| tasks.machine.forget(stage));
        let left = left.into_iter().flatten();
        left.map(|task| cancelled(stage, task)).collect()
    }

    fn look_at(
        &self,
        graph: &mut ExecutionGraphBox,
        stage: &StageName,
        free: &mut Vec<String>,
    ) -> bool {
        let now = self.began.elapsed();
        let (Some(mut tasks), Some(running)) = (self.lock(), running_stage(graph, stage)) else {
            return false;
        };
        for task in tasks.machine.scheduled(stage) {
            let info = running.task_infos.get(task);
            if info.is_none_or(|info| matches!(info.task_status, Status::Failed(_))) {
                tasks.machine.gone(stage, task);
            }
        }
        let mut wait = false;
        for task in tasks.machine.tick(stage, free, now) {
            let (job, partition, worker) = (&stage.0, task.partition, &task.worker);
            tracing::debug!(
                job,
                stage = stage.1,
                partition,
                worker,
                "copying a slow task"
            );
            if give_up(graph, stage, task.task) {
                tasks.hide(stage, &task);
                wait = true;
            }
        }
        wait
    }

    /// The hidden tasks that workers are asked about now, by worker: their reports may have been lost.
    pub fn due(&self, now: Instant) -> BTreeMap<String, Vec<Task>> {
        let mut due: BTreeMap<String, Vec<Task>> = BTreeMap::new();
        if let Some(mut tasks) = self.lock() {
            for (task, hidden) in &mut tasks.hidden {
                if now - hidden.asked >= ASK_INTERVAL {
                    hidden.asked = now;
                    due.entry(hidden.worker.clone())
                        .or_default()
                        .push(task.clone());
                }
            }
        }
        due
    }

    /// A worker says what it knows of a task.
    pub fn answered(&self, task: &Task, state: TaskState, now: Instant) {
        let Some(mut tasks) = self.lock() else {
            return;
        };
        let since = tasks.hidden.get(task).map(|hidden| now - hidden.since);
        let has_ended = match state {
            TaskState::Ended(ago) => Duration::from_millis(ago) >= MAX_REPORT_DELAY,
            TaskState::Unknown => since >= Some(BEGIN_TIMEOUT),
            TaskState::Runs => false,
        };
        if has_ended && since.is_some() {
            tasks.hidden.remove(task);
            tasks.machine.gone(&task.0, task.1);
        }
    }
}
