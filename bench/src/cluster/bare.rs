//! The engine alone: a job like `small` on Ballista, without any part of `dstreams`.
//!
//! One scheduler in this process and two executor processes of one core; a scan of the same words, one row for each
//! word; partial counts, an exchange into two partitions, final counts. The clock runs from the submission of the
//! physical plan to the message that it has succeeded; the result is not fetched. `held`: the executors have the
//! words in memory. `shipped`: the words travel with the plan.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::JobStatus;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::create_scheduler;
use ballista_scheduler::scheduler_server::SchedulerServer;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use dstreams::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use dstreams::datafusion::common::DataFusionError;
use dstreams::datafusion::datasource::memory::MemorySourceConfig;
use dstreams::datafusion::functions_aggregate::count::count_udaf;
use dstreams::datafusion::physical_expr::aggregate::AggregateExprBuilder;
use dstreams::datafusion::physical_expr::expressions::{Column, col};
use dstreams::datafusion::physical_plan::aggregates::{
    AggregateExec, AggregateMode, PhysicalGroupBy,
};
use dstreams::datafusion::physical_plan::repartition::RepartitionExec;
use dstreams::datafusion::physical_plan::{ExecutionPlan, Partitioning};
use dstreams::datafusion::prelude::{SessionConfig, SessionContext};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::preloaded_words::{Codec, PreloadedExec, reference_schema, words_of_part, words_schema};
use super::processes::Process;
use super::small::input;
use super::{Rows, runtime};
use crate::own::{Outcome, flag, percentiles};

/// Number of executors, and of partitions everywhere.
pub const PARTS: usize = 2;
/// Seconds for which the data of a finished job is retained: as in `dstreams`.
const FINISHED_SECONDS: u64 = 2;

type Scheduler = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;
type Plan = Arc<dyn ExecutionPlan>;

/// The settings of sessions, as in `dstreams`.
pub fn session_config() -> SessionConfig {
    SessionConfig::new_with_ballista()
        .with_target_partitions(PARTS)
        .with_round_robin_repartition(false)
        .with_ballista_broadcast_join_threshold_bytes(0)
        .with_ballista_broadcast_join_threshold_rows(0)
        .with_ballista_coalesce_enabled(false)
        .with_ballista_adaptive_query_planner(false)
}

/// `bench part bare [--input held|shipped] [--batches N]`
pub fn bare(flags: &[String]) -> Outcome<Value> {
    let from = flag(flags, "--input", "held".to_owned())?;
    let (args, input) = input(flags)?;
    let words = |batch: usize| (0..PARTS).map(move |part| (batch, part));
    let runtime = runtime()?;
    runtime.block_on(async {
        let (scheduler, port) = schedule().await?;
        let work_dir = WorkDir::new()?;
        let _executors = execute(&scheduler, port, &work_dir, input.batches.len()).await?;
        let context = Arc::new(SessionContext::new_with_config(session_config()));
        let mut rows = Rows::new(&["total_ms", "rows"]);
        for (at, text) in input.batches.iter().enumerate() {
            let scan: Plan = match from.as_str() {
                "shipped" => {
                    let parts = words(at).map(|(_, part)| Ok(vec![words_of_part(text, part)?]));
                    let parts = parts.collect::<Outcome<Vec<_>>>()?;
                    MemorySourceConfig::try_new_exec(&parts, words_schema(), None)?
                }
                _ => {
                    let parts = words(at).map(|(batch, part)| Ok(vec![reference(batch, part)?]));
                    let parts = parts.collect::<Outcome<Vec<_>>>()?;
                    let table = MemorySourceConfig::try_new_exec(&parts, reference_schema(), None)?;
                    Arc::new(PreloadedExec::new(table, None))
                }
            };
            let begun = Instant::now();
            let groups = run(&scheduler, &context, at, word_count(scan)?).await?;
            let total = begun.elapsed().as_secs_f64() * 1e3;
            let wanted = input.expected.words[at].distinct;
            if groups != wanted {
                return Err(format!("batch {at} has {groups} words, not {wanted}").into());
            }
            if at >= args.warm_up() {
                rows.push(vec![total, groups as f64]);
            }
        }
        Ok(json!({
            "work": "small", "program": format!("ballista {from}"), "checked": true,
            "batches": input.batches.len(), "latency_ms": percentiles(rows.times("total_ms")),
            "rows": rows.json(),
        }))
    })
}

