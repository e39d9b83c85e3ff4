//! [`ClusterEngine`]: Ballista's scheduler inside the master.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ballista_core::JobId;
use ballista_core::config::{
    BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, BALLISTA_CLIENT_IO_RETRIES_TIMES,
    BALLISTA_CLIENT_IO_RETRY_WAIT_TIME_MS, TaskSchedulingPolicy,
};
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::job_status::Status as JobState;
use ballista_core::serde::protobuf::scheduler_grpc_server::{SchedulerGrpc, SchedulerGrpcServer};
use ballista_core::serde::protobuf::{ExecutorStoppedParams, JobStatus, UpdateTaskStatusParams};
use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::metrics::default_metrics_collector;
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use dstreams::internal::{Acceptor, log_reachable};
use dstreams::{Error, Result};
use dstreams_control::BatchTime;
use dstreams_control::cluster::SpeculationConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Server;

use super::launch::{Launcher, MESSAGE};
use super::placement::Placement;
use super::scheduler_proxy::{Admitted, Failures, SchedulerProxy};
use super::speculate::{LOOK_INTERVAL, TaskCopies};
use super::task_error::clip;
use super::watch::{CHECK_INTERVAL, TaskWatch};
use crate::data::{CONNECTIONS, Peers};
use crate::plan::Codec;
use crate::plan::{TaskName, TaskState};
use crate::retry::retryable;

pub type Scheduler = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// Seconds without a heartbeat after which the engine itself gives up a worker: effectively never. It uses the wall
/// clock, so a clock set forward would lose all workers. Our own links detect lost workers, by probes.
const SILENT_SECONDS: u64 = 365 * 24 * 3600;
/// Seconds until the engine cleans up a finished job.
const FINISHED_SECONDS: u64 = 2;
/// Tries to fetch data of an exchange, and milliseconds between them.
const FETCH_TRIES: u64 = 2;
const FETCH_PAUSE_MS: u64 = 20;
/// Statuses of a job that may queue; further ones are dropped, and the next look at the job makes up for them.
const STATUS_QUEUE: usize = 16;
/// Looks at a job unknown to the engine before it is given up: the engine may not have got to it yet.
const MAX_UNKNOWN_LOOKS: u32 = 10;
/// Pause between two tries to cancel a job: the first, and the longest.
const CANCEL_PAUSE: Duration = Duration::from_millis(20);
const MAX_CANCEL_PAUSE: Duration = Duration::from_secs(1);

/// Ballista's scheduler, inside the master.
pub struct ClusterEngine {
    pub scheduler: Scheduler,
    context: Arc<SessionContext>,
    /// Address for the workers' executors.
    pub address: String,
    placement: Placement,
    peers: Peers,
    failures: Arc<Failures>,
    admitted: Arc<Admitted>,
    copies: TaskCopies,
    jobs: AtomicU64,
    serving: CancellationToken,
}

/// A job that has finished.
pub struct Done {
    /// The worker that ran each partition of its output.
    pub workers: HashMap<usize, String>,
}

/// Settings under which the engine leaves our plans unchanged.
pub fn session_config(partitions: usize) -> SessionConfig {
    SessionConfig::new_with_ballista()
        .with_target_partitions(partitions.max(1))
        .with_round_robin_repartition(false)
        .with_ballista_broadcast_join_threshold_bytes(0)
        .with_ballista_broadcast_join_threshold_rows(0)
        .with_ballista_coalesce_enabled(false)
        .with_ballista_adaptive_query_planner(false)
        // The worker with an exchange's data is there or lost: waiting longer does not help.
        .set_u64(BALLISTA_CLIENT_IO_RETRIES_TIMES, FETCH_TRIES)
        .set_u64(BALLISTA_CLIENT_IO_RETRY_WAIT_TIME_MS, FETCH_PAUSE_MS)
        .set_usize(BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, MESSAGE)
}

