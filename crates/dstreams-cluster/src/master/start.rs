//! [`Master`]: from a listening master to a running program.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dstreams::internal::{
    BlockStore, Description, DirLock, Durable, Inbox, Restored, Workers, log_reachable, replay,
    run_on, stand_by,
};
use dstreams::{Config, Result, Running, StreamContext};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::batch::BatchRunner;
use super::batch_state::BatchStates;
use super::calls::MasterCalls;
use super::cluster_workers::ClusterWorkers;
use super::datasets::BatchRows;
use super::hub::Hub;
use super::inputs::check_inputs;
use super::local_inputs;
use super::options::MasterOptions;
use super::status::{BatchWatch, ClusterStatus};
use super::takeover::Takeover;
use crate::data::{AdvertisedAddress, PAUSE, Peers, Token, host_of, listen, serve};
use crate::execute::ClusterEngine;
use crate::link::Directory;
use crate::plan::Codec;

/// How long a standby that took over waits for more workers than one.
const GATHER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it looks whether it may go on waiting.
const GATHER_PAUSE: Duration = Duration::from_millis(200);

/// A master that listens. [`Master::start`] begins the program, once enough workers are there.
#[must_use = "a master that listens runs nothing before `start`"]
pub struct Master {
    parts: Description,
    /// The lock of the state directory, if there is one.
    lock: Option<DirLock>,
    options: MasterOptions,
    inbox: Inbox,
    calls: Arc<MasterCalls>,
    /// The host on which it listens.
    bound: String,
    advertised: AdvertisedAddress,
    serving: DropGuard,
    /// Of a standby that took over: until when it waits for more workers than one.
    gathers_until: Option<Instant>,
}

/// A program that runs on a cluster.
#[must_use = "dropping it lets the workers go"]
pub struct RunningCluster {
    /// The program.
    pub running: Running,
    pub(crate) calls: Arc<MasterCalls>,
    _serving: DropGuard,
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Master");
        shown.field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl fmt::Debug for RunningCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RunningCluster");
        shown
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl RunningCluster {
    /// The current status of the cluster.
    pub fn status(&self) -> ClusterStatus {
        self.calls.cluster_status()
    }
}

/// The program of a master; fails if it cannot run on a cluster.
fn describe(context: StreamContext, options: &MasterOptions) -> Result<Description> {
    options.check()?;
    let parts = Description::of(context)?;
    parts.may_set_aside()?;
    check_inputs(&parts)?;
    if options.standbys == 0 && parts.directory().is_none() {
        return Err(dstreams::Error::Config {
            setting: "standbys",
            message: "with 0, state is lost with a worker: keep the program in a directory \
                      (`StreamContext::persist_in`)"
                .into(),
        });
    }
    // Report planning errors before waiting for workers.
    parts.plans(options.partitions.unwrap_or(2))?;
    Ok(parts)
}

impl Master {
    /// Listens for workers of the program that `context` describes. Fails if another process has its directory.
    pub async fn listen(context: StreamContext, options: MasterOptions) -> Result<Self> {
        let parts = describe(context, &options)?;
        let lock = parts.lock(Some(options.lease))?;
        Self::of(parts, lock, options).await
    }

