//! The engine's executor inside a worker: it runs tasks and serves data of exchanges.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_executor::ArrowFlightServerProvider;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::executor_server::TERMINATING;
use ballista_executor::flight_service::BallistaFlightService;
use datafusion::error::DataFusionError;
use dstreams::internal::{Acceptor, log_reachable};
use dstreams::{Error, Result};
use tonic::transport::Server;

use super::scratch::Scratch;
use crate::data::CONNECTIONS;
use crate::execute::{MESSAGE, TaskRunner, Tasks, session_config};
use crate::plan::Codec;

/// Seconds between heartbeats to the engine. Our own link notices a loss much sooner.
const HEARTBEAT_INTERVAL: u64 = 5;
/// Seconds an executor waits for the scheduler to answer.
const CONNECT_TIMEOUT: u16 = 10;

/// Bytes that must be free to have exchanges in memory: containers have less, which is soon full.
const MIN_FREE_BYTES: u64 = 1 << 30;
/// Seconds after which leftover data of a job is removed, and seconds between the checks. Normally the master removes
/// it when the job ends.
const JOB_DATA_TTL: u64 = 6 * 3600;
const CLEAN_UP_INTERVAL: u64 = 600;

/// The temporary directories of a worker.
pub struct WorkDir {
    /// Data of exchanges.
    pub exchanges: Scratch,
    /// Spilled blocks.
    pub spill: Scratch,
}

impl WorkDir {
    /// Exchanges are in memory if `/dev/shm` has enough space.
    pub fn new(exchanges: Option<&Path>, spill: Option<&Path>) -> Result<Self> {
        let temporary = std::env::temp_dir();
        let failed = |setting, path: &Path, error| Error::Config {
            setting,
            message: format!(
                "cannot create a directory in {}: {error}; give another with --{setting}",
                path.display()
            ),
        };
        let make =
            |setting, path: &Path| Scratch::new(path).map_err(|error| failed(setting, path, error));
        let memory = Path::new("/dev/shm");
        let exchanges = match exchanges {
            Some(path) => make("exchanges", path)?,
            None if free(memory) >= Some(MIN_FREE_BYTES) => {
                Scratch::new(memory).or_else(|_| make("exchanges", &temporary))?
            }
            None => make("exchanges", &temporary)?,
        };
        if let Some(free) = free(&exchanges.path)
            && free < MIN_FREE_BYTES
        {
            let (path, free) = (exchanges.path.display(), bytesize::ByteSize(free));
            tracing::warn!(%path, %free, "little space for exchanges; give another directory with --exchanges");
        }
        let spill = make("spill", spill.unwrap_or(&temporary))?;
        Ok(WorkDir { exchanges, spill })
    }
}

/// Free bytes of a file system.
fn free(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Name of a worker in the engine.
pub fn engine_name(worker: u32) -> String {
    format!("worker-{worker}")
}

/// Serves data of exchanges. The listener is bound before the engine learns its port.
fn exchanges(listener: TcpListener) -> Arc<ArrowFlightServerProvider> {
    let listener = Mutex::new(Some(listener));
    Arc::new(move |work_dir, _, mut shutdown, _| {
        let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = listener.take();
        tokio::spawn(async move {
            let listener = listener.ok_or_else(|| std::io::Error::other("it was served once"))?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let connections = Acceptor::new(listener, CONNECTIONS, "")?.into_stream();
            let service = FlightServiceServer::new(BallistaFlightService::new(work_dir));
            let served = Server::builder()
                .add_service(
                    service
                        .max_decoding_message_size(MESSAGE)
                        .max_encoding_message_size(MESSAGE),
                )
                .serve_with_incoming_shutdown(connections, shutdown.recv());
            served.await.map_err(BallistaError::TonicError)
        })
    })
}

/// An address that is free now.
fn free_address(host: &str) -> Result<SocketAddr> {
    let address = format!("{host}:0");
    let free = TcpListener::bind(&address).and_then(|listener| listener.local_addr());
    free.map_err(|source| Error::Listen {
        address,
        source: Arc::new(source),
    })
}

/// Runs the executor; returns when it has ended. It listens on `bound`; others connect to `host`.
pub async fn run(
    worker: u32,
    site: Arc<TaskRunner>,
    (bound, host): (&str, &str),
    engine: (String, u16),
    cores: usize,
    exchanges_in: &Path,
) -> Result<()> {
    let partitions = site.plans.tasks;
    let address = format!("{bound}:0");
    let listener = TcpListener::bind(&address).map_err(|source| Error::Listen {
        address,
        source: Arc::new(source),
    })?;
    let reached = [listener.local_addr().ok(), free_address(bound)?.into()];
    for address in reached.into_iter().flatten() {
        log_reachable("the engine's executor", address, false);
    }
    let [port, grpc_port] = reached.map(|address| address.map_or(0, |address| address.port()));
    // An earlier executor of this process may have left it set; then this one would get no tasks.
    TERMINATING.store(false, Ordering::Release);
    let config = ExecutorProcessConfig {
        executor_id: engine_name(worker),
        bind_host: bound.to_owned(),
        external_host: Some(host.to_owned()),
        port,
        override_arrow_flight_service: Some(exchanges(listener)),
        grpc_port,
        scheduler_host: engine.0,
        scheduler_port: engine.1,
        scheduler_connect_timeout_seconds: CONNECT_TIMEOUT,
        vcores: cores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_heartbeat_interval_seconds: HEARTBEAT_INTERVAL,
        grpc_max_decoding_message_size: MESSAGE as u32,
        grpc_max_encoding_message_size: MESSAGE as u32,
        override_execution_engine: Some(Arc::new(Tasks::new(Arc::clone(&site.tasks)))),
        work_dir: Some(exchanges_in.display().to_string()),
        job_data_ttl_seconds: JOB_DATA_TTL,
        job_data_clean_up_interval_seconds: CLEAN_UP_INTERVAL,
        memory_pool_size: Some(0),
        override_physical_codec: Some(Arc::new(Codec::worker(site))),
        override_config_producer: Some(Arc::new(move || session_config(partitions))),
        ..Default::default()
    };
    let ended = start_executor_process(Arc::new(config)).await;
    ended.map_err(|error| {
        let message = format!("the executor ended: {error}");
        Error::Engine(Arc::new(DataFusionError::Execution(message)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_are_in_memory_only_if_it_has_space() {
        let work = WorkDir::new(None, None).unwrap();
        let in_memory = work.exchanges.path.starts_with("/dev/shm");
        // Other processes may use space meanwhile.
        assert!(!in_memory || free(Path::new("/dev/shm")) > Some(MIN_FREE_BYTES / 2));
        assert_eq!(free(Path::new("/no/such/place")), None);
        let given = Scratch::new(&std::env::temp_dir()).unwrap();
        let there = given.path.join("there");
        let work = WorkDir::new(Some(&there), Some(&there)).unwrap();
        assert!(work.exchanges.path.starts_with(&there) && work.spill.path.starts_with(&there));
        assert_ne!(work.exchanges.path, work.spill.path);
        let file = given.path.join("file");
        std::fs::write(&file, "").unwrap();
        let error = WorkDir::new(Some(&file), None)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("--exchanges"), "{error}");
        let error = WorkDir::new(None, Some(&file))
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("--spill"), "{error}");
    }
}
