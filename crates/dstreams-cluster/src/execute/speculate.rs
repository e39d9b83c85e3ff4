//! [`TaskCopies`]: copies of slow tasks, as [`Speculation`] decides.
//!
//! The engine has one task for each partition. For a copy it gives up the original, so that it starts another task,
//! which the placement puts on another worker. The original runs on, hidden from the engine; if it succeeds first, it
//! takes its place back. Decisions and changes of the graph are one step, under the graph's lock: so the engine never
//! takes two results of a partition.
//!
//! Workers whose tasks lose to their copies again and again get nothing for a while, as [`SlowWorkers`] decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::serde::protobuf::TaskStatus;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_scheduler::state::execution_graph::{ExecutionGraphBox, RunningTaskInfo};
use dstreams_control::BatchTime;
use dstreams_control::cluster::{SlowWorkers, Speculation, SpeculationConfig, StageTask, Verdict};

use super::engine::Scheduler;
use super::graph::{StageName, give_up, restore, running_stage};
use super::watch::{ASK_INTERVAL, BEGIN_TIMEOUT, MAX_REPORT_DELAY};
use crate::plan::TaskState;

/// How often running tasks are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A task that was not sent this long after it was given up counts as never sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Jobs of which evidence is kept: more than run at once. Failed ones leave theirs.
const MAX_JOBS: usize = 64;

/// A task of a stage.
pub type TaskId = (StageName, usize);

/// A task that runs and that the engine has given up.
#[derive(Debug)]
struct Hidden {
    worker: String,
    since: Instant,
    /// When its worker was last asked about it.
    asked: Instant,
    /// Whether it is at its worker: it was sent, and the worker has not said that it does not run.
    there: bool,
}

impl Hidden {
    /// Whether it occupies a core: it is at its worker, or may still be on its way there. The engine does not send a task
    /// whose job has ended meanwhile.
    fn is_there(&self) -> bool {
        self.there || self.since.elapsed() < SEND_TIMEOUT
    }
}

#[derive(Debug)]
struct WatchedTasks {
    machine: Speculation<StageName, String>,
    hidden: HashMap<TaskId, Hidden>,
    /// Tasks that were sent to their workers, of stages that run.
    sent: BTreeSet<TaskId>,
    /// The evidence of each job that has not succeeded; at most [`MAX_JOBS`].
    jobs: BTreeMap<String, Evidence>,
    /// The evidence of each batch that has not ended, from its jobs that have succeeded; at most [`MAX_JOBS`].
    batches: BTreeMap<BatchTime, Evidence>,
    workers: SlowWorkers<String>,
}

/// The workers that began tasks which may have copies, and whether a copy of one of them finished first.
type Evidence = BTreeMap<String, bool>;

/// The copies of slow tasks.
#[derive(Debug, Clone)]
pub struct TaskCopies {
    began: Instant,
    /// `None` if no copies are made. Lock order L8 (ARCHITECTURE.md).
    tasks: Option<Arc<Mutex<WatchedTasks>>>,
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

impl WatchedTasks {
    fn hide(&mut self, stage: &StageName, task: &StageTask<String>) {
        let now = Instant::now();
        let id = (stage.clone(), task.task);
        let hidden = Hidden {
            worker: task.worker.clone(),
            since: now,
            asked: now,
            there: self.sent.contains(&id),
        };
        self.hidden.insert(id, hidden);
    }

    /// A stage is over: its tasks that still run.
    fn forget(&mut self, stage: &StageName) -> Vec<StageTask<String>> {
        self.sent.retain(|(of, _)| of != stage);
        self.machine.forget(stage)
    }

    fn report(&mut self, (stage, task): &TaskId, success: bool, now: Duration) -> Verdict<String> {
        match success {
            true => self.machine.finished(stage, *task, now),
            false => self.machine.failed(stage, *task),
        }
    }
}

impl TaskCopies {
    /// Copies as the settings say; none without settings.
    pub fn new(config: Option<SpeculationConfig>) -> Self {
        let tasks = config.map(|config| WatchedTasks {
            machine: Speculation::new(config),
            hidden: HashMap::new(),
            sent: BTreeSet::new(),
            jobs: BTreeMap::new(),
            batches: BTreeMap::new(),
            workers: SlowWorkers::new(&config),
        });
        TaskCopies {
            began: Instant::now(),
            tasks: tasks.map(|tasks| Arc::new(Mutex::new(tasks))),
        }
    }

