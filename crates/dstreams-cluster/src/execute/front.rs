//! [`Front`]: the engine's scheduler as executors reach it.
//!
//! Executors report here. A report of a failed task is read before the scheduler makes a text of it; an executor that
//! is not, or no more, one of a worker of this cluster is refused; what executors never ask for is not answered.

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
use super::task_error::{TaskError, clip};

/// More tasks than any worker ever runs: the placement counts who has room, and the engine's count, which is not right
/// after a loss, must not be in its way. Also when an executor registers again.
const ENDLESS: u32 = 1 << 30;
/// Jobs of which a failure is remembered: more than run at once.
const REMEMBERED: usize = 256;

/// How long the engine takes to forget an executor, at most: so many times so long.
const TRIES: u32 = 100;
const WAY: Duration = Duration::from_millis(20);

/// For tests: how many reports are lost.
#[cfg(test)]
pub static LOSE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

#[cfg(test)]
fn is_lost() -> bool {
    use std::sync::atomic::Ordering::SeqCst;
    LOSE.fetch_update(SeqCst, SeqCst, |lose| lose.checked_sub(1))
        .is_ok()
}

/// What tasks failed with, by job, until somebody asks.
#[derive(Debug, Default)]
pub struct Failures(Mutex<VecDeque<(String, TaskError)>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, TaskError)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that no other try can mend stays; of others the last.
    pub fn note(&self, job: &str, told: TaskError) {
        let mut failures = self.lock();
        match failures.iter_mut().find(|(of, _)| of == job) {
            Some((_, noted)) if !noted.retryable => {}
            Some((_, noted)) => *noted = told,
            None => {
                if failures.len() == REMEMBERED {
                    failures.pop_front();
                }
                failures.push_back((job.to_owned(), told));
            }
        }
    }

    /// Why the job failed, where a task of it said so.
    pub fn take(&self, job: &str) -> Option<TaskError> {
        let mut failures = self.lock();
        let at = failures.iter().position(|(of, _)| of == job)?;
        failures.remove(at).map(|(_, told)| told)
    }
}

/// Executors that may be here.
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
                "{executor} is not of this cluster, or not any more"
            ))),
        }
    }
}

/// The engine's scheduler, as executors reach it.
pub struct Front {
    pub scheduler: Scheduler,
    pub failures: Arc<Failures>,
    pub admitted: Arc<Admitted>,
}

impl Front {
    /// A worker's executor that ended without a word makes way for its next one: the engine takes a name once.
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
        for _ in 0..TRIES {
            tokio::time::sleep(WAY).await;
            if executors.get_executor_metadata(executor).await.is_err() {
                return Ok(());
            }
        }
        Err(Status::unavailable("its last executor is still there"))
    }

    /// An executor that was lost while it registered leaves again.
    async fn still(&self, executor: &str) -> Result<(), Status> {
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
            let told = TaskError::find(&failed.error);
            failed.error = match &told {
                Some(told) => told.to_string(),
                None => clip(&failed.error),
            };
            if let Some(told) = told {
                let told = told.at(worker, status.task_id as usize);
                self.failures.note(&status.job_id, told);
            }
        }
    }
}

fn endless(executor: &mut ExecutorRegistration) {
    let endless = ExecutorSpecification::default().with_vcores(ENDLESS);
    executor.specification = Some(endless.into());
}

fn not_spoken<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not spoken here"))
}

type Statuses = Pin<Box<dyn Stream<Item = Result<GetJobStatusResult, Status>> + Send>>;

#[tonic::async_trait]
impl SchedulerGrpc for Front {
    type ExecuteQueryPushStream = Statuses;

    async fn register_executor(
        &self,
        mut request: Request<RegisterExecutorParams>,
    ) -> Result<Response<RegisterExecutorResult>, Status> {
        let Some(executor) = &mut request.get_mut().metadata else {
            return Err(Status::invalid_argument("an executor without its data"));
        };
        self.admitted.check(&executor.id)?;
        endless(executor);
        let name = executor.id.clone();
        self.make_way(&name).await?;
        let answer = SchedulerGrpc::register_executor(&self.scheduler, request).await?;
        self.still(&name).await?;
        Ok(answer)
    }

    /// Registers an executor again that the engine has removed.
    async fn heart_beat_from_executor(
        &self,
        mut request: Request<HeartBeatParams>,
    ) -> Result<Response<HeartBeatResult>, Status> {
        let beat = request.get_mut();
        self.admitted.check(&beat.executor_id)?;
        beat.metadata.as_mut().map(endless);
        let name = beat.executor_id.clone();
        let answer = SchedulerGrpc::heart_beat_from_executor(&self.scheduler, request).await?;
        self.still(&name).await?;
        Ok(answer)
    }

    async fn update_task_status(
        &self,
        mut request: Request<UpdateTaskStatusParams>,
    ) -> Result<Response<UpdateTaskStatusResult>, Status> {
        let report = request.get_mut();
        self.admitted.check(&report.executor_id)?;
        #[cfg(test)]
        if is_lost() {
            return Err(Status::unavailable("lost, for a test"));
        }
        let worker = &report.executor_id;
        let statuses = report.task_status.iter_mut();
        statuses.for_each(|status| self.read(worker, status));
        SchedulerGrpc::update_task_status(&self.scheduler, request).await
    }

    async fn executor_stopped(
        &self,
        request: Request<ExecutorStoppedParams>,
    ) -> Result<Response<ExecutorStoppedResult>, Status> {
        self.admitted.check(&request.get_ref().executor_id)?;
        SchedulerGrpc::executor_stopped(&self.scheduler, request).await
    }

    async fn poll_work(
        &self,
        _: Request<PollWorkParams>,
    ) -> Result<Response<PollWorkResult>, Status> {
        not_spoken()
    }

    async fn create_update_session(
        &self,
        _: Request<CreateUpdateSessionParams>,
    ) -> Result<Response<CreateUpdateSessionResult>, Status> {
        not_spoken()
    }

    async fn remove_session(
        &self,
        _: Request<RemoveSessionParams>,
    ) -> Result<Response<RemoveSessionResult>, Status> {
        not_spoken()
    }

    async fn execute_query_push(
        &self,
        _: Request<ExecuteQueryParams>,
    ) -> Result<Response<Statuses>, Status> {
        not_spoken()
    }

    async fn execute_query(
        &self,
        _: Request<ExecuteQueryParams>,
    ) -> Result<Response<ExecuteQueryResult>, Status> {
        not_spoken()
    }

    async fn get_job_status(
        &self,
        _: Request<GetJobStatusParams>,
    ) -> Result<Response<GetJobStatusResult>, Status> {
        not_spoken()
    }

    async fn get_job_metrics(
        &self,
        _: Request<GetJobMetricsParams>,
    ) -> Result<Response<GetJobMetricsResult>, Status> {
        not_spoken()
    }

    async fn cancel_job(
        &self,
        _: Request<CancelJobParams>,
    ) -> Result<Response<CancelJobResult>, Status> {
        not_spoken()
    }

    async fn clean_job_data(
        &self,
        _: Request<CleanJobDataParams>,
    ) -> Result<Response<CleanJobDataResult>, Status> {
        not_spoken()
    }
}
