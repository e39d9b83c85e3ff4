//! [`Stage`]: where the program of the demo runs.

use dstreams::Summary;
use dstreams_cluster::WorkerStatus;
use dstreams_cluster::app::{ClusterArgs, DRAIN};

use super::DemoArgs;
use super::screen::CurrentStatus;
use crate::cluster::{ClusterProcesses, Gathering, ReportTo, Workers, watch};
use crate::error::Error;
use crate::program::{BatchResults, LINES, Program, WordCount};

/// The running program.
pub enum Stage {
    /// In this process, with or without workers.
    Here {
        program: WordCount,
        workers: Option<Workers>,
    },
    /// In masters and workers that are separate processes.
    Apart(Box<ClusterProcesses>),
}

impl Stage {
    /// Starts the program; returns it with the address for clients.
    pub async fn start(args: &DemoArgs, program: &Program) -> Result<(Self, String), Error> {
        let Some(count) = args.workers else {
            let program = WordCount::start(program).await?;
            let address = program.address(LINES)?.to_string();
            let workers = None;
            return Ok((Stage::Here { program, workers }, address));
        };
        if args.kill_master {
            let cluster = ClusterProcesses::start(program, count, args.slow_one).await?;
            let addresses = cluster.addresses();
            return Ok((Stage::Apart(Box::new(cluster)), addresses));
        }
        let how = ClusterArgs::with_speculation(args.slow_one);
        let gathering = Gathering::own(program, &how, count).await?;
        let address = gathering.address().to_owned();
        let (program, workers) = gathering.begin(ReportTo::Aside).await?;
        let workers = Some(workers);
        Ok((Stage::Here { program, workers }, address))
    }

    /// The next batch; `None` when the program has stopped. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<BatchResults>, Error> {
        match self {
            Stage::Here { program, workers } => tokio::select! {
                found = program.next() => found,
                error = watch(workers) => Err(error),
            },
            Stage::Apart(cluster) => cluster.next().await,
        }
    }

    pub fn now(&self, acknowledged: u64) -> CurrentStatus {
        match self {
            Stage::Here { program, workers } => {
                let status = program.status();
                CurrentStatus {
                    counted: Some(status.records),
                    block_memory: status.block_memory as u64,
                    leader: None,
                    cluster: workers.as_ref().and_then(Workers::status),
                    acknowledged,
                }
            }
            Stage::Apart(cluster) => {
                let status = cluster.status();
                let blocks = status.workers.iter().map(|it| it.block_memory as u64);
                let leader = cluster.leader();
                let leader = leader.map(|(address, pid)| format!("{address}, pid {pid}"));
                CurrentStatus {
                    counted: None,
                    block_memory: blocks.sum(),
                    leader: Some(leader.unwrap_or_else(|| "unknown".to_owned())),
                    cluster: Some(status),
                    acknowledged,
                }
            }
        }
    }

    /// Takes in nothing more, and stops once what was received is counted.
    pub fn stop(&mut self) {
        match self {
            Stage::Here { program, .. } => program.engine().request_stop_within(DRAIN),
            Stage::Apart(cluster) => cluster.stop(),
        }
    }

    /// After [`stop`](Self::stop): stops at once.
    pub fn abort(&mut self) {
        match self {
            Stage::Here { program, .. } => program.engine().request_abort(),
            Stage::Apart(cluster) => cluster.abort(),
        }
    }

    /// Waits for the end of a program that was stopped; fails if batches were left uncounted. Returns its totals, unless masters
    /// are separate processes.
    pub async fn end(&self) -> Result<Option<Summary>, Error> {
        match self {
            Stage::Here { program, .. } => program.end().await.map(Some),
            Stage::Apart(_) => Ok(None),
        }
    }

    /// Stops the program without counting what is left, and ends all processes that were started.
    pub async fn abandon(self) {
        if let Stage::Here {
            mut program,
            workers,
        } = self
        {
            program.abandon().await;
            if let Some(workers) = workers {
                workers.finish().await;
            }
        }
        // Dropping `ClusterProcesses` kills its processes.
    }

    /// Waits for the end of all processes that were started.
    pub async fn finish(self) {
        match self {
            Stage::Here { workers, .. } => {
                if let Some(workers) = workers {
                    workers.finish().await;
                }
            }
            Stage::Apart(cluster) => cluster.finish().await,
        }
    }

    /// The workers that were started here.
    pub fn own_workers(&self) -> Vec<WorkerStatus> {
        match self {
            Stage::Here { workers, .. } => workers.as_ref().map_or(Vec::new(), Workers::own),
            Stage::Apart(cluster) => cluster.workers(),
        }
    }

    /// Kills the worker that joined first, and starts another one; `None` if not all have joined.
    pub fn replace_worker(&mut self) -> Result<Option<WorkerStatus>, Error> {
        match self {
            Stage::Here { workers, .. } => {
                let replaced = workers.as_mut().map(Workers::replace_oldest);
                Ok(replaced.transpose()?.flatten())
            }
            Stage::Apart(cluster) => cluster.replace_worker(),
        }
    }

    /// Whether the master that leads has a standby.
    pub fn has_standby(&self) -> bool {
        match self {
            Stage::Here { .. } => false,
            Stage::Apart(cluster) => cluster.has_standby(),
        }
    }

    /// Kills the master that leads; returns its process id. `None` if it has no standby, or has not counted a batch.
    pub fn kill_leader(&mut self) -> Option<u32> {
        match self {
            Stage::Here { .. } => None,
            Stage::Apart(cluster) => cluster.kill_leader(),
        }
    }
}
