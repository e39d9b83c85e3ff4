//! Workers of the word count, started by this process or by others, and masters that this process starts.

mod child_processes;
mod processes;
mod signal;

use std::sync::Arc;
use std::time::Duration;

use dstreams_cluster::app::{Change, ClusterArgs, Members, gather};
use dstreams_cluster::{ClusterStatus, Master, MasterOptions, WorkerStatus};
use tokio::time::sleep;

use self::child_processes::{ChildCommand, Children};
pub use self::processes::ClusterProcesses;
pub use self::signal::signal;
use crate::error::{ChildEnd, Error};
use crate::output::{json, offer_line, warn};
use crate::program::{Engine, Program, Receiver, WordCount, describe_with_results};

/// How often the list of workers is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a worker tries to reconnect after its link broke: just long enough to see that this process
/// has ended.
const RETRY_FOR: &str = "2s";

/// Where worker joins and departures are reported.
#[derive(Debug, Clone, Copy)]
pub enum ReportTo {
    /// On standard output.
    Lines { json: bool },
    /// On standard error, once the program has started.
    Aside,
}

/// A master that waits for workers.
pub struct Gathering {
    master: Master,
    found: Receiver,
    children: Option<Children>,
}

/// The workers of a running program.
pub struct Workers {
    engine: Arc<Engine>,
    children: Option<Children>,
    members: Members,
    report_to: ReportTo,
}

/// The options of a master of the program that waits for `wanted` workers.
fn options(
    program: &Program,
    args: &ClusterArgs,
    listen: &str,
    wanted: u16,
) -> Result<MasterOptions, Error> {
    let mut options = args.options(listen, wanted.into())?;
    options.arguments = program.arguments();
    Ok(options)
}

impl Gathering {
    /// Listens for `wanted` workers that others start.
    pub async fn others(
        program: &Program,
        args: &ClusterArgs,
        listen: &str,
        wanted: u16,
    ) -> Result<Self, Error> {
        let (ctx, found) = describe_with_results(program)?;
        let options = options(program, args, listen, wanted)?;
        Ok(Gathering {
            master: Master::listen(ctx, options).await?,
            found,
            children: None,
        })
    }

    /// Waits until no other master leads the program, then listens in the same way. `None` if the program has ended meanwhile.
    pub async fn stand_by(
        program: &Program,
        args: &ClusterArgs,
        listen: &str,
        wanted: u16,
    ) -> Result<Option<Self>, Error> {
        let (ctx, found) = describe_with_results(program)?;
        let options = options(program, args, listen, wanted)?;
        let master = Master::stand_by(ctx, options).await?;
        Ok(master.map(|master| Gathering {
            master,
            found,
            children: None,
        }))
    }

    /// Starts `count` worker processes, and listens for them.
    pub async fn own(program: &Program, args: &ClusterArgs, count: u16) -> Result<Self, Error> {
        let mut gathering = Self::others(program, args, "127.0.0.1:0", count).await?;
        let token = args.secret().read()?;
        let count = usize::from(count);
        let command = ChildCommand::worker(gathering.address(), count, RETRY_FOR, token);
        let mut children = Children::new(command, Arc::new(|_, _| ()));
        for _ in 0..count {
            children.add(&[])?;
        }
        gathering.children = Some(children);
        Ok(gathering)
    }

    /// The address of the master.
    pub fn address(&self) -> &str {
        self.master.address()
    }

    /// Starts the program once the workers are there.
    pub async fn begin(self, report_to: ReportTo) -> Result<(WordCount, Workers), Error> {
        let (mut children, mut members) = (self.children, Members::default());
        let mut report = |status: &ClusterStatus| {
            let changes = members.changes(status);
            if let ReportTo::Lines { .. } = report_to {
                changes.iter().for_each(|change| report_to.of(change));
            }
        };
        let cluster = tokio::select! {
            cluster = gather(self.master, &mut report) => cluster?,
            ended = next_ended(&mut children) => return Err(Error::NoneLeft(ended)),
        };
        // Workers that joined since the last look.
        report(&cluster.status());
        let word_count = WordCount::on(cluster, self.found);
        let workers = Workers {
            engine: word_count.engine(),
            children,
            members,
            report_to,
        };
        Ok((word_count, workers))
    }
}

