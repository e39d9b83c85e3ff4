//! [`SchedulerProxy`]: the service in front of the engine's scheduler, to which executors connect.
//!
//! It reads reports of failed tasks before the scheduler turns them into text, drops reports that do not count since a
//! copy of the task ran (see [`TaskCopies`]), refuses executors that do not belong to a current worker of this cluster,
//! and does not answer calls that executors never make.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::task_status::Status as TaskState;
use ballista_core::serde::protobuf::{
    CancelJobParams, CancelJobResult, CleanJobDataParams, CleanJobDataResult,
    CreateUpdateSessionParams, CreateUpdateSessionResult, ExecuteQueryParams, ExecuteQueryResult,
    ExecutorRegistration, ExecutorStoppedParams, ExecutorStoppedResult, GetJobMetricsParams,
    GetJobMetricsResult, GetJobStatusParams, GetJobStatusResult, HeartBeatParams, HeartBeatResult,
    PollWorkParams, PollWorkResult, RegisterExecutorParams, RegisterExecutorResult,
    RemoveSessionParams, RemoveSessionResult, TaskStatus, UpdateTaskStatusParams,
    UpdateTaskStatusResult,
};
use ballista_core::serde::scheduler::ExecutorSpecification;
use futures::Stream;
use tonic::{Request, Response, Status};

use super::engine::Scheduler;
use super::speculate::TaskCopies;
use super::task_error::{TaskError, clip};

/// More tasks than any worker runs. The placement counts free cores itself; the engine's own count is wrong after a
/// loss and must never be the limit, also when an executor registers again.
const UNLIMITED_CORES: u32 = 1 << 30;
/// The most jobs whose failures are remembered: more than run at once.
const MAX_FAILED_JOBS: usize = 256;

/// Polls until the engine has forgotten an executor, and the pause between them.
const FORGET_POLLS: u32 = 100;
const FORGET_PAUSE: Duration = Duration::from_millis(20);

/// For tests: the number of reports to lose.
#[cfg(test)]
pub static REPORTS_TO_LOSE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

#[cfg(test)]
fn is_lost() -> bool {
    use std::sync::atomic::Ordering::SeqCst;
    REPORTS_TO_LOSE
        .fetch_update(SeqCst, SeqCst, |lose| lose.checked_sub(1))
        .is_ok()
}

/// Failures of tasks, by job, until they are taken.
#[derive(Debug, Default)]
pub struct Failures(Mutex<VecDeque<(String, TaskError)>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, TaskError)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a failure. A job's first permanent failure stays; of retryable ones the last.
    pub fn note(&self, job: &str, task_error: TaskError) {
        let mut failures = self.lock();
        match failures.iter_mut().find(|(of, _)| of == job) {
            Some((_, noted)) if !noted.retryable => {}
            Some((_, noted)) => *noted = task_error,
            None => {
                if failures.len() == MAX_FAILED_JOBS {
                    failures.pop_front();
                }
                failures.push_back((job.to_owned(), task_error));
            }
        }
    }

    /// Removes and returns the failure that a task of the job reported, if any.
    pub fn take(&self, job: &str) -> Option<TaskError> {
        let mut failures = self.lock();
        let at = failures.iter().position(|(of, _)| of == job)?;
        failures.remove(at).map(|(_, task_error)| task_error)
    }
}

/// Executors that may register.
#[derive(Debug, Default)]
pub struct Admitted(Mutex<HashSet<String>>);

impl Admitted {
    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, executor: &str) {
        self.lock().insert(executor.to_owned());
    }

    pub fn remove(&self, executor: &str) {
        self.lock().remove(executor);
    }

    fn check(&self, executor: &str) -> Result<(), Status> {
        match self.lock().contains(executor) {
            true => Ok(()),
            false => Err(Status::failed_precondition(format!(
                "{executor} does not belong to this cluster (any more)"
            ))),
        }
    }
}

/// The service in front of the engine's scheduler.
pub struct SchedulerProxy {
    pub scheduler: Scheduler,
    pub failures: Arc<Failures>,
    pub admitted: Arc<Admitted>,
    pub copies: TaskCopies,
}

impl SchedulerProxy {
    /// Removes the previous executor of the same worker, which ended silently: the engine accepts a name only once.
    async fn make_way(&self, executor: &str) -> Result<(), Status> {
        let executors = &self.scheduler.state.executor_manager;
        if executors.get_executor_metadata(executor).await.is_err() {
            return Ok(());
        }
        let stopped = ExecutorStoppedParams {
            executor_id: executor.to_owned(),
            reason: "another one of its worker registers".into(),
        };
        SchedulerGrpc::executor_stopped(&self.scheduler, Request::new(stopped)).await?;
        for _ in 0..FORGET_POLLS {
            tokio::time::sleep(FORGET_PAUSE).await;
            if executors.get_executor_metadata(executor).await.is_err() {
                return Ok(());
            }
        }
        Err(Status::unavailable(
            "its previous executor is still registered",
        ))
    }

