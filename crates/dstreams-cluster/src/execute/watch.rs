//! [`TaskWatch`]: detects jobs that make no progress, and why.
//!
//! An executor reports a task once, and drops the report if the call fails. So the watch asks the worker about a task
//! that has been running for a while. If the task ended there long ago, its report is lost: it counts as failed, and
//! the engine retries it a few times. A job with neither running nor waiting tasks is given up, and its batch is
//! retried.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::protobuf::{FailedTask, IoError, TaskStatus, UpdateTaskStatusParams};
use ballista_scheduler::state::execution_stage::ExecutionStage;
use dstreams::Result;
use tonic::Request;

use super::engine::ClusterEngine;
use crate::plan::{TaskName, TaskState};
use crate::retry::retryable;

/// How often a job is checked.
pub const CHECK_INTERVAL: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    Duration::from_secs(1)
};
/// How long a task runs before its worker is asked about it, and how often then.
pub const ASK_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });
/// How late a report may be.
pub const MAX_REPORT_DELAY: Duration = ASK_INTERVAL;
/// How long a task may wait in its worker before it begins: the threads may be busy with cancelled tasks.
pub const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a job may have nothing to do, as between two stages.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the log warns of a waiting batch.
const WARN_INTERVAL: Duration = Duration::from_secs(30);

/// A running task, as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Running {
    name: TaskName,
    stage_attempt: usize,
    worker: String,
}

/// The running and waiting tasks of a job.
#[derive(Debug, Default)]
struct JobWork {
    running: Vec<Running>,
    /// Partitions that wait for a worker.
    waiting: usize,
}

/// Detects jobs that make no progress, and the reason.
#[derive(Debug)]
pub struct TaskWatch {
    /// When a task started, and when its worker was last asked about it.
    since: HashMap<Running, (Instant, Instant)>,
    /// Since when the job has nothing to do.
    idle: Option<Instant>,
    /// Since when tasks wait while none runs, and the last warning of it.
    waits: Option<(Instant, Instant)>,
}

impl TaskWatch {
    pub fn new() -> Self {
        TaskWatch {
            since: HashMap::new(),
            idle: None,
            waits: None,
        }
    }

    /// The tasks to ask about now.
    fn due(&mut self, work: &JobWork, now: Instant) -> Vec<Running> {
        self.since.retain(|task, _| work.running.contains(task));
        let mut ask = Vec::new();
        for task in &work.running {
            let (_, asked) = self.since.entry(task.clone()).or_insert((now, now));
            if now - *asked >= ASK_INTERVAL {
                *asked = now;
                ask.push(task.clone());
            }
        }
        ask
    }

    /// Why the task will never be reported, if it will not.
    fn is_lost(&self, task: &Running, state: TaskState, now: Instant) -> Option<&'static str> {
        let since = self.since.get(task).map(|(since, _)| now - *since);
        match state {
            TaskState::Ended(ago) if Duration::from_millis(ago) >= MAX_REPORT_DELAY => {
                Some("its report did not arrive")
            }
            TaskState::Unknown if since >= Some(BEGIN_TIMEOUT) => Some("it never began"),
            _ => None,
        }
    }

    /// Whether the job has had nothing to do for too long; and for how long it has waited, if a warning is due.
    fn progress(&mut self, work: &JobWork, now: Instant) -> (bool, Option<Duration>) {
        if !work.running.is_empty() {
            (self.idle, self.waits) = (None, None);
            return (false, None);
        }
        if work.waiting == 0 {
            let idle = *self.idle.get_or_insert(now);
            return (now - idle >= IDLE_TIMEOUT, None);
        }
        self.idle = None;
        let (since, said) = self.waits.get_or_insert((now, now));
        let say = now - *said >= WARN_INTERVAL;
        if say {
            *said = now;
        }
        (false, say.then(|| now - *since))
    }

    /// Checks a job. The error is retryable.
    pub async fn look(&mut self, engine: &ClusterEngine, job: &JobId) -> Result<()> {
        let Some(work) = engine.work(job).await else {
            // It is being planned, or has ended.
            return Ok(());
        };
        let now = Instant::now();
        let (stuck, waits) = self.progress(&work, now);
        if stuck {
            return Err(retryable(
                "the engine has lost track of a job: nothing of it runs or waits",
            ));
        }
        if let Some(waits) = waits {
            let workers = engine.workers();
            tracing::warn!(%job, tasks = work.waiting, ?workers, ?waits, "a batch waits for workers or for the previous batch");
        }
        if work.waiting > 0 {
            // The message that should have woken the engine may have been lost.
            engine.wake().await;
        }
        let mut by_worker: BTreeMap<String, Vec<Running>> = BTreeMap::new();
        for task in self.due(&work, now) {
            by_worker.entry(task.worker.clone()).or_default().push(task);
        }
        for (worker, tasks) in by_worker {
            let names = tasks.iter().map(|task| task.name.clone()).collect();
            // A worker that does not answer: its link decides whether it is lost.
            let Some(states) = engine.ask(&worker, names).await else {
                continue;
            };
            for (task, state) in tasks.iter().zip(states) {
                if let Some(why) = self.is_lost(task, state, Instant::now()) {
                    tracing::warn!(%job, worker, ?task, "retrying a task: {why}");
                    engine.fail(task, why).await;
                }
            }
        }
        Ok(())
    }
}

