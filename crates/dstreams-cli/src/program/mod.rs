//! The program that `demo`, `wordcount`, `master` and `worker` run: counts of words over a window,
//! batch by batch.

mod graph;
mod results;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dstreams::{Running, Status, StreamContext, Summary};
use dstreams_cluster::app::dismiss;
use dstreams_cluster::{ClusterStatus, RunningCluster};

pub use self::graph::{LINES, Program, TEXT};
pub use self::results::{BatchLine, BatchResults, Receiver};
use crate::error::Error;

/// How long an abandoned program may take to stop.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// The running program.
pub struct WordCount {
    engine: Arc<Engine>,
    found: Receiver,
}

/// The place where it runs.
pub enum Engine {
    /// In this process.
    Local(Running),
    /// On workers; this process is their master.
    Cluster(RunningCluster),
}

impl Engine {
    fn running(&self) -> &Running {
        match self {
            Engine::Local(running) => running,
            Engine::Cluster(cluster) => &cluster.running,
        }
    }

    /// Takes in nothing more, counts what was received, for so long at most, and stops.
    pub fn request_stop_within(&self, drain: Duration) {
        self.running().request_stop_within(drain);
    }

    /// Stops without counting what was received.
    pub fn request_abort(&self) {
        self.running().request_abort();
    }

    /// The status of the cluster, if it runs on one.
    pub fn cluster(&self) -> Option<ClusterStatus> {
        match self {
            Engine::Local(_) => None,
            Engine::Cluster(cluster) => Some(cluster.status()),
        }
    }
}

/// Describes the program for a worker, which prints nothing.
pub fn describe(arguments: &[String]) -> dstreams::Result<StreamContext> {
    Program::parse(arguments)?.describe(results::channel().0)
}

/// Describes the program, with a receiver of its batches' results.
pub fn describe_with_results(program: &Program) -> dstreams::Result<(StreamContext, Receiver)> {
    let (sender, found) = results::channel();
    Ok((program.describe(sender)?, found))
}

impl WordCount {
    /// Starts the program in this process.
    pub async fn start(program: &Program) -> Result<Self, Error> {
        let (ctx, found) = describe_with_results(program)?;
        let engine = Arc::new(Engine::Local(ctx.start().await?));
        Ok(WordCount { engine, found })
    }

    /// Wraps a program that was started on workers.
    pub fn on(cluster: RunningCluster, found: Receiver) -> Self {
        let engine = Arc::new(Engine::Cluster(cluster));
        WordCount { engine, found }
    }

    /// The address on which the stream `name` listens.
    pub fn address(&self, name: &str) -> Result<SocketAddr, Error> {
        let address = self.engine.running().address(name);
        address.ok_or(Error::Program(dstreams::Error::NotRunning))
    }

    /// The status of the program.
    pub fn status(&self) -> Status {
        self.engine.running().status()
    }

    /// The place where it runs.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    /// The next committed batch; `None` when the program has stopped. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<BatchResults>, Error> {
        tokio::select! {
            biased;
            Some(found) = self.found.recv() => return Ok(Some(found?)),
            ended = self.engine.running().await_termination(None) => ended?,
        };
        // A result may have arrived between the two checks.
        Ok(self.found.try_recv().ok().transpose()?)
    }

    /// Stops the program at once, and dismisses its workers. Returns the number of unfinished batches.
    pub async fn abandon(&mut self) -> u64 {
        // Results are no longer needed, and must not block commits.
        self.found.close();
        let stopped = self.engine.running().abort();
        let stopped = tokio::time::timeout(ABANDON_TIMEOUT, stopped).await;
        self.dismiss().await;
        match stopped {
            Ok(Ok(summary)) => summary.unfinished,
            _ => 0,
        }
    }

    /// Waits for the end of the program and for its workers to leave; fails if batches were left
    /// uncounted.
    pub async fn end(&self) -> Result<Summary, Error> {
        let summary = self.engine.running().await_termination(None).await;
        self.dismiss().await;
        match summary? {
            Some(summary) if summary.unfinished == 0 => Ok(summary),
            Some(Summary { unfinished, .. }) => Err(Error::Unfinished {
                unfinished: Some(unfinished),
            }),
            None => Err(Error::Program(dstreams::Error::NotRunning)),
        }
    }

    async fn dismiss(&self) {
        if let Engine::Cluster(cluster) = &*self.engine {
            dismiss(cluster).await;
        }
    }
}
