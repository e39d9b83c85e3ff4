//! A cluster of processes that counts words, a client that sends numbered lines to it, and a check that
//! every acknowledged line is in exactly one batch and all results are right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::record::records_of;
use dstreams::{Clients, StreamContext, agg::count, text::words};
use dstreams_client::{Client, Options};
use dstreams_cluster::{ClusterStatus, RunningCluster, WorkerStatus};

use crate::process::{How, PATIENT, Process, be_worker, master_options, start};
use crate::program::{send_numbered, soon, until};

/// Length of the window in intervals.
const WINDOW: usize = 4;
const INTERVAL: Duration = Duration::from_millis(500);
/// The smallest possible memory for records of a worker of [`program`].
pub const SMALLEST_MEMORY: usize = 256 << 10;
/// Partitions of state.
const PARTITIONS: usize = 3;

/// Prefix of lines whose words are not counted: those that tests send besides the numbered ones.
pub const OTHER: &str = "#";

type Counts = BTreeMap<String, i64>;

/// The results of the batches.
#[derive(Default)]
pub struct Found {
    lines: BTreeMap<u64, Vec<String>>,
    counts: BTreeMap<u64, Counts>,
    windows: BTreeMap<u64, Counts>,
}

/// Counts words of lines, per batch and in a window; with `asked`, also words and lines of all batches.
fn program(found: &Arc<Mutex<Found>>, asked: bool) -> StreamContext {
    let mut config = dstreams::Config::new(INTERVAL);
    config.rows_per_task = 8; // batches run as several tasks
    config.block_bytes = SMALLEST_MEMORY;
    config.line_bytes = SMALLEST_MEMORY;
    let mut ctx = StreamContext::with_config(config).unwrap();
    let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
    let counted = lines
        .filter(|line| !line.starts_with(OTHER))
        .flat_map::<String>(|line, out| words(line).for_each(|word| out.push(word)))
        .keyed();
    let log = Arc::clone(found);
    lines.for_each_rdd(move |rdd| {
        let (at, rows) = (rdd.batch_time().0, rdd.collect().unwrap());
        log.lock().unwrap().lines.insert(at, rows);
    });
    let log = Arc::clone(found);
    counted.agg(count()).unwrap().for_each_rdd(move |rdd| {
        let (at, rows) = (rdd.batch_time().0, rdd.collect().unwrap());
        log.lock()
            .unwrap()
            .counts
            .insert(at, rows.into_iter().collect());
    });
    let log = Arc::clone(found);
    let length = INTERVAL * WINDOW as u32;
    let window = counted.window_agg(length, INTERVAL, count()).unwrap();
    window.for_each_rdd(move |rdd| {
        let (at, rows) = (rdd.batch_time().0, rdd.collect().unwrap());
        log.lock()
            .unwrap()
            .windows
            .insert(at, rows.into_iter().collect());
    });
    if asked {
        let counts = counted.running_agg("counts", count()).unwrap();
        counts.changes().for_each_rdd(|_| ());
        let totals = lines
            .filter(|line| !line.starts_with(OTHER))
            .key_by_into::<String>(|_, key| key.push("lines"))
            .running_agg("totals", count());
        totals.unwrap().changes().for_each_rdd(|_| ());
    }
    ctx
}

