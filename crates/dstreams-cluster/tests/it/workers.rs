//! Workers in threads of this process.

use std::thread::JoinHandle;

use dstreams::StreamContext;
use dstreams_cluster::{Master, RunningCluster, WorkerOptions, run_worker};

use crate::process::master_options;

/// Threads that run workers until the program ends.
pub struct Workers(Vec<JoinHandle<dstreams::Result<()>>>);

impl Workers {
    /// Starts a worker for each number of `cores`; `build` builds the program.
    pub fn start(
        master: &str,
        cores: &[usize],
        build: impl Fn() -> StreamContext + Send + Clone + 'static,
    ) -> Self {
        let start = |cores: &usize| {
            let mut options = WorkerOptions::new(master);
            options.cores = *cores;
            let build = build.clone();
            std::thread::spawn(move || run_worker(&options, &|_| Ok(build()), &|_| {}))
        };
        Workers(cores.iter().map(start).collect())
    }

    /// Waits until all have ended, without an error.
    pub fn join(self) {
        for worker in self.0 {
            worker.join().unwrap().unwrap();
        }
    }
}

/// A cluster of workers with these cores that runs the program of `ctx`; `build` builds the same program.
pub async fn cluster(
    ctx: StreamContext,
    partitions: usize,
    cores: &[usize],
    build: impl Fn() -> StreamContext + Send + Clone + 'static,
) -> (RunningCluster, Workers) {
    let mut options = master_options();
    options.workers = cores.len();
    options.partitions = Some(partitions);
    let master = Master::listen(ctx, options).await.unwrap();
    let workers = Workers::start(master.address(), cores, build);
    (master.start().await.unwrap(), workers)
}
