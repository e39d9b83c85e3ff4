//! [`TaskWatch`]: finds a job that makes no progress, and why.
//!
//! An executor reports a task once, and drops the report when the call fails. So a task that has been running for a
//! while is asked for at its worker. If it ended there long ago, its report is lost: it counts as failed, and the engine
//! runs it again, a few times. A job that has neither tasks nor anything left to run is given up, and its batch runs
//! again.

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

/// How often a job is looked at.
pub const LOOK: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    Duration::from_secs(1)
};
/// How long a task runs before it is asked for, and how often then.
const ASK: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });
/// How late a report may be.
const LATE: Duration = ASK;
/// How long a task may wait in its worker before it begins there: its threads may be busy with what was cancelled.
const BEGIN: Duration = Duration::from_secs(60);
/// How long a job may have nothing to do: the engine is between two stages.
const IDLE: Duration = Duration::from_secs(10);
/// How often it is said that a batch waits.
const SAY: Duration = Duration::from_secs(30);

/// A task that runs, as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Running {
    name: TaskName,
    stage_attempt: usize,
    worker: String,
}

/// What a job has to do.
#[derive(Debug, Default)]
struct JobWork {
    running: Vec<Running>,
    /// Partitions that wait for a worker.
    waiting: usize,
}

/// Finds jobs that make no progress, and the reason.
#[derive(Debug)]
pub struct TaskWatch {
    /// Since when a task runs, and when it was asked for.
    since: HashMap<Running, (Instant, Instant)>,
    /// Since when there is nothing to do.
    idle: Option<Instant>,
    /// Since when there is but nothing runs, and when that was said.
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

    /// The tasks to ask for now.
    fn due(&mut self, work: &JobWork, now: Instant) -> Vec<Running> {
        self.since.retain(|task, _| work.running.contains(task));
        let mut ask = Vec::new();
        for task in &work.running {
            let (_, asked) = self.since.entry(task.clone()).or_insert((now, now));
            if now - *asked >= ASK {
                *asked = now;
                ask.push(task.clone());
            }
        }
        ask
    }

    /// Why the task will never be reported, if that is so.
    fn is_lost(&self, task: &Running, state: TaskState, now: Instant) -> Option<&'static str> {
        let since = self.since.get(task).map(|(since, _)| now - *since);
        match state {
            TaskState::Ended(ago) if Duration::from_millis(ago) >= LATE => {
                Some("its report did not arrive")
            }
            TaskState::Unknown if since >= Some(BEGIN) => Some("it never began"),
            _ => None,
        }
    }

    /// Whether the job has nothing to do, and for too long; and whether to say that it waits.
    fn progress(&mut self, work: &JobWork, now: Instant) -> (bool, Option<Duration>) {
        if !work.running.is_empty() {
            (self.idle, self.waits) = (None, None);
            return (false, None);
        }
        if work.waiting == 0 {
            let idle = *self.idle.get_or_insert(now);
            return (now - idle >= IDLE, None);
        }
        self.idle = None;
        let (since, said) = self.waits.get_or_insert((now, now));
        let say = now - *said >= SAY;
        if say {
            *said = now;
        }
        (false, say.then(|| now - *since))
    }

    /// Looks at a job. The error is one that another run of the batch may mend.
    pub async fn look(&mut self, engine: &ClusterEngine, job: &JobId) -> Result<()> {
        let Some(work) = engine.work(job).await else {
            // It is planned, or has ended.
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
            tracing::warn!(%job, tasks = work.waiting, ?workers, ?waits, "a batch waits for workers, or for the one before");
        }
        if work.waiting > 0 {
            // What should have woken the engine may have been lost.
            engine.wake().await;
        }
        let mut by_worker: BTreeMap<String, Vec<Running>> = BTreeMap::new();
        for task in self.due(&work, now) {
            by_worker.entry(task.worker.clone()).or_default().push(task);
        }
        for (worker, tasks) in by_worker {
            let names = tasks.iter().map(|task| task.name.clone()).collect();
            // Whether a worker that does not answer is lost is for its link to say.
            let Some(states) = engine.ask(&worker, names).await else {
                continue;
            };
            for (task, state) in tasks.iter().zip(states) {
                if let Some(why) = self.is_lost(task, state, Instant::now()) {
                    tracing::warn!(%job, worker, ?task, "a task runs again: {why}");
                    engine.fail(task, why).await;
                }
            }
        }
        Ok(())
    }
}

impl ClusterEngine {
    /// What a job that runs has to do.
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
        let told = SchedulerGrpc::update_task_status(&self.scheduler, Request::new(report)).await;
        if let Err(error) = told {
            tracing::warn!(%error, "the engine takes no report");
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
    fn a_task_is_asked_for_once_it_has_run_for_a_while() {
        let (mut watch, now) = (TaskWatch::new(), Instant::now());
        assert_eq!(watch.due(&work(&[0], 0), now), []);
        assert_eq!(watch.due(&work(&[0, 1], 0), now + ASK), [task(0)]);
        assert_eq!(watch.due(&work(&[0, 1], 0), now + ASK * 3 / 2), []);
        assert_eq!(
            watch.due(&work(&[0, 1], 0), now + ASK * 2),
            [task(0), task(1)]
        );
        assert_eq!(watch.due(&work(&[1], 0), now + ASK * 3), [task(1)]);
        assert_eq!(watch.since.len(), 1);
    }

    #[test]
    fn it_is_lost_when_it_ended_long_ago_or_never_began() {
        let (mut watch, now) = (TaskWatch::new(), Instant::now());
        watch.due(&work(&[0], 0), now);
        let late = LATE.as_millis() as u64;
        let lost = |state, after| watch.is_lost(&task(0), state, now + after).is_some();
        assert!(!lost(TaskState::Runs, BEGIN * 100));
        assert!(!lost(TaskState::Ended(late - 1), BEGIN * 100));
        assert!(lost(TaskState::Ended(late), ASK));
        assert!(!lost(TaskState::Unknown, BEGIN - ASK));
        assert!(lost(TaskState::Unknown, BEGIN));
    }

    #[test]
    fn a_job_with_nothing_to_do_is_stuck_and_one_that_waits_says_so_now_and_then() {
        let (mut watch, now) = (TaskWatch::new(), Instant::now());
        assert_eq!(watch.progress(&work(&[], 0), now), (false, None));
        assert_eq!(watch.progress(&work(&[0], 0), now + IDLE), (false, None));
        assert_eq!(watch.progress(&work(&[], 0), now + IDLE), (false, None));
        assert_eq!(watch.progress(&work(&[], 0), now + IDLE * 2), (true, None));

        let mut watch = TaskWatch::new();
        assert_eq!(watch.progress(&work(&[], 3), now), (false, None));
        assert_eq!(watch.progress(&work(&[], 3), now + SAY), (false, Some(SAY)));
        assert_eq!(
            watch.progress(&work(&[], 3), now + SAY * 3 / 2),
            (false, None)
        );
        assert_eq!(
            watch.progress(&work(&[], 3), now + SAY * 2),
            (false, Some(SAY * 2))
        );
    }
}