/// The engine's scheduler settings, without its addresses.
pub(super) fn scheduler_config(partitions: usize) -> SchedulerConfig {
    SchedulerConfig {
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_timeout_seconds: SILENT_SECONDS,
        // A job without any worker waits for new ones; its batch does not fail.
        no_executors_grace_period_seconds: SILENT_SECONDS,
        finished_job_data_clean_up_interval_seconds: FINISHED_SECONDS,
        finished_job_state_clean_up_interval_seconds: FINISHED_SECONDS,
        override_config_producer: Some(Arc::new(move || session_config(partitions))),
        ..Default::default()
    }
}

fn failed(what: impl ToString) -> Error {
    Error::Engine(Arc::new(DataFusionError::Execution(what.to_string())))
}

impl ClusterEngine {
    /// Starts the scheduler on a free port of `bound`; workers connect to `host`.
    pub async fn start(
        (bound, host): (&str, &str),
        codec: Codec,
        partitions: usize,
        peers: Peers,
        speculation: Option<SpeculationConfig>,
    ) -> Result<Self> {
        let address = format!("{bound}:0");
        let listener = TcpListener::bind(&address).await;
        let listener = listener.map_err(|source| Error::Listen {
            address,
            source: Arc::new(source),
        })?;
        let at = listener.local_addr().map_err(failed)?;
        log_reachable("the engine's scheduler", at, false);
        let port = at.port();
        let copies = TaskCopies::new(speculation);
        let placement = Placement::new(copies.clone());
        let config = SchedulerConfig {
            bind_host: bound.to_owned(),
            bind_port: port,
            external_host: host.to_owned(),
            task_distribution: TaskDistributionPolicy::Custom(Arc::new(placement.clone())),
            ..scheduler_config(partitions)
        };
        let config = Arc::new(config);
        let cluster = BallistaCluster::new_from_config(&config).await;
        let cluster = cluster.map_err(failed)?;
        let failures = Arc::<Failures>::default();
        let admitted = Arc::<Admitted>::default();
        let launcher = Launcher {
            endpoint: config.scheduler_endpoint(),
            failures: Arc::clone(&failures),
            copies: copies.clone(),
        };
        let logical = Arc::new(BallistaLogicalExtensionCodec::default());
        let mut scheduler: Scheduler = SchedulerServer::new_with_task_launcher(
            config.scheduler_endpoint(),
            cluster,
            BallistaCodec::new(logical, Arc::new(codec)),
            config,
            default_metrics_collector().map_err(failed)?,
            Arc::new(launcher),
        );
        scheduler.init().await.map_err(failed)?;
        let serving = CancellationToken::new();
        let front = SchedulerProxy {
            scheduler: scheduler.clone(),
            failures: Arc::clone(&failures),
            admitted: Arc::clone(&admitted),
            copies: copies.clone(),
        };
        let front = SchedulerGrpcServer::new(front)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        let connections = Acceptor::new(listener, CONNECTIONS, "").map_err(failed)?;
        let connections = connections.into_stream();
        let server = Server::builder()
            .add_service(front)
            .serve_with_incoming_shutdown(connections, serving.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the engine's scheduler stopped with an error");
            }
        });
        if copies.are_made() {
            let look = look(
                scheduler.clone(),
                placement.clone(),
                peers.clone(),
                copies.clone(),
            );
            tokio::spawn(serving.clone().run_until_cancelled_owned(look));
        }
        Ok(ClusterEngine {
            scheduler,
            context: Arc::new(SessionContext::new_with_config(session_config(partitions))),
            address: format!("{host}:{port}"),
            placement,
            peers,
            failures,
            admitted,
            copies,
            jobs: AtomicU64::new(0),
            serving,
        })
    }

    /// Runs a plan for a batch, with priority over later batches; dropping the future cancels the job.
    pub async fn run(&self, batch: BatchTime, plan: Arc<dyn ExecutionPlan>) -> Result<Done> {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let (sender, statuses) = mpsc::channel(STATUS_QUEUE);
        let name = format!("{:020}-{number:020}", batch.millis());
        let context = Arc::clone(&self.context);
        let submitted = self
            .scheduler
            .submit_physical_plan(&name, context, plan, Some(sender));
        let job = submitted.await.map_err(failed)?;
        let mut running = RunningJob {
            scheduler: self.scheduler.clone(),
            job: job.clone(),
            statuses: Some(statuses),
            serving: self.serving.clone(),
        };
        let ended = self.wait(&job, &mut running).await;
        let failure = self.failures.take(job.as_str());
        if let Ok(ended) = &ended {
            running.statuses = None;
            if let JobState::Failed(failed) = ended {
                return Err(match failure {
                    Some(error) => error.into_error(),
                    // No task reported an error of the program: the engine lost workers, or their data.
                    None => retryable(clip(&failed.error)),
                });
            }
        }
        let JobState::Successful(done) = ended? else {
            return Err(failed("the engine ended a job with an unknown status"));
        };
        self.copies.job_ended(job.as_str(), batch);
        let places = done.partition_location.into_iter().filter_map(|location| {
            let partition = location.partition_id?.partition_id as usize;
            Some((partition, location.executor_meta?.id))
        });
        Ok(Done {
            workers: places.collect(),
        })
    }

    /// Waits until the job has ended; watches it meanwhile.
    async fn wait(&self, job: &JobId, running: &mut RunningJob) -> Result<JobState> {
        let mut watch = TaskWatch::new();
        let mut looks = tokio::time::interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unknown = 0;
        loop {
            let said = tokio::select! {
                biased;
                Some(said) = next(&mut running.statuses) => Some(said),
                _ = looks.tick() => {
                    watch.look(self, job).await?;
                    let state = self.scheduler.state.task_manager.get_job_status(job).await;
                    let state = state.map_err(failed)?;
                    unknown = if state.is_some() { 0 } else { unknown + 1 };
                    if unknown == MAX_UNKNOWN_LOOKS {
                        return Err(retryable("the engine no longer knows a job"));
                    }
                    state
                }
            };
            let state = said.and_then(|said| said.status);
            if let Some(ended @ (JobState::Successful(_) | JobState::Failed(_))) = state {
                return Ok(ended);
            }
        }
    }

    /// Removes a lost worker: its tasks run elsewhere.
    pub async fn lost(&self, worker: &str) {
        self.admitted.remove(worker);
        self.placement.remove(worker);
        self.copies.removed(worker);
        let stopped = ExecutorStoppedParams {
            executor_id: worker.to_owned(),
            reason: "its link to the master broke".into(),
        };
        let reported = SchedulerGrpc::executor_stopped(&self.scheduler, Request::new(stopped));
        if let Err(error) = reported.await {
            tracing::warn!(worker, %error, "cannot remove a lost worker from the engine");
        }
    }

    /// Lets the worker's executor register from now on.
    pub fn admit(&self, worker: &str) {
        self.admitted.add(worker);
    }

    /// Adds a worker to the engine if its executor has registered; returns whether it has.
    pub async fn add(&self, worker: &str, cores: usize, address: &str) -> bool {
        if !registered(&self.scheduler).await.contains(worker) {
            return false;
        }
        self.placement.add(worker, cores, address);
        true
    }

    /// The workers that are part of the engine.
    pub fn workers(&self) -> Vec<String> {
        self.placement.workers()
    }

    /// Makes the engine reconsider waiting tasks, since a gate has opened.
    pub async fn wake(&self) {
        wake(&self.scheduler).await;
    }

    /// The states of tasks as a worker knows them, in their order, if it answers.
    pub async fn ask(&self, worker: &str, tasks: Vec<TaskName>) -> Option<Vec<TaskState>> {
        ask(&self.placement, &self.peers, worker, tasks).await
    }

    /// The copies of slow tasks that were started, and those that succeeded before their original.
    pub fn copies(&self) -> (u64, u64) {
        self.copies.counts()
    }

    /// A batch has ended.
    pub fn batch_ended(&self, batch: BatchTime) {
        self.copies.batch_ended(batch);
    }

    /// The workers that are too slow to be given state, and whether each rests: then it gets no tasks either.
    pub fn slow_workers(&self) -> BTreeMap<String, bool> {
        self.copies.slow()
    }

    /// Jobs that are running or waiting.
    pub fn jobs(&self) -> usize {
        self.scheduler.pending_job_number() + self.scheduler.running_job_number()
    }
}

