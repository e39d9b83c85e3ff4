//! The life of a worker: join, serve, and rejoin when the link breaks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::FlightData;
use dstreams::internal::{
    BlockStore, Bounds, Description, Owner, StateMemoryBudget, States, log_reachable,
};
use dstreams::{Error, Result, StreamContext};
use futures::Stream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::calls::WorkerCalls;
use super::executor::{self, WorkDir};
use super::journal::WorkerJournal;
use super::memory::Memory;
use super::session::Epoch;
use crate::data::{
    AdvertisedAddress, KEEP_ALIVE, PAUSE, Peers, Token, check_advertised, check_exposure, host_of,
    listen, serve,
};
use crate::execute::TaskRunner;
use crate::link::{
    Directory, LinkReceiver, Sender, ToMaster, ToWorker, VERSION, build_id, channel,
};

/// Pause between two tries to join.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Consecutive short-lived executors of the engine after which the worker rejoins under a new number.
const EXECUTOR_TRIES: u32 = 20;
/// An executor that lives longer is not short-lived.
const MIN_EXECUTOR_LIFE: Duration = Duration::from_secs(60);
/// Why a worker leaves a master that is silent.
const TAKEN_OVER: &str = "another master has taken over its directory";
/// How long one of several masters may take to greet a worker.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the worker reports its numbers to the master, and looks for another master.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// The options of a worker.
#[derive(Clone)]
#[non_exhaustive]
#[must_use = "settings do nothing before a worker has them"]
pub struct WorkerOptions {
    /// Addresses of the masters: the one that leads, and its standbys. They are tried in turn, also after the link broke.
    pub masters: Vec<String>,
    /// Address on which it listens for clients and other workers; port 0 takes a free one. Default:
    /// loopback.
    pub listen: String,
    /// Tasks it runs at once. Default: the cores of the machine.
    pub cores: usize,
    /// Memory limit for received records, copies for others included, in bytes. Default: set by the
    /// program.
    pub memory: Option<usize>,
    /// The secret of the cluster; required beyond loopback. Not shown by `Debug`.
    pub token: Option<String>,
    /// Address at which others reach it, if not the one it listens on; required if it listens on every address
    /// of the machine. Port 0 means the port it listens on.
    pub advertise: Option<String>,
    /// Directory for spilled blocks and state. Default: the system's directory for temporary
    /// files.
    pub spill: Option<PathBuf>,
    /// Directory for data that tasks exchange. Default: in memory, at /dev/shm, if that has 1 GiB free, else the
    /// system's directory for temporary files.
    pub exchanges: Option<PathBuf>,
    /// The longest time that a block is stored; then it is released, and a batch that still needs it
    /// fails. Default: no bound.
    pub history: Option<Duration>,
    /// How long it tries to reach a master. Default: 30 s.
    pub retry: Duration,
    /// How long its master may be silent, e.g. stopped or on a machine that swaps. After that, or when the connection
    /// breaks, it gives up the master, and discards its blocks and state. At most a day. Default: 60 s.
    pub patience: Duration,
}

impl fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Destructured, so that no field is forgotten.
        let Self {
            masters,
            listen,
            cores,
            memory,
            token,
            advertise,
            spill,
            exchanges,
            history,
            retry,
            patience,
        } = self;
        f.debug_struct("WorkerOptions")
            .field("masters", masters)
            .field("listen", listen)
            .field("cores", cores)
            .field("memory", memory)
            .field("token", &token.as_ref().map(|_| "not shown"))
            .field("advertise", advertise)
            .field("spill", spill)
            .field("exchanges", exchanges)
            .field("history", history)
            .field("retry", retry)
            .field("patience", patience)
            .finish()
    }
}

/// The shortest patience: a live master answers sooner.
pub const MIN_PATIENCE: Duration = Duration::from_secs(1);
/// The longest patience: timers do not support much more.
pub const MAX_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

impl WorkerOptions {
    /// The defaults, with this master, or several, separated by commas.
    pub fn new(masters: &str) -> Self {
        let masters = masters.split(',').map(str::trim);
        WorkerOptions {
            masters: masters
                .filter(|it| !it.is_empty())
                .map(str::to_owned)
                .collect(),
            listen: "127.0.0.1:0".into(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory: None,
            token: None,
            advertise: None,
            spill: None,
            exchanges: None,
            history: None,
            retry: Duration::from_secs(30),
            patience: PAUSE,
        }
    }
}

/// A worker that has joined a master.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Membership<'a> {
    /// Its number.
    pub worker: u32,
    /// Its address for clients and other workers.
    pub address: &'a str,
    /// The address of the master.
    pub master: &'a str,
}