/// Starts the scheduler on a free port.
async fn schedule() -> Outcome<(Scheduler, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let config = Arc::new(SchedulerConfig {
        bind_host: "127.0.0.1".into(),
        bind_port: port,
        external_host: "127.0.0.1".into(),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        finished_job_data_clean_up_interval_seconds: FINISHED_SECONDS,
        finished_job_state_clean_up_interval_seconds: FINISHED_SECONDS,
        override_config_producer: Some(Arc::new(session_config)),
        override_physical_codec: Some(Arc::new(Codec::default())),
        ..Default::default()
    });
    let cluster = BallistaCluster::new_from_config(&config).await?;
    let scheduler: Scheduler = create_scheduler(cluster, config).await?;
    let server = Server::builder()
        .tcp_nodelay(true)
        .add_service(SchedulerGrpcServer::new(scheduler.clone()))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tokio::spawn(server);
    Ok((scheduler, port))
}

/// Starts the executors, which generate the same words, and waits for them.
async fn execute(
    scheduler: &Scheduler,
    port: u16,
    work_dir: &WorkDir,
    batches: usize,
) -> Outcome<Vec<Process>> {
    let start = |number: usize| {
        let work_dir = work_dir.0.join(number.to_string());
        std::fs::create_dir(&work_dir)?;
        let words = [
            ("--number", number.to_string()),
            ("--batches", batches.to_string()),
            ("--work-dir", work_dir.display().to_string()),
        ];
        let words = words.map(|(name, value)| [name.to_owned(), value]);
        let first = ["executor".to_owned(), port.to_string()];
        let words: Vec<String> = first
            .into_iter()
            .chain(words.into_iter().flatten())
            .collect();
        Process::own(&words)
    };
    let processes = (0..PARTS).map(start).collect::<Outcome<Vec<_>>>()?;
    let begun = Instant::now();
    loop {
        let known = scheduler.state.executor_manager.get_executors_state().await;
        if known.is_ok_and(|known| known.len() == PARTS) {
            return Ok(processes);
        }
        if begun.elapsed().as_secs() > 30 {
            return Err("the executors did not register".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Directory for exchanged data: in memory if the system has such a place, as for workers.
struct WorkDir(PathBuf);

impl WorkDir {
    fn new() -> Outcome<Self> {
        let shared = PathBuf::from("/dev/shm");
        let root = match shared.is_dir() {
            true => shared,
            false => std::env::temp_dir(),
        };
        let path = root.join(format!("dstreams-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(WorkDir(path))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn reference(batch: usize, part: usize) -> Outcome<RecordBatch> {
    let at: ArrayRef = Arc::new(Int64Array::from(vec![(batch * PARTS + part) as i64]));
    Ok(RecordBatch::try_new(reference_schema(), vec![at])?)
}

/// Partial counts, an exchange by word, final counts.
fn word_count(scan: Plan) -> Result<Plan, DataFusionError> {
    let schema = words_schema();
    let by = PhysicalGroupBy::new_single(vec![(col("word", &schema)?, "word".into())]);
    let count = AggregateExprBuilder::new(count_udaf(), vec![col("word", &schema)?]);
    let count = vec![Arc::new(
        count.schema(Arc::clone(&schema)).alias("count").build()?,
    )];
    let partial = AggregateExec::try_new(
        AggregateMode::Partial,
        by.clone(),
        count.clone(),
        vec![None],
        scan,
        Arc::clone(&schema),
    )?;
    let hash = Partitioning::Hash(vec![Arc::new(Column::new("word", 0))], PARTS);
    let exchange = RepartitionExec::try_new(Arc::new(partial), hash)?;
    Ok(Arc::new(AggregateExec::try_new(
        AggregateMode::FinalPartitioned,
        by.as_final(),
        count,
        vec![None],
        Arc::new(exchange),
        schema,
    )?))
}

/// Runs the plan; returns the number of rows of its result.
async fn run(
    scheduler: &Scheduler,
    context: &Arc<SessionContext>,
    number: usize,
    plan: Plan,
) -> Outcome<u64> {
    let (sender, mut statuses) = mpsc::channel::<JobStatus>(16);
    let name = format!("{number:016}");
    let submitted = scheduler.submit_physical_plan(&name, Arc::clone(context), plan, Some(sender));
    submitted.await?;
    while let Some(JobStatus { status, .. }) = statuses.recv().await {
        match status {
            Some(Status::Successful(done)) => {
                let parts = done.partition_location.iter();
                let rows = parts.filter_map(|part| Some(part.partition_stats.as_ref()?.num_rows));
                return Ok(rows.map(|rows| rows.max(0) as u64).sum());
            }
            Some(Status::Failed(failure)) => return Err(failure.error.into()),
            _ => {}
        }
    }
    Err("the engine said nothing of a job".into())
}