fn count_words<'a>(lines: impl IntoIterator<Item = &'a String>) -> Counts {
    let mut counts = Counts::new();
    for word in lines.into_iter().flat_map(|line| line.split(' ')) {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    counts
}

/// Checks that each batch's results follow from the lines of the batch and the window, that no line is there
/// twice, and that no acknowledged line is missing.
fn check(found: &Found, sent: usize, acknowledged: usize) {
    let mut window: VecDeque<Vec<&String>> = VecDeque::new();
    let mut seen = BTreeSet::new();
    for (at, lines) in &found.lines {
        let lines = lines.iter().filter(|line| !line.starts_with(OTHER));
        let lines: Vec<&String> = lines.collect();
        let counts = count_words(lines.iter().copied());
        assert_eq!(found.counts[at], counts, "batch {at}");
        window.push_back(lines.clone());
        if window.len() > WINDOW {
            window.pop_front();
        }
        let wanted = count_words(window.iter().flatten().copied());
        assert_eq!(found.windows[at], wanted, "window at {at}");
        for line in lines {
            let number: usize = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(seen.insert(number), "line {number} is there twice");
        }
    }
    let missing: Vec<_> = (0..acknowledged).filter(|n| !seen.contains(n)).collect();
    assert!(
        missing.is_empty(),
        "acknowledged and not there: {missing:?}"
    );
    assert!(seen.iter().all(|number| *number < sent));
}

/// The setup of a scene.
#[derive(Clone)]
pub struct Setup {
    /// The address on which the master listens.
    pub listen: String,
    /// The address at which it is reached, if another.
    pub advertise: Option<String>,
    /// The secret of all processes.
    pub token: Option<String>,
    /// The workers at the start.
    pub workers: Vec<How>,
    /// Whether there are states to query: see [`Scene::ask_for`].
    pub asked: bool,
    /// Whether the client sends to the first worker, as long as that answers; else to one that the
    /// master names.
    pub aimed: bool,
    /// How long workers may be silent.
    pub silence: Duration,
}

impl Setup {
    /// A master and three workers on loopback.
    pub fn local() -> Self {
        Setup {
            listen: "127.0.0.1:0".into(),
            advertise: None,
            token: None,
            workers: vec![How::default(); 3],
            asked: false,
            aimed: false,
            silence: PATIENT,
        }
    }

    /// The options of clients.
    pub fn client(&self) -> Options {
        let mut options = Options::default();
        options.token = self.token.clone();
        // As workers do: no test waits longer for a client than for the cluster.
        options.keep_alive = Duration::from_secs(5);
        options
    }
}

/// A cluster of processes that runs [`program`], and a client that sends numbered lines to it.
pub struct Scene {
    pub cluster: RunningCluster,
    pub workers: Vec<Process>,
    pub master: String,
    asked: bool,
    found: Arc<Mutex<Found>>,
    client: Sending,
}

impl Scene {
    pub async fn open(setup: Setup) -> Self {
        dstreams_cluster::logs::to_stderr();
        let found = Arc::new(Mutex::new(Found::default()));
        let mut options = master_options();
        options.silence = setup.silence;
        options.listen = setup.listen.clone();
        options.advertise = setup.advertise.clone();
        options.token = setup.token.clone();
        options.partitions = Some(PARTITIONS);
        let program = program(&found, setup.asked);
        let of = (worker(setup.asked), &setup.workers[..]);
        let (cluster, workers, address) = start(program, options, of).await;
        let aim = cluster.status().workers.into_iter();
        let mut aim = aim.filter(|worker| setup.aimed && worker.pid == workers[0].pid());
        let addresses = match aim.next() {
            Some(first) => format!("{},{address}", first.ingest),
            None => address.clone(),
        };
        let client = Sending::start(addresses, setup.client());
        Scene {
            cluster,
            workers,
            master: address,
            asked: setup.asked,
            found,
            client,
        }
    }

    pub fn status(&self) -> ClusterStatus {
        self.cluster.status()
    }

    /// The worker with the most blocks: probably the one that the client sends to.
    pub fn busiest(&self) -> WorkerStatus {
        let workers = self.status().workers.into_iter();
        workers.max_by_key(|worker| worker.blocks).unwrap()
    }

    pub fn process(&mut self, pid: u32) -> &mut Process {
        let mut workers = self.workers.iter_mut();
        workers.find(|worker| worker.pid() == pid).unwrap()
    }

    /// Starts one more worker; returns its process.
    pub fn add(&mut self, how: &How) -> u32 {
        let worker = Process::start(worker(self.asked), &self.master, how);
        let pid = worker.pid();
        self.workers.push(worker);
        pid
    }

    /// Waits until `more` further batches have committed.
    pub async fn batches(&self, more: u64) {
        let running = &self.cluster.running;
        let wanted = running.status().batches + more;
        until("batches", || running.status().batches >= wanted).await;
    }

    /// Waits until there are `count` workers.
    pub async fn workers_are(&self, count: usize) {
        let what = format!("{count} workers");
        until(&what, || self.status().workers.len() == count).await;
    }

    /// Waits until there are `workers` workers, every partition of state has a primary and a standby,
    /// and earlier blocks are released.
    pub async fn is_whole(&self, workers: usize) {
        let whole = || {
            let status = self.status();
            let count = |of: fn(&WorkerStatus) -> &Vec<u32>| -> usize {
                status.workers.iter().map(|worker| of(worker).len()).sum()
            };
            status.workers.len() == workers
                && count(|worker| &worker.holds) == PARTITIONS
                && count(|worker| &worker.stands_by) == PARTITIONS
        };
        until("a whole cluster", whole).await;
        self.batches(3).await;
    }

    /// Queries the states repeatedly, until `batches` further batches have committed.
    pub async fn ask_for(&self, batches: u64) {
        let running = &self.cluster.running;
        let wanted = running.status().batches + batches;
        while running.status().batches < wanted {
            self.ask().await;
        }
    }

    /// Queries both states, and checks that they are as of the same batch: the newest at the time of the query, or a
    /// newer one.
    async fn ask(&self) {
        let running = &self.cluster.running;
        let newest = running.last_batch().unwrap().0;
        let session = soon("a session", running.session()).await.unwrap();
        let rows = async |table| {
            let rows = session.table(table).await.unwrap().collect().await.unwrap();
            rows.iter()
                .flat_map(|rows| records_of::<(String, i64)>(rows).unwrap())
                .collect::<Counts>()
        };
        let (counts, totals) = (rows("counts").await, rows("totals").await);
        let found = self.found.lock().unwrap();
        let (mut all, mut lines) = (Counts::new(), 0);
        let mut batches = found.counts.iter().filter(|(at, of_batch)| {
            for (word, count) in *of_batch {
                *all.entry(word.clone()).or_default() += count;
            }
            let of_batch = found.lines[at].iter();
            lines += of_batch.filter(|line| !line.starts_with(OTHER)).count() as i64;
            **at >= newest && all == counts
        });
        assert!(batches.next().is_some(), "{counts:?} after {newest}");
        assert_eq!(totals["lines"], lines);
    }

    /// Lines with [`OTHER`] in the batches so far.
    pub fn others(&self) -> Vec<String> {
        let found = self.found.lock().unwrap();
        let lines = found.lines.values().flatten();
        lines
            .filter(|line| line.starts_with(OTHER))
            .cloned()
            .collect()
    }

    /// Waits until `more` further lines are acknowledged.
    pub async fn acknowledged(&self, more: usize) {
        self.client.acknowledged(more).await;
    }

    /// Stops the program once the client has its last acknowledgement, and checks all results.
    pub async fn close(self) {
        let sent = self.client.finish().await;
        let stopped = self.cluster.running.stop();
        let summary = soon("the stop", stopped).await.unwrap();
        assert_eq!(summary.unfinished, 0);
        let asked = soon("an answer", self.cluster.running.session()).await;
        assert_eq!(
            asked.is_err(),
            self.asked,
            "states must be gone after the stop"
        );
        let found = std::mem::take(&mut *self.found.lock().unwrap());
        assert!(sent > 100, "only {sent} lines were sent");
        check(&found, sent, sent);
    }
}

/// Name of the test that runs as a worker.
fn worker(asked: bool) -> &'static str {
    match asked {
        true => "scene::a_worker_that_is_asked",
        false => "scene::a_worker",
    }
}