impl Drop for ClusterEngine {
    fn drop(&mut self) {
        self.serving.cancel();
    }
}

/// The registered executors.
async fn registered(scheduler: &Scheduler) -> HashSet<String> {
    let known = scheduler.state.executor_manager.get_executors_state().await;
    let known = known.unwrap_or_default().into_iter();
    // An executor that is just being removed has no heartbeat.
    let known = known.filter(|(_, heartbeat, _)| heartbeat.is_some());
    known.map(|(executor, ..)| executor.id).collect()
}

async fn wake(scheduler: &Scheduler) {
    // An empty report from a known executor makes the scheduler offer free capacity. If it knows none, or that one
    // is removed meanwhile, the next registration has the same effect.
    let Some(executor_id) = registered(scheduler).await.into_iter().next() else {
        return;
    };
    let nothing = UpdateTaskStatusParams {
        executor_id,
        task_status: Vec::new(),
    };
    let reported = SchedulerGrpc::update_task_status(scheduler, Request::new(nothing));
    if let Err(error) = reported.await {
        tracing::warn!(%error, "cannot wake the engine");
    }
}

async fn ask(
    placement: &Placement,
    peers: &Peers,
    worker: &str,
    tasks: Vec<TaskName>,
) -> Option<Vec<TaskState>> {
    let address = placement.address(worker)?;
    peers.tasks(tasks, &address).await.ok()
}

