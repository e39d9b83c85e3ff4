//! The engine's executor inside a worker: it runs tasks and serves what exchanges carry.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_executor::ArrowFlightServerProvider;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::executor_server::TERMINATING;
use ballista_executor::flight_service::BallistaFlightService;
use dstreams::{Error, Result};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::execute::{MESSAGE, Site, Tasks, session_config};
use crate::plan::Codec;

/// Seconds between signs of life to the engine. Our own link notices a loss much sooner.
const HEARTBEAT: u64 = 5;
/// Seconds an executor waits for the scheduler to answer.
const CONNECT: u16 = 10;

/// The directory that exchanges go through, removed with this value.
pub struct WorkDir(pub PathBuf);

impl WorkDir {
    /// In memory where the system has a place for that. Removes those of processes that are gone.
    pub fn new() -> Result<Self> {
        let shared = PathBuf::from("/dev/shm");
        let root = if shared.is_dir() {
            shared
        } else {
            std::env::temp_dir()
        };
        remove_left_over(&root);
        remove_left_over(&std::env::temp_dir());
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::Config {
            setting: "work directory",
            message: format!("{} cannot be made: {error}", path.display()),
        })?;
        Ok(WorkDir(path))
    }

    /// Where blocks go that memory has no room for: not in memory.
    pub fn spill(&self) -> PathBuf {
        let name = self.0.file_name().unwrap_or_default();
        std::env::temp_dir().join(name).join("blocks")
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        if let Some(spill) = self.spill().parent() {
            let _ = std::fs::remove_dir_all(spill);
        }
    }
}

const PREFIX: &str = "dstreams-worker-";

fn remove_left_over(root: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = pid.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        let gone = |pid: u32| !PathBuf::from(format!("/proc/{pid}")).exists();
        if pid.is_some_and(gone) && PathBuf::from("/proc/self").exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Name of a worker for the engine.
pub fn engine_name(worker: u32) -> String {
    format!("worker-{worker}")
}

/// Serves what exchanges carry. The listener is bound before the engine is told of its port.
fn exchanges(listener: TcpListener) -> Arc<ArrowFlightServerProvider> {
    let listener = Mutex::new(Some(listener));
    Arc::new(move |work_dir, _, mut shutdown, _| {
        let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = listener.take();
        tokio::spawn(async move {
            let listener = listener.ok_or_else(|| std::io::Error::other("it was served once"))?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let service = FlightServiceServer::new(BallistaFlightService::new(work_dir));
            let served = Server::builder()
                .tcp_nodelay(true)
                .add_service(
                    service
                        .max_decoding_message_size(MESSAGE)
                        .max_encoding_message_size(MESSAGE),
                )
                .serve_with_incoming_shutdown(
                    TcpIncoming::from(listener).with_nodelay(Some(true)),
                    shutdown.recv(),
                );
            served.await.map_err(BallistaError::TonicError)
        })
    })
}

/// A port that is free now.
fn free_port(host: &str) -> Result<u16> {
    let address = format!("{host}:0");
    let port = TcpListener::bind(&address).and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|source| Error::Listen {
            address,
            source: Arc::new(source),
        })
}

/// Runs the executor; returns when it has ended.
pub async fn run(
    worker: u32,
    site: Arc<Site>,
    host: &str,
    engine: (String, u16),
    cores: usize,
    work_dir: &WorkDir,
) -> Result<()> {
    let partitions = site.plans.tasks;
    let address = format!("{host}:0");
    let listener = TcpListener::bind(&address).map_err(|source| Error::Listen {
        address,
        source: Arc::new(source),
    })?;
    let port = listener.local_addr().map_or(0, |address| address.port());
    // An executor that ended in this process before has left it set, and then gets no tasks.
    TERMINATING.store(false, Ordering::Release);
    let config = ExecutorProcessConfig {
        executor_id: engine_name(worker),
        bind_host: host.to_owned(),
        external_host: Some(host.to_owned()),
        port,
        override_arrow_flight_service: Some(exchanges(listener)),
        grpc_port: free_port(host)?,
        scheduler_host: engine.0,
        scheduler_port: engine.1,
        scheduler_connect_timeout_seconds: CONNECT,
        vcores: cores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_heartbeat_interval_seconds: HEARTBEAT,
        grpc_max_decoding_message_size: MESSAGE as u32,
        grpc_max_encoding_message_size: MESSAGE as u32,
        override_execution_engine: Some(Arc::new(Tasks::new(Arc::clone(&site.tasks)))),
        work_dir: Some(work_dir.0.display().to_string()),
        memory_pool_size: Some(0),
        override_physical_codec: Some(Arc::new(Codec::worker(site))),
        override_config_producer: Some(Arc::new(move || session_config(partitions))),
        ..Default::default()
    };
    let ended = start_executor_process(Arc::new(config)).await;
    ended.map_err(|error| Error::Config {
        setting: "engine",
        message: format!("the executor ended: {error}"),
    })
}