/// Builds the program from its arguments.
pub type Program<'a> = dyn Fn(&[String]) -> Result<StreamContext> + 'a;

/// How an epoch ended, if not with a permanent failure.
enum EpochEnd {
    /// The program has ended.
    Program,
    /// The link broke, or could not be opened.
    Link(String),
}

/// Runs a worker until the program has ended. Calls `joined` after each join.
pub fn run(
    options: &WorkerOptions,
    program: &Program<'_>,
    joined: &dyn Fn(&Membership<'_>),
) -> Result<()> {
    if options.masters.is_empty() {
        return Err(Error::Config {
            setting: "masters",
            message: "a worker needs the address of a master".into(),
        });
    }
    check_exposure("worker", &options.listen, options.token.as_deref())?;
    check_advertised("worker", &options.listen, options.advertise.as_deref())?;
    let mut trying = Instant::now();
    let mut had_joined = false;
    for (at, master) in options.masters.iter().enumerate().cycle() {
        // Each epoch has a runtime of its own, which ends all of its tasks.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("dstreams-worker")
            .build();
        let runtime = runtime.map_err(|error| Error::Thread {
            what: "the threads of the worker",
            source: Arc::new(error),
        })?;
        let mut welcome = || had_joined = true;
        let end = runtime.block_on(epoch((options, master), program, joined, &mut welcome));
        runtime.shutdown_background();
        let reason = match end {
            Ok(EpochEnd::Program) => return Ok(()),
            Ok(EpochEnd::Link(reason)) => reason,
            // A master that was replaced and does not know it yet refuses what the present one does not.
            Err(Error::Refused { reason, .. }) if options.masters.len() > 1 => {
                had_joined = false;
                reason
            }
            Err(error @ Error::LostDirectory { .. }) => error.to_string(),
            Err(error) => return Err(error),
        };
        if had_joined {
            had_joined = false;
            trying = Instant::now();
            tracing::warn!(reason, "the link to the master broke; joining again");
        }
        // Each master is tried before none is found.
        let is_last = at + 1 == options.masters.len();
        if is_last && trying.elapsed() >= options.retry {
            return Err(Error::NoMaster {
                master: options.masters.join(", "),
                waited: options.retry,
                reason,
            });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
    Ok(())
}

async fn epoch(
    (options, master): (&WorkerOptions, &str),
    program: &Program<'_>,
    joined: &dyn Fn(&Membership<'_>),
    welcome: &mut dyn FnMut(),
) -> Result<EpochEnd> {
    let token = Token::new(options.token.clone());
    let listener = listen(&options.listen).await?;
    let bound = listener.local_addr().map_err(|source| Error::Listen {
        address: options.listen.clone(),
        source: Arc::new(source),
    })?;
    log_reachable("the worker", bound, options.token.is_some());
    let AdvertisedAddress { host, address } =
        AdvertisedAddress::at(bound, options.advertise.as_deref());
    let patience = options.patience.clamp(MIN_PATIENCE, MAX_PATIENCE);
    let peers = Peers::new(token.clone()).patient(master, patience);
    let (link, outgoing) = channel::<ToMaster>();
    link.send(&ToMaster::Hello {
        version: VERSION,
        build: build_id().to_string(),
        pid: std::process::id(),
        cores: options.cores,
    });
    let welcomed = greet(master, options.masters.len() > 1, &peers, outgoing);
    let (mut incoming, worker, arguments) = match welcomed.await? {
        Ok(welcomed) => welcomed,
        Err(end) => return Ok(end),
    };
    let mut context = program(&arguments)?;
    if let Some(memory) = options.memory {
        context.set_block_memory(memory);
    }
    let parts = Description::of(context)?;
    let directory = Directory::of(&parts);
    link.send(&ToMaster::Join {
        fingerprint: parts.fingerprint(),
        address: address.clone(),
        directory: directory.clone(),
    });
    let stop = CancellationToken::new();
    let calls = Arc::new(WorkerCalls::default());
    let served = Arc::clone(&calls) as _;
    serve(listener, served, token, KEEP_ALIVE, stop.clone());
    let _serving = stop.drop_guard();
    welcome();
    joined(&Membership {
        worker,
        address: &address,
        master,
    });
    let owner = owner_seen(&parts, directory.as_ref());
    let begun = tokio::select! {
        begun = begin(master, &mut incoming) => begun?,
        () = taken_over(owner.clone()) => return Ok(EpochEnd::Link(TAKEN_OVER.into())),
    };
    let (partitions, engine, incarnation, silence) = match begun {
        Ok(begun) => begun,
        Err(end) => return Ok(end),
    };
    let work_dir = WorkDir::new(options.exchanges.as_deref(), options.spill.as_deref())?;
    let site = Arc::new(task_runner(
        options,
        &parts,
        partitions,
        (&work_dir, peers),
    )?);
    let journal = WorkerJournal::begin(&parts, incarnation, worker, directory)?;
    let journal = (journal, silence);
    let epoch = Epoch::new(worker, parts, Arc::clone(&site), link.clone(), journal);
    let _ = calls.epoch.set(Arc::clone(&epoch));
    let (engine, bound) = (engine_at(&engine), host_of(bound));
    let hosts = (bound.as_str(), host.as_str());
    let exchanges = &work_dir.exchanges.path;
    let executor = keep_executing(|| {
        let (site, engine) = (Arc::clone(&site), engine.clone());
        executor::run(worker, site, hosts, engine, options.cores, exchanges)
    });
    tokio::spawn(report_usage(Arc::clone(&epoch), link.clone()));
    link.send(&ToMaster::Ready);
    let handling = async {
        loop {
            match next(&mut incoming).await {
                Ok(ToWorker::End) => return EpochEnd::Program,
                Ok(message) => epoch.handle(message),
                Err(end) => return end,
            }
        }
    };
    let mut failed = epoch.replicas.failed.subscribe();
    tokio::select! {
        end = handling => Ok(end),
        Ok(failed) = failed.wait_for(Option::is_some) => match failed.clone() {
            Some(error) if !epoch.journal.as_ref().is_some_and(|it| it.is_fenced()) => Err(error),
            _ => Ok(EpochEnd::Link(TAKEN_OVER.into())),
        },
        ended = executor => Ok(EpochEnd::Link(ended)),
        () = taken_over(owner) => Ok(EpochEnd::Link(TAKEN_OVER.into())),
    }
}

/// Runs the tasks of a program, with room for blocks and states.
fn task_runner(
    options: &WorkerOptions,
    parts: &Description,
    partitions: usize,
    (work_dir, peers): (&WorkDir, Peers),
) -> Result<TaskRunner> {
    let plans = Arc::new(parts.plans(partitions)?);
    let state_dir = options.spill.as_ref().unwrap_or(&parts.config.spill_dir);
    let room = StateMemoryBudget::of(&parts.config, state_dir.clone())?;
    let store = BlockStore::open(Bounds {
        spill: Some(work_dir.spill.path.join("blocks")),
        memory: Memory::stored(&parts.config),
        age: options.history,
    })?;
    let states = States::new(plans.states.clone(), plans.tasks, room)?;
    let rows_per_batch = parts.config.rows_per_batch;
    Ok(TaskRunner::new(
        plans,
        rows_per_batch,
        peers,
        (states, store),
    ))
}

/// The owner of the program's directory when this worker looked.
fn owner_seen(parts: &Description, directory: Option<&Directory>) -> Option<Owner> {
    let dir = &parts.directory()?.dir;
    let name = directory?.owner.clone().ok()?;
    Some(Owner::new(dir, name))
}

/// Returns once another master has taken over the directory: the present one may be stopped, and its link open for long.
async fn taken_over(owner: Option<Owner>) {
    let Some(owner) = owner else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let owner = owner.clone();
        // Asks the file system.
        let owns = tokio::task::spawn_blocking(move || owner.still_owns());
        if let Ok(Ok(false)) = owns.await {
            return;
        }
    }
}

/// The link to a master, the number of the worker, and the arguments of the program.
type Welcome = (LinkReceiver<ToWorker>, u32, Vec<String>);

/// Opens the link to the master, and waits for its welcome.
async fn greet(
    master: &str,
    has_others: bool,
    peers: &Peers,
    outgoing: impl Stream<Item = FlightData> + Send + 'static,
) -> Result<Result<Welcome, EpochEnd>> {
    let welcome = welcome(master, peers, outgoing);
    if !has_others {
        return welcome.await;
    }
    // A master that is stopped accepts connections, and says nothing.
    let late = || Ok(Err(EpochEnd::Link("the master says nothing".into())));
    let welcomed = timeout(GREETING_TIMEOUT, welcome).await;
    welcomed.unwrap_or_else(|_| late())
}

async fn welcome(
    master: &str,
    peers: &Peers,
    outgoing: impl Stream<Item = FlightData> + Send + 'static,
) -> Result<Result<Welcome, EpochEnd>> {
    let connected = async {
        let mut client = peers.client(master)?;
        client.do_exchange(peers.request(outgoing)).await
    };
    let mut incoming = match connected.await {
        Ok(answers) => LinkReceiver::new(answers.into_inner()),
        Err(status) if status.code() == tonic::Code::Unauthenticated => {
            return Err(refused(master, status.message()));
        }
        Err(status) => return Ok(Err(EpochEnd::Link(status.message().to_owned()))),
    };
    Ok(match next(&mut incoming).await {
        Ok(ToWorker::Welcome { worker, arguments }) => Ok((incoming, worker, arguments)),
        Ok(ToWorker::Refused { reason }) => return Err(refused(master, &reason)),
        Ok(ToWorker::End) => Err(EpochEnd::Program),
        Ok(_) => Err(EpochEnd::Link("a master that does not greet".into())),
        Err(end) => Err(end),
    })
}

/// The number of partitions, the address of the engine's scheduler, the incarnation of the program, and the silence after
/// which the master gives up a worker.
type Beginning = (usize, String, Option<u64>, Duration);

/// Waits for the program to begin.
async fn begin(
    master: &str,
    incoming: &mut LinkReceiver<ToWorker>,
) -> Result<Result<Beginning, EpochEnd>> {
    loop {
        match next(incoming).await {
            Ok(ToWorker::Begin {
                partitions,
                engine,
                incarnation,
                silence_ms,
            }) => {
                let silence = Duration::from_millis(silence_ms);
                return Ok(Ok((partitions, engine, incarnation, silence)));
            }
            Ok(ToWorker::Refused { reason }) => return Err(refused(master, &reason)),
            Ok(ToWorker::End) => return Ok(Err(EpochEnd::Program)),
            Ok(_) => {}
            Err(end) => return Ok(Err(end)),
        }
    }
}

/// Runs the engine's executor, again when it ends; returns why it will not be tried again. It ends by itself when the
/// master was silent for some minutes, or the engine stopped it: the link decides whether the master is lost.
async fn keep_executing<F: Future<Output = Result<()>>>(run: impl Fn() -> F) -> String {
    let mut tries = EXECUTOR_TRIES;
    loop {
        let began = Instant::now();
        let ended = run().await;
        tries = if began.elapsed() > MIN_EXECUTOR_LIFE {
            EXECUTOR_TRIES
        } else {
            tries - 1
        };
        match ended {
            Err(error) if tries == 0 => return error.to_string(),
            Ok(()) if tries == 0 => return "the executor was stopped".to_owned(),
            ended => tracing::warn!(?ended, "the engine's executor ended; another one starts"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn refused(master: &str, reason: &str) -> Error {
    Error::Refused {
        master: master.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The next message, or how the link ended.
async fn next(incoming: &mut LinkReceiver<ToWorker>) -> Result<ToWorker, EpochEnd> {
    match incoming.next().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(EpochEnd::Link("the master has closed the link".into())),
        Err(status) => Err(EpochEnd::Link(status.message().to_owned())),
    }
}

/// The scheduler's host and port.
fn engine_at(engine: &str) -> (String, u16) {
    let (host, port) = engine.rsplit_once(':').unwrap_or((engine, ""));
    (host.to_owned(), port.parse().unwrap_or_default())
}

async fn report_usage(epoch: Arc<Epoch>, link: Sender<ToMaster>) {
    loop {
        link.send(&ToMaster::Holds(epoch.usage()));
        tokio::time::sleep(REPORT_INTERVAL).await;
    }
}
