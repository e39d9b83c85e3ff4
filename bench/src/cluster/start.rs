//! [`Cluster`]: a master in this process and its workers in processes of their own.

use std::time::Duration;

use dstreams::{StreamContext, Summary};
use dstreams_cluster::{ClusterStatus, Master, MasterOptions, RunningCluster};

use super::processes::Process;
use super::program::Spec;
use crate::own::Outcome;

/// Time limit for all workers to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// A cluster of this process and worker processes.
pub struct Cluster {
    running: RunningCluster,
    /// The address of the master.
    pub address: String,
    /// The workers, in the order of their start.
    pub workers: Vec<Process>,
}

impl Cluster {
    /// Starts workers of one core each, and the program on them.
    pub async fn start(spec: &Spec, ctx: StreamContext, workers: usize) -> Outcome<Self> {
        Self::start_with(spec, ctx, (workers, MasterOptions::default())).await
    }

    /// The same with other options.
    pub async fn start_with(
        spec: &Spec,
        ctx: StreamContext,
        (workers, mut options): (usize, MasterOptions),
    ) -> Outcome<Self> {
        options.workers = workers;
        options.partitions = Some(spec.partitions);
        options.arguments = spec.arguments();
        let master = Master::listen(ctx, options).await?;
        let address = master.address().to_owned();
        let workers = (0..workers).map(|_| Process::worker(&address));
        let workers = workers.collect::<Outcome<Vec<_>>>()?;
        let running = tokio::time::timeout(JOIN_TIMEOUT, master.start()).await;
        let running = running.map_err(|_| "the workers did not join")??;
        Ok(Cluster {
            running,
            address,
            workers,
        })
    }

    /// The status of the cluster.
    pub fn status(&self) -> ClusterStatus {
        self.running.status()
    }

    /// The addresses for clients: one for each worker.
    pub fn addresses(&self) -> Vec<String> {
        let workers = self.status().workers.into_iter();
        workers.map(|worker| worker.ingest).collect()
    }

    /// The process ids of the workers.
    pub fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(Process::id).collect()
    }

    /// The error that ended the program prematurely.
    pub async fn failure(&self) -> Box<dyn std::error::Error> {
        match self.running.running.await_termination(None).await {
            Ok(_) => "the program stopped before its last batch".into(),
            Err(error) => error.into(),
        }
    }

    /// Runs and commits what was received, if `graceful`, and waits until the workers have ended.
    pub async fn stop(self, graceful: bool) -> Outcome<Summary> {
        let Cluster {
            running,
            mut workers,
            ..
        } = self;
        let summary = match graceful {
            true => running.running.stop().await?,
            false => running.running.abort().await?,
        };
        drop(running);
        // This runtime sends the last messages to the workers.
        tokio::task::block_in_place(|| workers.iter_mut().try_for_each(Process::join))?;
        Ok(summary)
    }
}
