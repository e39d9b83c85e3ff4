//! [`Engine`]: Ballista's scheduler inside the master.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ballista_core::JobId;
use ballista_core::config::{
    BALLISTA_CLIENT_IO_RETRIES_TIMES, BALLISTA_CLIENT_IO_RETRY_WAIT_TIME_MS, TaskSchedulingPolicy,
};
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::job_status::Status as JobState;
use ballista_core::serde::protobuf::scheduler_grpc_server::{SchedulerGrpc, SchedulerGrpcServer};
use ballista_core::serde::protobuf::{ExecutorStoppedParams, JobStatus, UpdateTaskStatusParams};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::create_scheduler;
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use dstreams::{Error, Result};
use dstreams_control::BatchTime;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::policy::Placement;
use super::told::Told;
use crate::plan::Codec;

type Scheduler = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// Seconds without a heartbeat after which the engine gives a worker up by itself. Our own link to
/// the worker breaks much sooner.
const SILENT_SECONDS: u64 = 30;
/// Seconds for which what is left of a finished job stays.
const FINISHED_SECONDS: u64 = 2;
/// Tries to fetch what an exchange carries, and milliseconds between them.
const FETCHES: u64 = 2;
const FETCH_AGAIN_MS: u64 = 20;
/// More tasks than any worker ever runs.
const ENDLESS: u32 = 1 << 30;
/// Statuses of a job that may wait.
const STATUSES: usize = 16;

/// See the module.
pub struct Engine {
    scheduler: Scheduler,
    context: Arc<SessionContext>,
    /// Where workers' executors connect.
    pub address: SocketAddr,
    placement: Placement,
    jobs: AtomicU64,
    serving: CancellationToken,
}

/// A job that has finished.
pub struct Done {
    /// By partition of its output: the worker that ran it.
    pub workers: HashMap<usize, String>,
}

/// The settings that the engine's plans need to stay as they are.
pub fn session_config(partitions: usize) -> SessionConfig {
    SessionConfig::new_with_ballista()
        .with_target_partitions(partitions.max(1))
        .with_round_robin_repartition(false)
        .with_ballista_broadcast_join_threshold_bytes(0)
        .with_ballista_broadcast_join_threshold_rows(0)
        .with_ballista_coalesce_enabled(false)
        .with_ballista_adaptive_query_planner(false)
        // Who holds what an exchange carries is there or lost: waiting longer helps nobody.
        .set_u64(BALLISTA_CLIENT_IO_RETRIES_TIMES, FETCHES)
        .set_u64(BALLISTA_CLIENT_IO_RETRY_WAIT_TIME_MS, FETCH_AGAIN_MS)
}

fn failed(what: impl ToString) -> Error {
    Error::Engine(Arc::new(DataFusionError::Execution(what.to_string())))
}

