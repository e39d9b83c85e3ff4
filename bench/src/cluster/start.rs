//! [`Cluster`]: a master in this process and its workers in processes of their own.

use std::time::Duration;

use dstreams::{StreamContext, Summary};
use dstreams_cluster::{ClusterStatus, Master, MasterOptions, RunningCluster};

use super::processes::Process;
use super::program::Spec;
use crate::own::Outcome;

/// How long all workers may take to join.
const JOIN: Duration = Duration::from_secs(60);

/// See the module.
pub struct Cluster {
    running: RunningCluster,
    /// The workers, in the order of their start.
    pub workers: Vec<Process>,
}

impl Cluster {
    /// Starts workers of one core each, and the program on them.
    pub async fn start(spec: &Spec, ctx: StreamContext, workers: usize) -> Outcome<Self> {
        let mut options = MasterOptions::default();
        options.workers = workers;
        options.partitions = Some(spec.partitions);
        options.arguments = spec.arguments();
        let master = Master::listen(ctx, options).await?;
        let address = master.address().to_owned();
        let workers = (0..workers).map(|_| Process::worker(&address));
        let workers = workers.collect::<Outcome<Vec<_>>>()?;
        let running = tokio::time::timeout(JOIN, master.start()).await;
        let running = running.map_err(|_| "the workers did not join")??;
        Ok(Cluster { running, workers })
    }

    /// How it is doing.
    pub fn status(&self) -> ClusterStatus {
        self.running.status()
    }

    /// Where clients send to: one address for each worker.
    pub fn addresses(&self) -> Vec<String> {
        let workers = self.status().workers.into_iter();
        workers.map(|worker| worker.ingest).collect()
    }

    /// The numbers of the workers' processes.
    pub fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(Process::id).collect()
    }

    /// The error that ended the program, when it should not have ended.
    pub async fn failure(&self) -> Box<dyn std::error::Error> {
        match self.running.running.await_termination(None).await {
            Ok(_) => "the program stopped before its last batch".into(),
            Err(error) => error.into(),
        }
    }

    /// Runs what was received, if `graceful`, and waits until the workers have ended.
    pub async fn stop(self, graceful: bool) -> Outcome<Summary> {
        let Cluster {
            running,
            mut workers,
        } = self;
        let summary = match graceful {
            true => running.running.stop().await?,
            false => running.running.abort().await?,
        };
        drop(running);
        // The last messages to the workers are sent by this runtime.
        tokio::task::block_in_place(|| workers.iter_mut().try_for_each(Process::join))?;
        Ok(summary)
    }
}