    pub fn are_made(&self) -> bool {
        self.tasks.is_some()
    }

    /// Whether there are stages to look at.
    pub fn has_stages(&self) -> bool {
        self.lock().is_some_and(|tasks| tasks.machine.has_stages())
    }

    /// A worker was added.
    pub fn joined(&self, worker: &str) {
        let now = self.began.elapsed();
        if let Some(mut tasks) = self.lock() {
            tasks.workers.joined(worker.to_owned(), now);
        }
    }

    /// The slow workers, and whether each rests.
    pub fn slow(&self) -> BTreeMap<String, bool> {
        let now = self.began.elapsed();
        let slow = self.lock().map(|mut tasks| tasks.workers.slow(now));
        slow.into_iter().flatten().collect()
    }

    /// The slow workers that rest: they get only tasks that can run nowhere else.
    pub fn resting(&self) -> BTreeSet<String> {
        let slow = self.slow().into_iter();
        slow.filter_map(|(worker, rests)| rests.then_some(worker))
            .collect()
    }

    /// A job of a batch has succeeded.
    pub fn job_ended(&self, job: &str, batch: BatchTime) {
        if let Some(mut tasks) = self.lock()
            && let Some(evidence) = tasks.jobs.remove(job)
        {
            let of_batch = tasks.batches.entry(batch).or_default();
            for (worker, lost) in evidence {
                *of_batch.entry(worker).or_default() |= lost;
            }
            while tasks.batches.len() > MAX_JOBS {
                tasks.batches.pop_first();
            }
        }
    }