/// Has slow tasks copied, until the engine ends.
async fn look(scheduler: Scheduler, placement: Placement, peers: Peers, copies: TaskCopies) {
    let looks = async {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if !copies.has_stages() {
                continue;
            }
            let jobs = scheduler.state.task_manager.get_running_job_cache();
            let free = placement.free(&jobs).await;
            if copies.look(&scheduler, free).await {
                wake(&scheduler).await;
            }
        }
    };
    let asks = async {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            for (worker, tasks) in copies.due(std::time::Instant::now()) {
                let names = tasks.iter().map(|(stage, task)| TaskName {
                    job: stage.0.clone(),
                    stage: stage.1,
                    task: *task,
                });
                let states = ask(&placement, &peers, &worker, names.collect()).await;
                for (task, state) in tasks.iter().zip(states.unwrap_or_default()) {
                    copies.answered(task, state, std::time::Instant::now());
                }
            }
        }
    };
    tokio::join!(looks, asks);
}

async fn next(statuses: &mut Option<mpsc::Receiver<JobStatus>>) -> Option<JobStatus> {
    statuses.as_mut()?.recv().await
}

/// Cancels a job whose future was dropped before its end.
struct RunningJob {
    scheduler: Scheduler,
    job: JobId,
    /// `None` once the job has ended.
    statuses: Option<mpsc::Receiver<JobStatus>>,
    serving: CancellationToken,
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        let Some(statuses) = self.statuses.take() else {
            return;
        };
        let (scheduler, job) = (self.scheduler.clone(), self.job.clone());
        let cancel = self
            .serving
            .clone()
            .run_until_cancelled_owned(cancel(scheduler, job, statuses));
        tokio::spawn(cancel);
    }
}

/// Cancels a job again and again until it has ended: the engine ignores a cancellation while it still plans the job.
/// It has the other end of `statuses` for as long as it has the job.
async fn cancel(scheduler: Scheduler, job: JobId, mut statuses: mpsc::Receiver<JobStatus>) {
    let mut pause = CANCEL_PAUSE;
    let ended = async |statuses: &mut mpsc::Receiver<JobStatus>| {
        while let Some(JobStatus { status, .. }) = statuses.recv().await {
            if let Some(JobState::Successful(_) | JobState::Failed(_)) = status {
                return;
            }
        }
    };
    loop {
        if let Err(error) = scheduler.cancel_job(job.clone()).await {
            tracing::warn!(%job, %error, "cannot cancel a job");
        }
        if tokio::time::timeout(pause, ended(&mut statuses))
            .await
            .is_ok()
        {
            break;
        }
        pause = (pause * 2).min(MAX_CANCEL_PAUSE);
    }
    // A cancelled task may have written after its files were removed.
    tokio::time::sleep(Duration::from_secs(FINISHED_SECONDS)).await;
    scheduler.state.executor_manager.clean_up_job_data(job);
}