impl Engine {
    /// Starts the scheduler; workers connect to a free port of `host`.
    pub async fn start(host: &str, codec: Codec, partitions: usize) -> Result<Self> {
        let address = format!("{host}:0");
        let listener = TcpListener::bind(&address).await;
        let listener = listener.map_err(|source| Error::Listen {
            address,
            source: Arc::new(source),
        })?;
        let address = listener.local_addr().map_err(failed)?;
        let placement = Placement::default();
        let config = Arc::new(SchedulerConfig {
            bind_host: host.to_owned(),
            bind_port: address.port(),
            external_host: host.to_owned(),
            scheduling_policy: TaskSchedulingPolicy::PushStaged,
            executor_timeout_seconds: SILENT_SECONDS,
            finished_job_data_clean_up_interval_seconds: FINISHED_SECONDS,
            finished_job_state_clean_up_interval_seconds: FINISHED_SECONDS,
            task_distribution: TaskDistributionPolicy::Custom(Arc::new(placement.clone())),
            override_config_producer: Some(Arc::new(move || session_config(partitions))),
            override_physical_codec: Some(Arc::new(codec)),
            ..Default::default()
        });
        let cluster = BallistaCluster::new_from_config(&config).await;
        let cluster = cluster.map_err(failed)?;
        let scheduler: Scheduler = create_scheduler(cluster, config).await.map_err(failed)?;
        let serving = CancellationToken::new();
        let server = Server::builder()
            .tcp_nodelay(true)
            .add_service(SchedulerGrpcServer::new(scheduler.clone()))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                serving.clone().cancelled_owned(),
            );
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the engine's scheduler ended");
            }
        });
        Ok(Engine {
            scheduler,
            context: Arc::new(SessionContext::new_with_config(session_config(partitions))),
            address,
            placement,
            jobs: AtomicU64::new(0),
            serving,
        })
    }

    /// Runs a plan for a batch, before those of later batches; dropping the future cancels the job.
    pub async fn run(&self, batch: BatchTime, plan: Arc<dyn ExecutionPlan>) -> Result<Done> {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let (sender, mut statuses) = mpsc::channel(STATUSES);
        let name = format!("{:020}-{number:020}", batch.0);
        let context = Arc::clone(&self.context);
        let submitted = self
            .scheduler
            .submit_physical_plan(&name, context, plan, Some(sender));
        let job = submitted.await.map_err(failed)?;
        let mut cancel = Cancel {
            scheduler: self.scheduler.clone(),
            job: Some(job),
        };
        while let Some(JobStatus { status, .. }) = statuses.recv().await {
            match status {
                Some(JobState::Successful(done)) => {
                    cancel.job = None;
                    let places = done.partition_location.into_iter().filter_map(|location| {
                        let partition = location.partition_id?.partition_id as usize;
                        Some((partition, location.executor_meta?.id))
                    });
                    return Ok(Done {
                        workers: places.collect(),
                    });
                }
                Some(JobState::Failed(failure)) => {
                    cancel.job = None;
                    return Err(error_of(&failure.error));
                }
                _ => {}
            }
        }
        Err(failed("the engine said nothing of a job"))
    }

    /// A worker is gone: what it ran is run elsewhere.
    pub async fn lost(&self, worker: &str) {
        self.placement.remove(worker);
        let stopped = ExecutorStoppedParams {
            executor_id: worker.to_owned(),
            reason: "its link to the master broke".into(),
        };
        let told = SchedulerGrpc::executor_stopped(&self.scheduler, Request::new(stopped));
        if let Err(error) = told.await {
            tracing::warn!(worker, %error, "the engine does not know a lost worker");
        }
    }

    /// Makes a worker part of the engine, once its executor has registered; whether it has.
    pub async fn add(&self, worker: &str, cores: usize) -> bool {
        let executors = &self.scheduler.state.executor_manager;
        let known = executors.get_executors_state().await.unwrap_or_default();
        if !known.iter().any(|(meta, ..)| meta.id == worker) {
            return false;
        }
        self.placement.add(worker, cores);
        // The placement counts who has room; the engine's count must not be in its way.
        let room = vec![(worker.to_owned(), ENDLESS)];
        if let Err(error) = executors.unbind_tasks(room).await {
            tracing::warn!(worker, %error, "the engine has no room for tasks");
        }
        true
    }

    /// Has tasks that wait looked at again: a gate has opened.
    pub async fn wake(&self) {
        for executor_id in self.placement.workers() {
            // An empty report of a live worker makes the scheduler offer what is free.
            let nothing = UpdateTaskStatusParams {
                executor_id,
                task_status: Vec::new(),
            };
            let told = SchedulerGrpc::update_task_status(&self.scheduler, Request::new(nothing));
            match told.await {
                Ok(_) => return,
                Err(error) => tracing::warn!(%error, "the engine was not woken"),
            }
        }
    }

    /// Jobs that are running or waiting.
    pub fn jobs(&self) -> usize {
        self.scheduler.pending_job_number() + self.scheduler.running_job_number()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.serving.cancel();
    }
}

/// What a task said, if it is in the engine's text.
fn error_of(text: &str) -> Error {
    match Told::find(text) {
        Some(told) if told.retryable => retryable(text),
        Some(told) => told.into_error().unwrap_or_else(|| failed(text)),
        None => failed(text),
    }
}

/// A failure that another run of the batch may mend.
pub fn retryable(what: impl ToString) -> Error {
    let cause = std::io::Error::other(what.to_string());
    Error::Engine(Arc::new(DataFusionError::IoError(cause)))
}

/// Cancels a job whose future was dropped.
struct Cancel {
    scheduler: Scheduler,
    job: Option<JobId>,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            let scheduler = self.scheduler.clone();
            tokio::spawn(async move {
                if let Err(error) = scheduler.cancel_job(job).await {
                    tracing::warn!(%error, "a job was not cancelled");
                }
            });
        }
    }
}
