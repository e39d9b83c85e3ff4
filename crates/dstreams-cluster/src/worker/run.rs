//! The life of a worker: join, serve, and rejoin when the link breaks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::FlightData;
use dstreams::internal::{
    BlockStore, Bounds, Description, StateMemoryBudget, States, log_reachable,
};
use dstreams::{Error, Result, StreamContext};
use futures::Stream;
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
/// How often the worker reports its numbers to the master.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// The options of a worker.
#[derive(Clone)]
#[non_exhaustive]
#[must_use = "settings do nothing before a worker has them"]
pub struct WorkerOptions {
    /// Address of the master.
    pub master: String,
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
            master,
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
            .field("master", master)
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
    /// The defaults, with this master.
    pub fn new(master: &str) -> Self {
        WorkerOptions {
            master: master.to_owned(),
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

/// Builds the program from its arguments.
pub type Program<'a> = dyn Fn(&[String]) -> Result<StreamContext> + 'a;

/// How an epoch ended, if not with a permanent failure.
enum EpochEnd {
    /// The program has ended.
    Program,
    /// The link broke, or could not be opened.
    Link(String),
}

/// Runs a worker until the program has ended. Calls `joined` with its number and address after each join.
pub fn run(
    options: &WorkerOptions,
    program: &Program<'_>,
    joined: &dyn Fn(u32, &str),
) -> Result<()> {
    check_exposure("worker", &options.listen, options.token.as_deref())?;
    check_advertised("worker", &options.listen, options.advertise.as_deref())?;
    let mut trying = Instant::now();
    let mut had_joined = false;
    loop {
        // Each epoch has a runtime of its own, which ends all of its tasks.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("dstreams-worker")
            .build();
        let runtime = runtime.map_err(|error| Error::Thread {
            what: "the threads of the worker",
            source: Arc::new(error),
        })?;
        let mut welcome = || {
            had_joined = true;
            trying = Instant::now();
        };
        let end = runtime.block_on(epoch(options, program, joined, &mut welcome));
        runtime.shutdown_background();
        let reason = match end? {
            EpochEnd::Program => return Ok(()),
            EpochEnd::Link(reason) => reason,
        };
        if had_joined {
            had_joined = false;
            trying = Instant::now();
            tracing::warn!(reason, "the link to the master broke; joining again");
        }
        if trying.elapsed() >= options.retry {
            return Err(Error::NoMaster {
                master: options.master.clone(),
                waited: options.retry,
                reason,
            });
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

async fn epoch(
    options: &WorkerOptions,
    program: &Program<'_>,
    joined: &dyn Fn(u32, &str),
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
    let peers = Peers::new(token.clone()).patient(&options.master, patience);
    let (link, outgoing) = channel::<ToMaster>();
    link.send(&ToMaster::Hello {
        version: VERSION,
        build: build_id().to_string(),
        pid: std::process::id(),
        cores: options.cores,
    });
    let (mut incoming, worker, arguments) = match greet(&options.master, &peers, outgoing).await? {
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
    joined(worker, &address);
    let (partitions, engine, incarnation, silence) =
        match begin(&options.master, &mut incoming).await? {
            Ok(begun) => begun,
            Err(end) => return Ok(end),
        };
    let plans = Arc::new(parts.plans(partitions)?);
    let rows_per_batch = parts.config.rows_per_batch;
    let work_dir = WorkDir::new(options.exchanges.as_deref(), options.spill.as_deref())?;
    let state_dir = options.spill.as_ref().unwrap_or(&parts.config.spill_dir);
    let room = StateMemoryBudget::of(&parts.config, state_dir.clone())?;
    let store = BlockStore::open(Bounds {
        spill: Some(work_dir.spill.path.join("blocks")),
        memory: Memory::stored(&parts.config),
        age: options.history,
    })?;
    let states = States::new(plans.states.clone(), plans.tasks, room)?;
    let held = (states, store);
    let site = TaskRunner::new(plans, rows_per_batch, peers, held);
    let site = Arc::new(site);
    let journal = WorkerJournal::begin(&parts, incarnation, worker, directory)?;
    let journal = (journal, silence);
    let epoch = Epoch::new(worker, parts, Arc::clone(&site), link.clone(), journal);
    let _ = calls.epoch.set(Arc::clone(&epoch));
    let engine = engine_at(&engine);
    let bound = host_of(bound);
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
            _ => Ok(EpochEnd::Link("another master has taken over its journal".into())),
        },
        ended = executor => Ok(EpochEnd::Link(ended)),
    }
}

/// Opens the link to the master, and waits for its welcome: the worker's number, and the arguments of the program.
async fn greet(
    master: &str,
    peers: &Peers,
    outgoing: impl Stream<Item = FlightData> + Send + 'static,
) -> Result<Result<(LinkReceiver<ToWorker>, u32, Vec<String>), EpochEnd>> {
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
