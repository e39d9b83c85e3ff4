//! [`Tasks`]: runs tasks for the engine on a worker.
//!
//! This is the last place where errors of tasks are typed: they are encoded for the master (see [`TaskError`]).
//! A failed fetch of an exchange stays as it is, since the engine then runs the exchange again. A log records which
//! tasks run and which have ended here, in case the master misses a task's report.

use std::collections::{HashMap, VecDeque};
use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::{ShuffleWritePartition, TaskColumnStats};
use ballista_executor::execution_engine::{
    DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor,
};
use datafusion::arrow::error::ArrowError;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use dstreams::Error;
use futures::FutureExt;

use super::pool::Pool;
use super::task_error::{TaskError, clip};
use super::task_runner::panic_message;
use crate::plan::{TaskName, TaskState};

/// The most ended tasks that are remembered: those of several seconds.
const MAX_ENDED: usize = 4096;

/// The running and ended tasks of a worker.
#[derive(Debug, Default)]
pub struct TaskLog(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    running: HashMap<TaskName, usize>,
    ended: VecDeque<(TaskName, Instant)>,
}

impl TaskLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a task as running until the returned value is dropped.
    fn begin(self: &Arc<Self>, name: &TaskName) -> Runs {
        *self.lock().running.entry(name.clone()).or_default() += 1;
        Runs(Arc::clone(self), name.clone())
    }

    pub fn state(&self, name: &TaskName) -> TaskState {
        let log = self.lock();
        if log.running.contains_key(name) {
            return TaskState::Runs;
        }
        let ended = log.ended.iter().rev().find(|(ended, _)| ended == name);
        ended.map_or(TaskState::Unknown, |(_, at)| {
            TaskState::Ended(at.elapsed().as_millis() as u64)
        })
    }
}

struct Runs(Arc<TaskLog>, TaskName);

impl Drop for Runs {
    fn drop(&mut self) {
        let mut log = self.0.lock();
        if let Some(count) = log.running.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                log.running.remove(&self.1);
            }
        }
        if log.ended.len() == MAX_ENDED {
            log.ended.pop_front();
        }
        log.ended.push_back((self.1.clone(), Instant::now()));
    }
}

/// Runs tasks of the engine on a worker.
pub struct Tasks {
    engine: DefaultExecutionEngine,
    log: Arc<TaskLog>,
}

impl Tasks {
    pub fn new(log: Arc<TaskLog>) -> Self {
        Tasks {
            engine: DefaultExecutionEngine::with_client_pool(Arc::new(Pool::default())),
            log,
        }
    }
}

impl ExecutionEngine for Tasks {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let name = TaskName {
            job: job_id.to_string(),
            stage: stage_id,
            task: task_id,
        };
        let outputs = global_output_partition_ids;
        let task = self
            .engine
            .create_query_stage_exec(job_id, stage_id, task_id, outputs, plan, work_dir, config)
            .map_err(|error| report(error, work_dir))?;
        Ok(Arc::new(Task {
            name,
            task,
            log: Arc::clone(&self.log),
            work_dir: work_dir.to_owned(),
        }))
    }
}

struct Task {
    name: TaskName,
    task: Arc<dyn QueryStageExecutor>,
    log: Arc<TaskLog>,
    work_dir: String,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.task.fmt(f)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.task, f)
    }
}

#[async_trait]
impl QueryStageExecutor for Task {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        let _runs = self.log.begin(&self.name);
        let run = self.task.execute_query_stage(task_id, context);
        let done = AssertUnwindSafe(run).catch_unwind().await;
        let done = done.unwrap_or_else(|panic| {
            let said = panic_message(&*panic);
            Err(DataFusionError::Execution(format!(
                "the engine panicked: {said}"
            )))
        });
        done.map_err(|error| report(error, &self.work_dir))
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.task.collect_plan_metrics()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.task.collect_column_stats()
    }
}

/// The origin of an error.
enum Cause<'e> {
    /// The program, or this library on its behalf.
    Ours(&'e Error),
    /// An exchange that could not be fetched.
    Fetch(&'e BallistaError),
    /// A disk or a network.
    Machine(ErrorKind),
    /// The engine.
    Engine,
}

/// The first error in the chain of causes that determines the origin.
fn cause_of<'e>(error: &'e (dyn StdError + 'static)) -> Cause<'e> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return Cause::Ours(error);
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Cause::Machine(error.kind());
        }
        // Only the engine's reader of exchanges uses this form; it turns network errors into text.
        if let Some(ArrowError::IpcError(_)) = error.downcast_ref::<ArrowError>() {
            return Cause::Machine(ErrorKind::Other);
        }
        if let Some(error) = error.downcast_ref::<BallistaError>() {
            return match error {
                BallistaError::FetchFailed(..) => Cause::Fetch(error),
                BallistaError::IoError(error) => Cause::Machine(error.kind()),
                BallistaError::DataFusionError(error) => cause_of(error.as_ref()),
                BallistaError::ArrowError(error) => cause_of(error.as_ref()),
                BallistaError::TonicError(_)
                | BallistaError::GrpcError(_)
                | BallistaError::GrpcConnectionError(_)
                | BallistaError::GrpcActionError(_) => Cause::Machine(ErrorKind::Other),
                _ => Cause::Engine,
            };
        }
        next = error.source();
    }
    Cause::Engine
}