    /// A batch has ended.
    pub fn batch_ended(&self, batch: BatchTime) {
        let now = self.began.elapsed();
        let Some(mut tasks) = self.lock() else {
            return;
        };
        if let Some(evidence) = tasks.batches.remove(&batch) {
            tasks.workers.batch(evidence, now);
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, WatchedTasks>> {
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
            if may_copy {
                let evidence = tasks.jobs.entry(stage.0.clone()).or_default();
                evidence.entry(task.worker.clone()).or_default();
                while tasks.jobs.len() > MAX_JOBS {
                    // Names of jobs sort by age.
                    tasks.jobs.pop_first();
                }
            }
            let machine = &mut tasks.machine;
            machine.started(stage, partitions, task, may_copy, now);
        }
    }

    /// A task is sent to its worker.
    pub fn sent(&self, task: TaskId) {
        if let Some(mut tasks) = self.lock() {
            if let Some(hidden) = tasks.hidden.get_mut(&task) {
                hidden.there = true;
            } else if tasks.machine.knows(&task.0) {
                tasks.sent.insert(task);
            }
        }
    }

    /// Adds the tasks that the engine has given up, and that still run, to the counts of their workers.
    pub fn count(&self, running: &mut HashMap<String, usize>) {
        let tasks = self.lock();
        let hidden = tasks.iter().flat_map(|tasks| tasks.hidden.values());
        for hidden in hidden.filter(|hidden| hidden.is_there()) {
            *running.entry(hidden.worker.clone()).or_default() += 1;
        }
    }

    /// A worker was lost, or its executor has restarted: none of its tasks run any more.
    pub fn lost(&self, worker: &str) {
        if let Some(mut tasks) = self.lock() {
            tasks.machine.lost(&worker.to_owned());
            tasks.hidden.retain(|_, hidden| hidden.worker != worker);
        }
    }

    /// A worker was lost, and does not come back under this name.
    pub fn removed(&self, worker: &str) {
        let now = self.began.elapsed();
        self.lost(worker);
        if let Some(mut tasks) = self.lock() {
            tasks.workers.lost(&worker.to_owned(), now);
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
        let passes = self.settle_alone(&task, success);
        if passes == Some(true) {
            return true;
        }
        let job = JobId::new(&status.job_id);
        let executors = &scheduler.state.executor_manager;
        let jobs = scheduler.state.task_manager.get_running_job_cache();
        match (passes, jobs.get(&job)) {
            (Some(passes), Some(_)) => passes,
            (Some(passes), None) => {
                // It may have written after the job's files were removed.
                executors.clean_up_job_data(job);
                passes
            }
            (None, Some(info)) => {
                if executors.get_executor_metadata(worker).await.is_err() {
                    // The engine has removed the executor, and must not count on its tasks again.
                    self.lost(worker);
                    return true;
                }
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

    fn take_hidden(&self, task: &TaskId) -> bool {
        let tasks = self.lock();
        tasks.is_some_and(|mut tasks| tasks.hidden.remove(task).is_some())
    }

    /// Whether the report of a task goes to the engine; `None` if it has a copy or is one.
    fn settle_alone(&self, task: &TaskId, success: bool) -> Option<bool> {
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
        task: &TaskId,
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
                let lost = tasks.jobs.get_mut(job).and_then(|job| job.get_mut(slow));
                lost.into_iter().for_each(|lost| *lost = true);
                (true, vec![cancelled(stage, original)])
            }
            Verdict::OriginalWins(copy) => match restore(graph, stage, *number, worker) {
                true => {
                    copy.iter().for_each(|copy| tasks.hide(stage, copy));
                    let copy = copy.into_iter().map(|copy| cancelled(stage, copy));
                    (true, copy.collect())
                }
                // The engine has a result already.
                false if running_stage(graph, stage).is_some() => (false, Vec::new()),
                // The stage is over.
                false => {
                    let left = tasks.forget(stage).into_iter();
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
        let left = self.lock().map(|mut tasks| tasks.forget(stage));
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
            } else {
                tasks.machine.gone(stage, task.task);
            }
        }
        wait
    }

    /// The hidden tasks that workers are asked about now, by worker: their reports may have been lost.
    pub fn due(&self, now: Instant) -> BTreeMap<String, Vec<TaskId>> {
        let mut due: BTreeMap<String, Vec<TaskId>> = BTreeMap::new();
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
    pub fn answered(&self, task: &TaskId, state: TaskState, now: Instant) {
        let Some(mut tasks) = self.lock() else {
            return;
        };
        let hidden = tasks.hidden.get_mut(task);
        let since = hidden.map(|hidden| {
            // One that has not begun, or has ended, occupies no core. If it begins later, the next answer says so.
            hidden.there = state == TaskState::Runs;
            now - hidden.since
        });
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

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::{
        FailedTask, IoError, ShuffleWritePartition, SuccessfulTask, failed_task::FailedReason,
    };
    use ballista_core::serde::scheduler::ExecutorMetadata;
    use ballista_scheduler::planner::DefaultDistributedPlanner;
    use ballista_scheduler::state::execution_graph::{StaticExecutionGraph, create_task_info};
    use ballista_scheduler::state::execution_stage::ExecutionStage;
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_expr::expressions::Column;
    use datafusion::physical_plan::Partitioning;
    use datafusion::physical_plan::repartition::RepartitionExec;

    use super::*;
    use crate::execute::session_config;

    const PARTITIONS: usize = 4;

    /// A job with an exchange, in the engine's own graph, and the copies of its tasks.
    struct Job {
        graph: ExecutionGraphBox,
        copies: TaskCopies,
        stage: StageName,
    }

    fn executor(worker: &str) -> ExecutorMetadata {
        ExecutorMetadata {
            id: worker.into(),
            host: "here".into(),
            port: 1,
            grpc_port: 2,
            specification: Default::default(),
            os_info: Default::default(),
        }
    }

    impl Job {
        /// Its first stage has a task on each of the workers 0 to 3.
        fn new() -> Self {
            Self::on(TaskCopies::new(Some(SpeculationConfig::default())))
        }

        fn on(copies: TaskCopies) -> Self {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![7]));
            let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
            let schema = rows.schema();
            let input = vec![vec![rows]; PARTITIONS];
            let input = MemorySourceConfig::try_new_exec(&input, schema, None).unwrap();
            let by = Partitioning::Hash(vec![Arc::new(Column::new("n", 0))], 2);
            let plan = Arc::new(RepartitionExec::try_new(input, by).unwrap());
            let config = Arc::new(session_config(2));
            let (job, mut planner) = (JobId::new("job"), DefaultDistributedPlanner::new());
            let graph = StaticExecutionGraph::new(
                "s",
                &job,
                "job",
                "session",
                plan,
                0,
                config,
                &mut planner,
                None,
            );
            let mut graph: ExecutionGraphBox = Box::new(graph.unwrap());
            graph.revive();
            let mut job = Job {
                graph,
                copies,
                stage: ("job".into(), 1, 0),
            };
            (0..PARTITIONS).for_each(|worker| job.bind(worker));
            job
        }

        /// Starts the task of the first waiting partition; as the placement does.
        fn bind(&mut self, worker: usize) {
            let stage = self.graph.fetch_running_stage(&[]).unwrap();
            let partition = stage.pending.next_slice(1)[0];
            let (task, worker) = (stage.task_infos.len(), format!("worker-{worker}"));
            let mut info = create_task_info(worker.clone(), task);
            info.global_input_partition_ids = vec![partition];
            stage.task_infos.push(info);
            let avoid = self.copies.avoid(&self.stage, partition);
            assert_ne!(avoid.as_ref(), Some(&worker));
            let started = StageTask {
                task,
                partition,
                worker,
            };
            self.copies.started(&self.stage, PARTITIONS, started, true);
        }

        fn status(&self, task: usize) -> &Status {
            let stage = running_stage(&self.graph, &self.stage).unwrap();
            &stage.task_infos[task].task_status
        }

        fn runs(&self, task: usize) -> bool {
            matches!(self.status(task), Status::Running(_))
        }

        /// A task reports; returns whether its report goes to the engine.
        fn report(&mut self, task: usize, worker: usize, status: Status) -> bool {
            let worker = format!("worker-{worker}");
            let success = matches!(status, Status::Successful(_));
            let id = (self.stage.clone(), task);
            let alone = self.copies.settle_alone(&id, success);
            let passes = alone.unwrap_or_else(|| {
                let graph = &mut self.graph;
                self.copies.settle_pair(graph, &id, &worker, success).0
            });
            if passes {
                self.engine_gets(task, &worker, status);
            }
            passes
        }

        fn engine_gets(&mut self, task: usize, worker: &str, status: Status) {
            let status = TaskStatus {
                task_id: task as u32,
                job_id: "job".into(),
                stage_id: 1,
                status: Some(status),
                ..TaskStatus::default()
            };
            let (executor, statuses) = (executor(worker), vec![status]);
            self.graph
                .update_task_status(&executor, statuses, 4, 4)
                .unwrap();
        }

        fn succeed(&mut self, task: usize, worker: usize) -> bool {
            self.report(task, worker, success(task, worker))
        }

        fn fail(&mut self, task: usize, worker: usize) -> bool {
            let failed = FailedTask {
                error: "a full disk".into(),
                retryable: true,
                count_to_failures: true,
                failed_reason: Some(FailedReason::IoError(IoError {})),
            };
            self.report(task, worker, Status::Failed(failed))
        }

        /// All tasks but the last one succeed; the last one gets a copy on worker 0.
        fn with_copy() -> Self {
            let mut job = Job::new();
            for task in 0..PARTITIONS - 1 {
                assert!(job.succeed(task, task));
            }
            job.copy();
            job.bind(0);
            job
        }

        /// The last task is slow, and the engine gives it up.
        fn copy(&mut self) {
            // As if it had begun long ago.
            self.copies.began -= Duration::from_secs(10);
            let mut free = vec!["worker-3".to_owned(), "worker-0".to_owned()];
            let copied = self.copies.look_at(&mut self.graph, &self.stage, &mut free);
            assert!(copied && !self.runs(3));
            assert_eq!(free, ["worker-3"]);
            assert_eq!(self.hidden(), [("worker-3".to_owned(), 1)]);
        }

        fn hidden(&self) -> Vec<(String, usize)> {
            let mut hidden = HashMap::new();
            self.copies.count(&mut hidden);
            hidden.into_iter().collect()
        }

        /// The next stage reads each output of the first one once; returns the worker with the last partition's.
        fn winner(&self) -> String {
            let inputs = match &self.graph.stages()[&2] {
                ExecutionStage::UnResolved(stage) => &stage.inputs,
                ExecutionStage::Resolved(stage) => &stage.inputs,
                ExecutionStage::Running(stage) => &stage.inputs,
                _ => panic!("it has run"),
            };
            let read = &inputs[&1].partition_locations;
            assert!(inputs[&1].complete, "the first stage has not ended");
            for partition in 0..2 {
                assert_eq!(read[&partition].len(), PARTITIONS);
            }
            read[&0].last().unwrap().executor_meta.id.clone()
        }
    }

    fn success(task: usize, worker: usize) -> Status {
        let partitions = (0..2).map(|partition_id| ShuffleWritePartition {
            partition_id,
            file_id: Some(task as u64),
            ..ShuffleWritePartition::default()
        });
        Status::Successful(SuccessfulTask {
            executor_id: format!("worker-{worker}"),
            partitions: partitions.collect(),
            ..SuccessfulTask::default()
        })
    }

    #[test]
    fn the_copy_counts_if_it_is_first() {
        let mut job = Job::with_copy();
        assert!(job.succeed(4, 0));
        assert_eq!(job.copies.counts(), (1, 1));
        assert_eq!(job.winner(), "worker-0");
        assert!(!job.succeed(3, 3));
        // Neither does the engine itself take it.
        job.engine_gets(3, "worker-3", success(3, 3));
        assert_eq!(job.winner(), "worker-0");
        assert_eq!(job.hidden(), []);
    }

    /// Only the worker whose tasks lost in half of the last batches is slow.
    #[test]
    fn a_worker_that_loses_again_and_again_is_slow() {
        let copies = TaskCopies::new(Some(SpeculationConfig::default()));
        (0..PARTITIONS).for_each(|worker| copies.joined(&format!("worker-{worker}")));
        for batch in 1..=8 {
            assert_eq!(copies.slow(), BTreeMap::new(), "{batch}");
            let mut job = Job::on(copies.clone());
            for task in 0..PARTITIONS - 1 {
                assert!(job.succeed(task, task));
            }
            job.copy();
            job.bind(0);
            assert!(job.succeed(4, 0));
            assert!(!job.succeed(3, 3));
            copies.job_ended("job", BatchTime(batch));
            copies.forget(&job.stage);
            // Other jobs of the batch, in which nobody is slow.
            for _ in 0..3 {
                let mut other = Job::on(copies.clone());
                (0..PARTITIONS).for_each(|task| assert!(other.succeed(task, task)));
                copies.job_ended("job", BatchTime(batch));
                copies.forget(&other.stage);
            }
            copies.batch_ended(BatchTime(batch));
        }
        assert_eq!(copies.slow(), BTreeMap::from([("worker-3".into(), true)]));
        assert_eq!(copies.resting(), BTreeSet::from(["worker-3".into()]));
        copies.removed("worker-3");
        assert_eq!(copies.slow(), BTreeMap::new());
    }

    /// Jobs that fail or are cancelled are never reported as ended.
    #[test]
    fn evidence_of_jobs_that_never_end_is_bounded() {
        let copies = TaskCopies::new(Some(SpeculationConfig::default()));
        for job in 0..1_000 {
            let task = StageTask {
                task: 0,
                partition: 0,
                worker: "worker-0".into(),
            };
            let stage = (format!("{job:05}"), 1, 0);
            copies.started(&stage, 1, task, true);
        }
        let tasks = copies.lock().unwrap();
        assert_eq!(tasks.jobs.len(), MAX_JOBS);
        assert!(tasks.jobs.contains_key("00999"));
    }

    /// The engine does not send a task whose job has ended meanwhile, so it is never reported.
    #[test]
    fn a_copy_that_is_never_sent_occupies_no_core() {
        for (before, after) in [(false, false), (true, false), (false, true)] {
            let mut job = Job::with_copy();
            let id = (job.stage.clone(), 4);
            if before {
                job.copies.sent(id.clone());
            }
            assert!(job.succeed(3, 3));
            assert_eq!(job.hidden(), [("worker-0".to_owned(), 1)]);
            let mut tasks = job.copies.lock().unwrap();
            tasks.hidden.get_mut(&id).unwrap().since -= SEND_TIMEOUT;
            drop(tasks);
            if after {
                assert_eq!(job.hidden(), []);
                job.copies.sent(id.clone());
            }
            assert_eq!(job.hidden().len(), usize::from(before || after));
            job.copies.forget(&job.stage);
            assert_eq!(job.copies.lock().unwrap().sent, BTreeSet::new());
            // Its stage is over.
            job.copies.sent((job.stage.clone(), 5));
            assert_eq!(job.copies.lock().unwrap().sent, BTreeSet::new());
        }
    }

    #[test]
    fn the_original_counts_if_it_is_first() {
        let mut job = Job::with_copy();
        assert!(job.succeed(3, 3));
        assert_eq!(job.copies.counts(), (1, 0));
        assert_eq!(job.winner(), "worker-3");
        assert_eq!(job.hidden(), [("worker-0".to_owned(), 1)]);
        assert!(!job.succeed(4, 0));
        assert_eq!((job.winner(), job.hidden()), ("worker-3".into(), vec![]));
    }

    #[test]
    fn the_original_counts_if_its_copy_has_not_begun() {
        let mut job = Job::new();
        (0..3).for_each(|task| assert!(job.succeed(task, task)));
        job.copy();
        assert!(job.succeed(3, 3));
        assert_eq!(job.winner(), "worker-3");
        assert_eq!((job.copies.counts(), job.hidden()), ((0, 0), vec![]));
    }

    /// The engine may not have taken the copy's report yet when the original's comes.
    #[test]
    fn the_second_report_is_dropped_before_the_engine_has_the_first() {
        let mut job = Job::with_copy();
        let id = (job.stage.clone(), 4);
        let (passes, cancels) = job
            .copies
            .settle_pair(&mut job.graph, &id, "worker-0", true);
        assert!(passes && cancels.len() == 1 && cancels[0].task_id == 3);
        assert!(!job.succeed(3, 3));
        job.engine_gets(4, "worker-0", success(4, 0));
        assert_eq!(job.winner(), "worker-0");
    }

    #[test]
    fn a_failed_copy_harms_nothing() {
        let mut job = Job::with_copy();
        assert!(!job.fail(4, 0));
        assert!(job.runs(3) && job.hidden().is_empty());
        let stage = running_stage(&job.graph, &job.stage).unwrap();
        assert_eq!(stage.task_failure_numbers, [0; PARTITIONS]);
        assert_eq!(stage.pending.remaining(), 0);
        let mut free = vec!["worker-0".to_owned()];
        let again = job.copies.look_at(&mut job.graph, &job.stage, &mut free);
        assert!(!again, "it was copied again");
        assert!(job.succeed(3, 3));
        assert_eq!(job.winner(), "worker-3");
    }

    #[test]
    fn a_failed_original_leaves_its_copy() {
        let mut job = Job::with_copy();
        assert!(!job.fail(3, 3));
        assert!(job.runs(4) && job.hidden().is_empty());
        // Now it is the only one.
        assert!(job.fail(4, 0));
        job.bind(2);
        assert!(job.succeed(5, 2));
        assert_eq!(job.winner(), "worker-2");
    }

    /// A task that fails late is slow before it fails: it must not hide each of its failures behind a further copy.
    #[test]
    fn a_copy_whose_original_failed_is_not_copied() {
        let mut job = Job::with_copy();
        assert!(!job.fail(3, 3));
        job.copies.began -= Duration::from_secs(10);
        let mut free = vec!["worker-1".to_owned()];
        let again = job.copies.look_at(&mut job.graph, &job.stage, &mut free);
        assert!(!again && job.runs(4), "it was copied again");
        assert!(job.fail(4, 0), "the failure was dropped");
    }

    /// The engine runs the stage again if a worker is lost with its results. It looks at the newest task of each
    /// partition, and the original is older than its copy.
    #[test]
    fn a_partition_whose_original_won_does_not_run_again() {
        for before in ["the copy runs", "the copy fails", "the copy is lost"] {
            let mut job = Job::new();
            // Worker 0 has no result that is lost with it.
            job.succeed(1, 1);
            job.succeed(2, 2);
            assert!(job.fail(0, 0));
            job.bind(1);
            assert!(job.succeed(4, 1));
            job.copy();
            job.bind(0);
            match before {
                "the copy fails" => assert!(!job.fail(5, 0)),
                "the copy is lost" => {
                    job.copies.lost("worker-0");
                    job.graph.reset_stages_on_lost_executor("worker-0").unwrap();
                }
                _ => assert!(job.runs(5)),
            }
            assert!(job.succeed(3, 3));
            assert_eq!(job.winner(), "worker-3");
            job.graph.reset_stages_on_lost_executor("worker-2").unwrap();
            let stage = job.graph.fetch_running_stage(&[]).unwrap();
            assert_eq!((stage.stage_id, stage.stage_attempt_num), (1, 1));
            assert_eq!(stage.pending.next_slice(usize::MAX), [2], "{before}");
        }
    }

    /// A result that the engine has already is no reason to forget the other partitions.
    #[test]
    fn an_original_that_is_late_leaves_the_stage_known() {
        let mut job = Job::new();
        (0..2).for_each(|task| assert!(job.succeed(task, task)));
        job.copies.began -= Duration::from_secs(10);
        let mut free = vec!["worker-0".to_owned()];
        assert!(job.copies.look_at(&mut job.graph, &job.stage, &mut free));
        assert!(!job.runs(2));
        job.bind(0);
        job.engine_gets(4, "worker-0", success(4, 0));
        assert!(!job.succeed(2, 2));
        let known = job.copies.lock().unwrap().machine.stages();
        assert_eq!(known, std::slice::from_ref(&job.stage));
        assert!(job.runs(3) && job.succeed(3, 3));
        job.winner();
    }

    #[test]
    fn a_task_that_does_not_run_occupies_no_core() {
        let job = Job::with_copy();
        let task = (job.stage.clone(), 3);
        job.copies.sent(task.clone());
        let answer = |state| {
            let mut tasks = job.copies.lock().unwrap();
            tasks.hidden.get_mut(&task).unwrap().since -= SEND_TIMEOUT;
            drop(tasks);
            job.copies.answered(&task, state, Instant::now());
            job.hidden().len()
        };
        assert_eq!(answer(TaskState::Runs), 1);
        assert_eq!(answer(TaskState::Unknown), 0);
        assert_eq!(answer(TaskState::Runs), 1, "it has begun late");
        assert_eq!(answer(TaskState::Ended(1)), 0, "its report is on its way");
    }

    #[test]
    fn a_lost_worker_takes_only_its_own_task() {
        for (lost, winner) in [(0, 3), (3, 0)] {
            let mut job = Job::with_copy();
            let name = format!("worker-{lost}");
            job.copies.lost(&name);
            job.graph.reset_stages_on_lost_executor(&name).unwrap();
            assert_eq!(job.hidden().len(), usize::from(winner == 3));
            if winner == 3 {
                // Its first task ran there too, and the next copy is to start.
                job.bind(1);
                job.bind(2);
                let stage = running_stage(&job.graph, &job.stage).unwrap();
                let is_copy = stage.task_infos[5].global_input_partition_ids == [3];
                let (again, copy) = if is_copy { (6, 5) } else { (5, 6) };
                assert!(job.succeed(again, again - 4));
                assert!(job.succeed(3, 3));
                assert!(!job.succeed(copy, copy - 4));
            } else {
                assert!(job.succeed(4, 0));
            }
            assert_eq!(job.winner(), format!("worker-{winner}"));
        }
    }

    #[test]
    fn a_stage_that_runs_again_is_another_one() {
        let mut job = Job::with_copy();
        let earlier = (job.stage.0.clone(), 1, 7);
        assert!(!restore(&mut job.graph, &earlier, 3, "worker-3"));
        assert!(!give_up(&mut job.graph, &earlier, 4));
        assert!(job.runs(4));
        let left = job.copies.forget(&job.stage);
        assert!(left.len() == 1 && left[0].task_id == 3, "it is cancelled");
        assert_eq!(job.hidden(), [("worker-3".to_owned(), 1)]);
        // What the engine does not know is not reported to it.
        assert!(!job.succeed(3, 3));
        assert_eq!(job.hidden(), []);
        assert!(job.succeed(4, 0));
        assert_eq!(job.winner(), "worker-0");
    }

    /// The report of a task that the engine has given up may be lost.
    #[test]
    fn a_core_comes_back_without_a_report() {
        let job = Job::with_copy();
        let (task, now) = ((job.stage.clone(), 3), Instant::now());
        let late = MAX_REPORT_DELAY.as_millis() as u64;
        assert!(job.copies.due(now).is_empty());
        let due = job.copies.due(now + ASK_INTERVAL);
        assert_eq!(due["worker-3"], std::slice::from_ref(&task));
        job.copies.answered(&task, TaskState::Runs, now);
        job.copies.answered(&task, TaskState::Ended(late - 1), now);
        assert_eq!(job.hidden().len(), 1);
        job.copies.answered(&task, TaskState::Ended(late), now);
        assert_eq!(job.hidden(), []);
        assert_eq!(job.copies.avoid(&job.stage, 3), None);
    }
}
