//! The program that `demo`, `wordcount`, `master` and `worker` run: words of a window, counted,
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
pub use self::results::{Found, Receiver};
use crate::error::Error;

/// How long a program that is given up may take to stop.
const ABANDON: Duration = Duration::from_secs(5);

/// The program, running.
pub struct WordCount {
    engine: Arc<Engine>,
    found: Receiver,
}

/// Where it runs.
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

    /// How the cluster is doing, if it is one.
    pub fn cluster(&self) -> Option<ClusterStatus> {
        match self {
            Engine::Local(_) => None,
            Engine::Cluster(cluster) => Some(cluster.status()),
        }
    }
}

/// Describes the program, for a process that runs a part of it and prints nothing.
pub fn describe(arguments: &[String]) -> dstreams::Result<StreamContext> {
    Program::parse(arguments)?.describe(results::channel().0)
}

/// Describes the program, with what its batches find.
pub fn describe_with_results(program: &Program) -> dstreams::Result<(StreamContext, Receiver)> {
    let (sender, found) = results::channel();
    Ok((program.describe(sender)?, found))
}

impl WordCount {
    /// Starts it in this process.
    pub async fn start(program: &Program) -> Result<Self, Error> {
        let (ctx, found) = describe_with_results(program)?;
        let engine = Arc::new(Engine::Local(ctx.start().await?));
        Ok(WordCount { engine, found })
    }

    /// It has been started on workers.
    pub fn on(cluster: RunningCluster, found: Receiver) -> Self {
        let engine = Arc::new(Engine::Cluster(cluster));
        WordCount { engine, found }
    }

    /// Where the stream `name` listens.
    pub fn address(&self, name: &str) -> Result<SocketAddr, Error> {
        let address = self.engine.running().address(name);
        address.ok_or(Error::Program(dstreams::Error::NotRunning))
    }

    /// How the program is doing.
    pub fn status(&self) -> Status {
        self.engine.running().status()
    }

    /// Where it runs.
    pub fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine)
    }

    /// The next batch that took effect; `None` when the program has stopped. Can be cancelled.
    pub async fn next(&mut self) -> Result<Option<Found>, Error> {
        tokio::select! {
            biased;
            Some(found) = self.found.recv() => return Ok(Some(found?)),
            ended = self.engine.running().await_termination(None) => ended?,
        };
        // What was found between the two looks.
        Ok(self.found.try_recv().ok().transpose()?)
    }

    /// Stops the program at once, and lets its workers go. Returns how many batches were left.
    pub async fn abandon(&mut self) -> u64 {
        // Nobody waits for what is found any more.
        self.found.close();
        let stopped = self.engine.running().abort();
        let stopped = tokio::time::timeout(ABANDON, stopped).await;
        self.dismiss().await;
        match stopped {
            Ok(Ok(summary)) => summary.unfinished,
            _ => 0,
        }
    }

    /// Waits for the end of the program, and until its workers have left; fails if something was
    /// left uncounted.
    pub async fn end(&self) -> Result<Summary, Error> {
        let summary = self.engine.running().await_termination(None).await;
        self.dismiss().await;
        match summary? {
            Some(summary) if summary.unfinished == 0 => Ok(summary),
            Some(Summary { unfinished, .. }) => Err(Error::Unfinished { unfinished }),
            None => Err(Error::Program(dstreams::Error::NotRunning)),
        }
    }

    async fn dismiss(&self) {
        if let Engine::Cluster(cluster) = &*self.engine {
            dismiss(cluster).await;
        }
    }
}