/// The error in the form that reaches the master.
fn report(error: DataFusionError, work_dir: &str) -> DataFusionError {
    let task_error = match cause_of(&error) {
        Cause::Fetch(BallistaError::FetchFailed(executor, stage, partition, said)) => {
            let (executor, said) = (executor.clone(), clip(said));
            let lost = BallistaError::FetchFailed(executor, *stage, *partition, said);
            return lost.into_datafusion();
        }
        Cause::Ours(error) => TaskError::of(error),
        Cause::Machine(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            TaskError::of_the_machine(&format!(
                "no room for exchanges in {work_dir}: {error}; free space there, or give the \
                 worker another directory with --exchanges"
            ))
        }
        Cause::Machine(_) | Cause::Fetch(_) => TaskError::of_the_machine(&error.to_string()),
        Cause::Engine => TaskError::of(&Error::from(error)),
    };
    task_error.for_engine()
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::FailedTask;
    use ballista_core::serde::protobuf::failed_task::FailedReason;
    use dstreams::Operator;

    use super::*;

    fn failed(error: DataFusionError) -> FailedTask {
        FailedTask::from(BallistaError::from(report(error, "/here")))
    }

    fn full() -> std::io::Error {
        std::io::Error::from(std::io::ErrorKind::StorageFull)
    }

    #[test]
    fn errors_of_the_machine_are_retryable_however_they_are_wrapped() {
        let arrow = |error| ArrowError::IoError("writing".into(), error);
        for error in [
            DataFusionError::IoError(full()),
            DataFusionError::ArrowError(Box::new(arrow(full())), None),
            DataFusionError::IoError(full()).context("writing"),
            DataFusionError::External(Box::new(arrow(full()))),
            BallistaError::ArrowError(Box::new(arrow(full()))).into_datafusion(),
            DataFusionError::Shared(Arc::new(BallistaError::IoError(full()).into_datafusion())),
        ] {
            let failed = failed(error);
            assert!(failed.retryable, "{failed:?}");
            let error = TaskError::find(&failed.error).unwrap().into_error();
            assert!(error.is_retryable());
            assert!(error.to_string().contains("--exchanges"), "{error}");
        }
    }

    /// When the sending worker is lost, the engine's error does not name the exchange.
    #[test]
    fn an_interrupted_exchange_is_retryable() {
        let broken = || Box::new(ArrowError::IpcError("error reading a body".into()));
        for error in [
            BallistaError::ArrowError(broken()).into_datafusion(),
            DataFusionError::ArrowError(broken(), None),
            DataFusionError::External(broken()).context("reading"),
        ] {
            let failed = failed(error);
            assert!(failed.retryable, "{failed:?}");
            let error = TaskError::find(&failed.error).unwrap().into_error();
            assert!(error.is_retryable(), "{error}");
        }
    }

    #[test]
    fn a_failed_fetch_of_an_exchange_stays_a_fetch_failure() {
        let lost = BallistaError::FetchFailed("worker-1".into(), 2, 3, "gone".into());
        let failed = failed(lost.into_datafusion().context("reading"));
        let reason = failed.failed_reason.unwrap();
        assert!(
            matches!(reason, FailedReason::FetchPartitionError(_)),
            "{reason:?}"
        );
    }

    #[test]
    fn an_error_of_the_program_is_final() {
        let panic = Error::Panic {
            operator: Operator {
                name: "map".into(),
                at: "src/main.rs:7".into(),
            },
            message: "IO error: No space left".into(),
        };
        let failed_with = |error: Error| {
            let failed = failed(DataFusionError::from(error).context("running"));
            (
                TaskError::find(&failed.error).unwrap().into_error(),
                failed.retryable,
            )
        };
        let (error, retryable) = failed_with(panic);
        assert!(
            matches!(error, Error::Panic { .. }) && !retryable,
            "{error}"
        );
        let cause = DataFusionError::Execution("divided by zero".into());
        let operator = Operator {
            name: "sql".into(),
            at: "src/main.rs:8".into(),
        };
        let (error, retryable) = failed_with(Error::Engine(Arc::new(cause)).of(&operator));
        assert!(
            matches!(&error, Error::Operator { operator: of, .. } if *of == operator),
            "{error}"
        );
        assert!(!retryable);
    }

    #[test]
    fn a_worker_knows_which_tasks_run_and_which_have_ended() {
        let log = Arc::new(TaskLog::default());
        let name = |task| TaskName {
            job: "j".into(),
            stage: 1,
            task,
        };
        assert_eq!(log.state(&name(0)), TaskState::Unknown);
        let first = log.begin(&name(0));
        let again = log.begin(&name(0));
        drop(first);
        assert_eq!(log.state(&name(0)), TaskState::Runs);
        drop(again);
        assert!(matches!(log.state(&name(0)), TaskState::Ended(_)));
        for task in 1..=MAX_ENDED {
            drop(log.begin(&name(task)));
        }
        assert_eq!(log.state(&name(0)), TaskState::Unknown, "bounded");
        assert!(matches!(log.state(&name(1)), TaskState::Ended(_)));
    }
}