impl ClusterEngine {
    /// The running and waiting tasks of a running job.
    async fn work(&self, job: &JobId) -> Option<JobWork> {
        let jobs = self.scheduler.state.task_manager.get_running_job_cache();
        let graph = jobs.get(job)?.execution_graph.read().await;
        let mut work = JobWork::default();
        for stage in graph.stages().values() {
            match stage {
                ExecutionStage::Running(stage) => {
                    work.waiting += stage.pending.remaining();
                    for (task, info) in stage.task_infos.iter().enumerate() {
                        if let Status::Running(running) = &info.task_status {
                            work.running.push(Running {
                                name: TaskName {
                                    job: job.to_string(),
                                    stage: stage.stage_id,
                                    task,
                                },
                                stage_attempt: stage.stage_attempt_num,
                                worker: running.executor_id.clone(),
                            });
                        }
                    }
                }
                ExecutionStage::Resolved(_) => work.waiting += 1,
                _ => {}
            }
        }
        Some(work)
    }

    /// Tells the engine that a task has failed.
    async fn fail(&self, task: &Running, why: &str) {
        let failed = FailedTask {
            error: format!("{why} from {}", task.worker),
            retryable: true,
            count_to_failures: true,
            failed_reason: Some(FailedReason::IoError(IoError {})),
        };
        let status = TaskStatus {
            task_id: task.name.task as u32,
            job_id: task.name.job.clone(),
            stage_id: task.name.stage as u32,
            stage_attempt_num: task.stage_attempt as u32,
            status: Some(Status::Failed(failed)),
            ..TaskStatus::default()
        };
        let report = UpdateTaskStatusParams {
            executor_id: task.worker.clone(),
            task_status: vec![status],
        };
        let reported =
            SchedulerGrpc::update_task_status(&self.scheduler, Request::new(report)).await;
        if let Err(error) = reported {
            tracing::warn!(%error, "cannot report a lost task to the engine");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(task: usize) -> Running {
        Running {
            name: TaskName {
                job: "j".into(),
                stage: 1,
                task,
            },
            stage_attempt: 0,
            worker: "worker-1".into(),
        }
    }

    fn work(running: &[usize], waiting: usize) -> JobWork {
        JobWork {
            running: running.iter().copied().map(task).collect(),
            waiting,
        }
    }

    #[test]
    fn workers_are_asked_about_tasks_that_have_run_for_a_while() {
        let (mut watch, now) = (TaskWatch::new(), Instant::now());
        assert_eq!(watch.due(&work(&[0], 0), now), []);
        assert_eq!(watch.due(&work(&[0, 1], 0), now + ASK_INTERVAL), [task(0)]);
        assert_eq!(watch.due(&work(&[0, 1], 0), now + ASK_INTERVAL * 3 / 2), []);
        assert_eq!(
            watch.due(&work(&[0, 1], 0), now + ASK_INTERVAL * 2),
            [task(0), task(1)]
        );
        assert_eq!(watch.due(&work(&[1], 0), now + ASK_INTERVAL * 3), [task(1)]);
        assert_eq!(watch.since.len(), 1);
    }

    #[test]
    fn a_task_is_lost_if_it_ended_long_ago_or_never_began() {
        let (mut watch, now) = (TaskWatch::new(), Instant::now());
        watch.due(&work(&[0], 0), now);
        let late = MAX_REPORT_DELAY.as_millis() as u64;
        let lost = |state, after| watch.is_lost(&task(0), state, now + after).is_some();
        assert!(!lost(TaskState::Runs, BEGIN_TIMEOUT * 100));
        assert!(!lost(TaskState::Ended(late - 1), BEGIN_TIMEOUT * 100));
        assert!(lost(TaskState::Ended(late), ASK_INTERVAL));
        assert!(!lost(TaskState::Unknown, BEGIN_TIMEOUT - ASK_INTERVAL));
        assert!(lost(TaskState::Unknown, BEGIN_TIMEOUT));
    }

    #[test]
    fn an_idle_job_is_stuck_and_a_waiting_one_warns_periodically() {
        let (mut watch, now) = (TaskWatch::new(), Instant::now());
        assert_eq!(watch.progress(&work(&[], 0), now), (false, None));
        assert_eq!(
            watch.progress(&work(&[0], 0), now + IDLE_TIMEOUT),
            (false, None)
        );
        assert_eq!(
            watch.progress(&work(&[], 0), now + IDLE_TIMEOUT),
            (false, None)
        );
        assert_eq!(
            watch.progress(&work(&[], 0), now + IDLE_TIMEOUT * 2),
            (true, None)
        );

        let mut watch = TaskWatch::new();
        assert_eq!(watch.progress(&work(&[], 3), now), (false, None));
        assert_eq!(
            watch.progress(&work(&[], 3), now + WARN_INTERVAL),
            (false, Some(WARN_INTERVAL))
        );
        assert_eq!(
            watch.progress(&work(&[], 3), now + WARN_INTERVAL * 3 / 2),
            (false, None)
        );
        assert_eq!(
            watch.progress(&work(&[], 3), now + WARN_INTERVAL * 2),
            (false, Some(WARN_INTERVAL * 2))
        );
    }
}
