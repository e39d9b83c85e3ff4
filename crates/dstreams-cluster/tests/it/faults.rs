//! Workers that are killed: every acknowledged line is in one batch, once, and results are right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::{Clients, StreamContext, agg::count, text::words};
use dstreams_client::{Client, Options};
use dstreams_cluster::{Master, MasterOptions, RunningCluster};

use crate::process::{Process, be_worker};
use crate::program::{block_on, soon};

/// Intervals of the window.
const WINDOW: usize = 4;
const INTERVAL: Duration = Duration::from_millis(500);

type Counts = BTreeMap<String, i64>;

/// What the batches gave.
#[derive(Default)]
struct Found {
    lines: BTreeMap<u64, Vec<String>>,
    counts: BTreeMap<u64, Counts>,
    windows: BTreeMap<u64, Counts>,
}

fn program(found: &Arc<Mutex<Found>>) -> StreamContext {
    let mut config = dstreams::Config::new(INTERVAL);
    config.rows_per_task = 8; // batches run as several tasks
    let mut ctx = StreamContext::with_config(config).unwrap();
    let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
    let counted = lines
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
    ctx
}

fn count_words<'a>(lines: impl IntoIterator<Item = &'a String>) -> Counts {
    let mut counts = Counts::new();
    for word in lines.into_iter().flat_map(|line| line.split(' ')) {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    counts
}

/// Each batch's results are those of its lines, and of its window's; each line is there once, those
/// that were acknowledged all are.
fn check(found: &Found, sent: usize, acknowledged: usize) {
    let mut window: VecDeque<&Vec<String>> = VecDeque::new();
    let mut seen = BTreeSet::new();
    for (at, lines) in &found.lines {
        assert_eq!(found.counts[at], count_words(lines), "batch {at}");
        window.push_back(lines);
        if window.len() > WINDOW {
            window.pop_front();
        }
        let wanted = count_words(window.iter().copied().flatten());
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

/// A cluster of processes that runs [`program`], and a client that sends numbered lines to it.
struct Scene {
    cluster: RunningCluster,
    workers: Vec<Process>,
    found: Arc<Mutex<Found>>,
    master: String,
    client: tokio::task::JoinHandle<usize>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Scene {
    /// Three workers; the first that comes to `crash_at` ends there.
    async fn open(crash_at: Option<&str>) -> Self {
        dstreams_cluster::logs::to_stderr();
        let found = Arc::new(Mutex::new(Found::default()));
        let mut options = MasterOptions::default();
        options.workers = 3;
        options.partitions = Some(3);
        let master = Master::listen(program(&found), options).await.unwrap();
        let address = master.address().to_owned();
        let start = |_| Process::start("faults::a_worker", &address, crash_at);
        let workers: Vec<_> = (0..3).map(start).collect();
        let cluster = soon("the workers", master.start()).await.unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let client = tokio::spawn(send(address.clone(), Arc::clone(&stop)));
        Scene {
            cluster,
            workers,
            found,
            master: address,
            client,
            stop,
        }
    }

    /// Waits until so many more batches have taken effect.
    async fn batches(&self, more: u64) {
        let wanted = self.cluster.running.status().batches + more;
        let wait = async {
            while self.cluster.running.status().batches < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("batches", wait).await;
    }

    async fn close(self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let sent = soon("the client", self.client).await.unwrap();
        let stopped = self.cluster.running.stop(true, None);
        let summary = soon("the stop", stopped).await.unwrap();
        assert_eq!(summary.unfinished, 0);
        let found = std::mem::take(&mut *self.found.lock().unwrap());
        assert!(sent > 100, "only {sent} lines were sent");
        check(&found, sent, sent);
    }
}

/// Sends lines until told to stop; returns how many, all acknowledged.
async fn send(master: String, stop: Arc<std::sync::atomic::AtomicBool>) -> usize {
    let client = Client::connect(master, Options::default()).await.unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    let mut sent = 0;
    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
        for _ in 0..5 {
            let line = format!("a w{} {sent}", sent % 7);
            lines.send(&line).await.unwrap();
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let report = lines.finish().await.unwrap();
    assert_eq!(report.records_acknowledged, sent as u64);
    sent
}

/// Not a test: what [`Process::start`] runs.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    be_worker(|| program(&Arc::default()));
}

#[test]
fn nothing_happens() {
    block_on(async {
        let scene = Scene::open(None).await;
        scene.batches(5).await;
        scene.close().await;
    });
}

#[test]
fn a_worker_is_killed_and_another_comes() {
    block_on(async {
        let mut scene = Scene::open(None).await;
        scene.batches(4).await;
        // The one that the client sends to: it has most to lose.
        let status = scene.cluster.status();
        let busiest = status
            .workers
            .iter()
            .max_by_key(|worker| worker.blocks)
            .unwrap();
        let pid = busiest.pid;
        scene
            .workers
            .iter_mut()
            .find(|w| w.pid() == pid)
            .unwrap()
            .kill();
        scene.batches(4).await;
        assert_eq!(scene.cluster.status().workers.len(), 2);
        scene
            .workers
            .push(Process::start("faults::a_worker", &scene.master, None));
        scene.batches(5).await;
        let status = scene.cluster.status();
        assert_eq!(status.workers.len(), 3, "{status:?}");
        scene.close().await;
    });
}

fn crashes_at(name: &str, point: &str) {
    assert!(dstreams_cluster::crash::POINTS.contains(&point.split('#').next().unwrap()));
    block_on(async {
        let file = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let plan = format!("{point}@{}", file.display());
        let mut scene = Scene::open(Some(&plan)).await;
        let wait = async {
            while !scene.workers.iter_mut().any(Process::has_ended) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the crash", wait).await;
        assert!(file.exists(), "the crash was not the planned one");
        scene.batches(4).await;
        assert_eq!(scene.cluster.status().workers.len(), 2);
        scene.close().await;
        std::fs::remove_file(&file).unwrap();
    });
}

macro_rules! crashes {
    ($($name:ident: $point:literal,)*) => {
        $(#[test] fn $name() { crashes_at(stringify!($name), $point); })*
    };
}

crashes! {
    crash_with_a_sealed_block: "receive:sealed#9",
    crash_with_a_block_that_nobody_else_holds: "replicate:held#12",
    crash_with_a_copied_block_nobody_knows: "replicate:copied#15",
    crash_with_a_safe_block_that_is_not_acknowledged: "replicate:told#18",
    crash_as_a_task_begins: "execute:task#20",
    crash_as_a_task_ends: "execute:done#23",
    crash_with_state_installed_here_alone: "state:installed#5",
    crash_of_a_standby: "state:standby#5",
}