    /// Waits as long as another master leads the program, then listens like [`Master::listen`]. `None` if the program has
    /// ended meanwhile without a failure.
    ///
    /// It takes over when the process of the other master has ended, or when that renews nothing for the length of its lease
    /// ([`MasterOptions::lease`]): then it may still run, but acknowledges nothing more, and commits no batch that this one does not commit too. If nobody leads,
    /// it leads at once. Start all masters of a program like this, with the same directory, and give their addresses to
    /// workers and clients.
    ///
    /// The new master resumes as after a restart, from the newest checkpoint and the journals. It waits for
    /// [`MasterOptions::workers`] workers, but once there is a checkpoint no longer than ten seconds if one is there.
    pub async fn stand_by(context: StreamContext, options: MasterOptions) -> Result<Option<Self>> {
        let parts = describe(context, &options)?;
        let directory = parts.directory().map(|directory| directory.dir.clone());
        let directory = directory.ok_or_else(|| dstreams::Error::Config {
            setting: "standby",
            message: "a standby resumes from the directory of the program, and this one has none: keep it in one \
                      (`StreamContext::persist_in`) that all masters and workers see"
                .into(),
        })?;
        // An address that is in use is reported now.
        drop(listen(&options.listen).await?);
        let Some(lock) = stand_by(&directory, options.lease).await? else {
            return Ok(None);
        };
        // Before the first checkpoint, the workers decide how many partitions there are.
        let goes_on = options.partitions.is_some() || parts.has_checkpoint().await?;
        let mut master = Self::of(parts, Some(lock), options).await?;
        master.gathers_until = goes_on.then(|| Instant::now() + GATHER_TIMEOUT);
        Ok(Some(master))
    }

    async fn of(
        mut parts: Description,
        lock: Option<DirLock>,
        options: MasterOptions,
    ) -> Result<Self> {
        let watch = Arc::new(BatchWatch::default());
        parts.listeners.push(Arc::clone(&watch) as _);
        let inbox = Inbox::new();
        inbox.stop_when_sources_end(&mut parts)?;
        let copies = (options.copies, options.standbys);
        let hub = Arc::new(Hub::new(&parts, copies, inbox.mailbox()));
        let listener = listen(&options.listen).await?;
        let bound = listener
            .local_addr()
            .map_err(|source| dstreams::Error::Listen {
                address: options.listen.clone(),
                source: Arc::new(source),
            })?;
        log_reachable("the master", bound, options.token.is_some());
        let advertised = AdvertisedAddress::at(bound, options.advertise.as_deref());
        let calls = Arc::new(MasterCalls {
            hub,
            fingerprint: parts.fingerprint(),
            directory: Directory::of(&parts).map(|seen| match &lock {
                // Another process may have taken it meanwhile.
                Some(lock) => seen.owned_by(lock.owner()),
                None => seen,
            }),
            arguments: options.arguments.clone(),
            silence: options.silence,
            begun: tokio::sync::watch::Sender::new(None),
            watch,
            runs: AtomicBool::new(false),
            this: OnceLock::new(),
        });
        let _ = calls.this.set(Arc::downgrade(&calls));
        let stop = CancellationToken::new();
        let token = Token::new(options.token.clone());
        let served = Arc::clone(&calls) as _;
        serve(listener, served, token, PAUSE, stop.clone());
        Ok(Master {
            parts,
            lock,
            options,
            inbox,
            calls,
            bound: host_of(bound),
            advertised,
            serving: stop.drop_guard(),
            gathers_until: None,
        })
    }

    /// The address to which workers and clients connect.
    pub fn address(&self) -> &str {
        &self.advertised.address
    }

    /// The current status of the cluster.
    pub fn status(&self) -> ClusterStatus {
        self.calls.cluster_status()
    }

    /// Whether there are enough workers to start. Fails if another master has taken the directory.
    pub fn is_ready(&self) -> Result<bool> {
        if let Some(lock) = &self.lock {
            lock.owner().check()?;
        }
        let workers = self.calls.hub.lock().roster.all().len();
        let late = self.gathers_until.is_some_and(|it| Instant::now() > it);
        Ok(workers >= self.options.workers || late && workers > 0)
    }

    /// Waits for the workers with which the program starts; returns how many there are, and their cores.
    async fn gather(&self) -> Result<(usize, usize)> {
        let hub = &self.calls.hub;
        while !self.is_ready()? {
            let wanted = self.options.workers;
            let more = hub.until(|state| (state.roster.all().len() >= wanted).then_some(()));
            // Or it is late, or another master has taken the directory.
            let _ = timeout(GATHER_PAUSE, more).await;
        }
        let state = hub.lock();
        let workers = state.roster.all();
        let count = workers.len();
        Ok((count, workers.map(|(_, worker)| worker.cores).sum()))
    }