impl Workers {
    /// The connected workers.
    pub fn now(&self) -> Vec<WorkerStatus> {
        self.status().map_or(Vec::new(), |status| status.workers)
    }

    /// The status of the cluster.
    pub fn status(&self) -> Option<ClusterStatus> {
        self.engine.cluster()
    }

    /// Kills the one of our own processes that joined first, and starts another one. Returns its status, or `None` if not
    /// all of them have joined.
    pub fn replace_oldest(&mut self) -> Result<Option<WorkerStatus>, Error> {
        let workers = self.now();
        match &mut self.children {
            Some(children) => replace_oldest(workers, children),
            None => Ok(None),
        }
    }

    /// Reports joins and departures. Returns only when all workers that this process started have ended
    /// and there is no other. Cancel-safe.
    pub async fn watch(&mut self) -> Error {
        loop {
            tokio::select! {
                ended = next_ended(&mut self.children) => {
                    warn(&ended);
                    let left = self.children.as_ref().map_or(0, Children::left);
                    if left == 0 && self.now().iter().all(|worker| self.is_own(worker.pid)) {
                        return Error::NoneLeft(ended);
                    }
                }
                () = sleep(POLL_INTERVAL) => self.look(),
            }
        }
    }

    fn look(&mut self) {
        let Some(status) = self.engine.cluster() else {
            return;
        };
        for change in self.members.changes(&status) {
            // The end of a process of our own is reported separately.
            let reported_elsewhere = matches!(change, Change::Gone { pid, .. } if self.is_own(pid));
            if !reported_elsewhere || matches!(self.report_to, ReportTo::Lines { .. }) {
                self.report_to.of(&change);
            }
        }
    }

    /// Those that this process started.
    pub fn own(&self) -> Vec<WorkerStatus> {
        let children = self.children.as_ref();
        children.map_or(Vec::new(), |children| children.among(self.now()))
    }

    fn is_own(&self, pid: u32) -> bool {
        self.children
            .as_ref()
            .is_some_and(|children| children.has(pid))
    }

    /// Waits for the end of the started processes, after the program has ended.
    pub async fn finish(self) {
        if let Some(children) = self.children {
            children.finish().await;
        }
    }
}

/// Kills the process that joined first of these workers, and starts another one; `None` if not all have joined.
fn replace_oldest(
    workers: Vec<WorkerStatus>,
    children: &mut Children,
) -> Result<Option<WorkerStatus>, Error> {
    let own = children.among(workers);
    let all = own.len() == children.left();
    let oldest = own.into_iter().min_by_key(|worker| worker.id);
    let oldest = oldest.filter(|_| all);
    if let Some(oldest) = &oldest {
        children.add(&[])?;
        children.kill(oldest.pid);
    }
    Ok(oldest)
}

impl ReportTo {
    /// Reports a change. Never blocks, even if nobody reads it.
    fn of(self, change: &Change) {
        match self {
            ReportTo::Lines { json: true } => drop(json(change).map(offer_line)),
            ReportTo::Lines { json: false } => offer_line(change),
            ReportTo::Aside => warn(change),
        }
    }
}

/// Waits until no worker is left; never returns if the program has no workers.
pub async fn watch(workers: &mut Option<Workers>) -> Error {
    match workers {
        Some(workers) => workers.watch().await,
        None => std::future::pending().await,
    }
}

async fn next_ended(children: &mut Option<Children>) -> ChildEnd {
    match children {
        Some(children) => children.ended().await,
        None => std::future::pending().await,
    }
}