/// A client that sends numbered lines until `finish`.
struct Sending {
    task: tokio::task::JoinHandle<usize>,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Sending {
    fn start(master: String, options: Options) -> Self {
        let (stop, acknowledged) = (Arc::default(), Arc::default());
        let task = send(
            master,
            options,
            Arc::clone(&stop),
            Arc::clone(&acknowledged),
        );
        Sending {
            task: tokio::spawn(task),
            acknowledged,
            stop,
        }
    }

    async fn acknowledged(&self, more: usize) {
        let now = || self.acknowledged.load(Ordering::SeqCst);
        let wanted = now() + more;
        until("acknowledgements", || now() >= wanted).await;
    }

    /// Returns the number of sent lines, all of them acknowledged.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        soon("the client", self.task).await.unwrap()
    }
}

async fn send(
    addresses: String,
    options: Options,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> usize {
    let client = Client::connect(addresses, options).await.unwrap();
    let told = |count| acknowledged.store(count as usize, Ordering::SeqCst);
    send_numbered(client, Duration::from_millis(5), &stop, told).await
}

/// Not a test: a worker that [`Process::start`] runs.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    be_worker(|| program(&Arc::default(), false));
}

/// Not a test: a worker with states to query.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker_that_is_asked() {
    be_worker(|| program(&Arc::default(), true));
}