    /// Waits for the number of workers in the options, and starts the program.
    pub async fn start(mut self) -> Result<RunningCluster> {
        let hub = Arc::clone(&self.calls.hub);
        let (workers, cores) = self.gather().await?;
        let wanted = workers.min(self.options.workers);
        let partitions = self.options.partitions.unwrap_or(cores.clamp(2, 128));
        let persisted = match self.lock.take() {
            Some(lock) => Some(self.parts.restore(lock, partitions).await?),
            None => None,
        };
        let of_persisted = persisted
            .as_ref()
            .map(|(durable, restored)| (durable, restored));
        let durable = of_persisted.map(|(durable, _)| &**durable);
        self.parts.open_sinks(durable).await?;
        let partitions = of_persisted
            .and_then(|(_, restored)| restored.partitions())
            .unwrap_or(partitions);
        let plans = Arc::new(self.parts.plans(partitions)?);
        let state = if plans.states.is_empty() {
            0
        } else {
            partitions
        };
        hub.begin(state, of_persisted);
        let codec = Codec::master(Arc::clone(&plans));
        let peers = Peers::new(Token::new(self.options.token.clone()));
        let engine = ClusterEngine::start(
            (&self.bound, &self.advertised.host),
            codec,
            partitions,
            peers.clone(),
            self.options.speculation,
        )
        .await?;
        let store = Arc::<BlockStore>::default();
        for block in of_persisted
            .iter()
            .flat_map(|(_, restored)| &restored.blocks)
        {
            store.insert(Arc::clone(&block.1));
        }
        let own = local_inputs::begin(&mut self.parts, &hub, &store, of_persisted).await?;
        let rows = BatchRows {
            hub: Arc::clone(&hub),
            peers,
            store,
            address: self.advertised.address.clone(),
            sinks: self.parts.sinks(),
        };
        let committed = of_persisted.and_then(|(_, restored)| restored.batch());
        let states = BatchStates::new(&hub, &plans, committed);
        let rows_per_task = self.parts.config.rows_per_task;
        let remote = Arc::new(ClusterWorkers {
            hub: Arc::clone(&hub),
            batches: BatchRunner::new(engine, rows_per_task, rows, states),
            interval_ms: self.parts.config.interval.as_millis() as u64,
            own: Arc::new(own),
            incarnation: of_persisted.map(|(durable, _)| durable.incarnation()),
            rebuilds: Default::default(),
        });
        let durable = of_persisted.map(|(durable, _)| durable);
        let takeover = Takeover::begin(&remote, durable, &self.parts);
        self.calls.begun.send_replace(Some(Arc::clone(&remote)));
        let persisted = resume(&remote, wanted, persisted, &self.parts.config).await?;
        if let Some(takeover) = takeover {
            takeover.rebuild_lost_state();
        }
        let running = run_on(
            self.parts,
            remote,
            self.inbox,
            Default::default(),
            persisted,
        )
        .await?;
        self.calls.runs.store(true, Ordering::Relaxed);
        Ok(RunningCluster {
            running,
            calls: self.calls,
            _serving: self.serving,
        })
    }
}

/// Waits until so many workers have joined the program, then replays what an earlier process has left.
async fn resume(
    workers: &ClusterWorkers,
    wanted: usize,
    persisted: Option<(Arc<Durable>, Restored)>,
    config: &Config,
) -> Result<Option<(Arc<Durable>, dstreams_control::Restored)>> {
    let joined = workers.hub.until(|state| {
        let enough = state.roster.has_enough(wanted).then_some(Ok(()));
        state.broken().map(Err).or(enough)
    });
    let Some((durable, restored)) = persisted else {
        return joined.await.map(|()| None);
    };
    let replayed = async {
        joined.await?;
        replay(workers, &durable, restored, config).await
    };
    // Both wait for workers, as long as there are none.
    let resumed = tokio::select! {
        replayed = replayed => replayed,
        lost = durable.lost() => Err(lost),
    };
    if resumed.is_err() {
        workers.close();
        workers.end(true).await;
    }
    Ok(Some((durable, resumed?)))
}