    /// Removes an executor again whose worker was lost while it registered.
    async fn check_again(&self, executor: &str) -> Result<(), Status> {
        let admitted = self.admitted.check(executor);
        if admitted.is_err() {
            let stopped = ExecutorStoppedParams {
                executor_id: executor.to_owned(),
                reason: "it was lost while it registered".into(),
            };
            SchedulerGrpc::executor_stopped(&self.scheduler, Request::new(stopped)).await?;
        }
        admitted
    }

    fn read(&self, worker: &str, status: &mut TaskStatus) {
        if let Some(TaskState::Failed(failed)) = &mut status.status {
            let task_error = TaskError::find(&failed.error);
            failed.error = match &task_error {
                Some(task_error) => task_error.to_string(),
                None => clip(&failed.error),
            };
            if let Some(task_error) = task_error {
                let task_error = task_error.at(worker, status.task_id as usize);
                self.failures.note(&status.job_id, task_error);
            }
        }
    }
}

fn unlimited(executor: &mut ExecutorRegistration) {
    let unlimited = ExecutorSpecification::default().with_vcores(UNLIMITED_CORES);
    executor.specification = Some(unlimited.into());
}

fn unsupported<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not spoken here"))
}

type Statuses = Pin<Box<dyn Stream<Item = Result<GetJobStatusResult, Status>> + Send>>;

#[tonic::async_trait]
impl SchedulerGrpc for SchedulerProxy {
    type ExecuteQueryPushStream = Statuses;

    async fn register_executor(
        &self,
        mut request: Request<RegisterExecutorParams>,
    ) -> Result<Response<RegisterExecutorResult>, Status> {
        let Some(executor) = &mut request.get_mut().metadata else {
            return Err(Status::invalid_argument("an executor without its metadata"));
        };
        self.admitted.check(&executor.id)?;
        unlimited(executor);
        let name = executor.id.clone();
        // Its worker may have had one before.
        self.copies.lost(&name);
        self.make_way(&name).await?;
        let answer = SchedulerGrpc::register_executor(&self.scheduler, request).await?;
        self.check_again(&name).await?;
        Ok(answer)
    }

    /// Re-registers an executor that the engine has removed.
    async fn heart_beat_from_executor(
        &self,
        mut request: Request<HeartBeatParams>,
    ) -> Result<Response<HeartBeatResult>, Status> {
        let beat = request.get_mut();
        self.admitted.check(&beat.executor_id)?;
        beat.metadata.as_mut().map(unlimited);
        let name = beat.executor_id.clone();
        let answer = SchedulerGrpc::heart_beat_from_executor(&self.scheduler, request).await?;
        self.check_again(&name).await?;
        Ok(answer)
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusParams>,
    ) -> Result<Response<UpdateTaskStatusResult>, Status> {
        let mut report = request.into_inner();
        self.admitted.check(&report.executor_id)?;
        #[cfg(test)]
        if is_lost() {
            return Err(Status::unavailable("lost, for a test"));
        }
        let worker = &report.executor_id;
        let mut passing = Vec::with_capacity(report.task_status.len());
        for mut status in std::mem::take(&mut report.task_status) {
            if self.copies.settle(&self.scheduler, worker, &status).await {
                self.read(worker, &mut status);
                passing.push(status);
            }
        }
        // Also if nothing is left: a core is free.
        report.task_status = passing;
        SchedulerGrpc::update_task_status(&self.scheduler, Request::new(report)).await
    }

    async fn executor_stopped(
        &self,
        request: Request<ExecutorStoppedParams>,
    ) -> Result<Response<ExecutorStoppedResult>, Status> {
        self.admitted.check(&request.get_ref().executor_id)?;
        self.copies.lost(&request.get_ref().executor_id);
        SchedulerGrpc::executor_stopped(&self.scheduler, request).await
    }

    async fn poll_work(
        &self,
        _: Request<PollWorkParams>,
    ) -> Result<Response<PollWorkResult>, Status> {
        unsupported()
    }

    async fn create_update_session(
        &self,
        _: Request<CreateUpdateSessionParams>,
    ) -> Result<Response<CreateUpdateSessionResult>, Status> {
        unsupported()
    }

    async fn remove_session(
        &self,
        _: Request<RemoveSessionParams>,
    ) -> Result<Response<RemoveSessionResult>, Status> {
        unsupported()
    }

    async fn execute_query_push(
        &self,
        _: Request<ExecuteQueryParams>,
    ) -> Result<Response<Statuses>, Status> {
        unsupported()
    }

    async fn execute_query(
        &self,
        _: Request<ExecuteQueryParams>,
    ) -> Result<Response<ExecuteQueryResult>, Status> {
        unsupported()
    }

    async fn get_job_status(
        &self,
        _: Request<GetJobStatusParams>,
    ) -> Result<Response<GetJobStatusResult>, Status> {
        unsupported()
    }

    async fn get_job_metrics(
        &self,
        _: Request<GetJobMetricsParams>,
    ) -> Result<Response<GetJobMetricsResult>, Status> {
        unsupported()
    }

    async fn cancel_job(
        &self,
        _: Request<CancelJobParams>,
    ) -> Result<Response<CancelJobResult>, Status> {
        unsupported()
    }

    async fn clean_job_data(
        &self,
        _: Request<CleanJobDataParams>,
    ) -> Result<Response<CleanJobDataResult>, Status> {
        unsupported()
    }
}
