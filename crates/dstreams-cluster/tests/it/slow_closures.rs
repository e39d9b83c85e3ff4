//! Closures of the program take longer than a worker may be silent, or read the state, while state is lost and rebuilt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use dstreams::record::records_of;
use dstreams::{Config, OnFailure, Queue, StreamContext, Track, Values};
use dstreams_cluster::{MasterOptions, RunningCluster};

use crate::killed::new_dir;
use crate::process::{self, How, Process, be_worker};
use crate::program::{block_on, soon, until};

/// Environment variable with the program's directory, for worker processes.
const PLACE: &str = "DSTREAMS_TEST_SLOW_CLOSURES";
const WORKER: &str = "slow_closures::a_worker";
const WORKERS: usize = 2;
const SILENCE: Duration = Duration::from_secs(2);
/// How long the slow call takes.
const SLOW: Duration = Duration::from_secs(6);
/// Enough that each partition has some.
const KEYS: u64 = 20;
/// The closure fails for it.
const BAD: u64 = 99;

type Counts = BTreeMap<u64, i64>;

/// The file that makes the next call of the closure the slow one, and the one with the process that took it.
fn order(dir: &Path) -> [PathBuf; 2] {
    ["slow", "slow-in"].map(|name| dir.join(name))
}

/// The output of the program: its newest counts, and the answer to a read of its state.
#[derive(Default)]
struct Output {
    counts: Mutex<Counts>,
    /// The next batch with records reads the state, once it may.
    reads: AtomicBool,
    waits: AtomicBool,
    may_read: AtomicBool,
    answer: Mutex<Option<String>>,
    cluster: OnceLock<Weak<RunningCluster>>,
}

impl Output {
    fn read(&self, runtime: &tokio::runtime::Handle) {
        self.waits.store(true, Ordering::SeqCst);
        while !self.may_read.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let cluster = self.cluster.get().and_then(Weak::upgrade).unwrap();
        let read = soon("the table", cluster.running.table("counts"));
        let answer = match runtime.block_on(read) {
            Ok(_) => "rows".to_owned(),
            Err(error) => error.to_string(),
        };
        *self.answer.lock().unwrap() = Some(answer);
    }
}

/// Counts by key.
fn program(dir: &Path, output: &Arc<Output>) -> (StreamContext, Queue<(u64, i64)>) {
    let mut config = Config::new(Duration::from_millis(500));
    config.on_failure = OnFailure::SetAside;
    config.attempts = 1;
    let mut ctx = StreamContext::with_config(config).unwrap();
    ctx.persist_in(dir.join("state"));
    let (queue, numbers) = ctx.queue::<(u64, i64)>("numbers");
    let [order, taken] = order(dir);
    let count = Track::by_batch(
        move |key: u64, values: Values<'_, i64>, count: Option<i64>| {
            assert_ne!(key, BAD, "a bad key");
            if std::fs::rename(&order, &taken).is_ok() {
                std::fs::write(&taken, std::process::id().to_string()).unwrap();
                std::thread::sleep(SLOW);
            }
            Some(count.unwrap_or(0) + values.len() as i64)
        },
    );
    let counts = numbers.by_key().track("counts", count).unwrap();
    let output = Arc::clone(output);
    counts.all().for_each_rdd(move |rdd| {
        let counts: Counts = rdd.collect().unwrap().into_iter().collect();
        let newer = *output.counts.lock().unwrap() != counts;
        if newer && output.reads.swap(false, Ordering::SeqCst) {
            output.read(&tokio::runtime::Handle::current());
        }
        *output.counts.lock().unwrap() = counts;
    });
    (ctx, queue)
}

/// Not a test: a worker.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    let place = std::env::var(PLACE).unwrap_or_default();
    be_worker(|| program(Path::new(&place), &Arc::default()).0);
}

struct Cluster {
    dir: PathBuf,
    address: String,
    output: Arc<Output>,
    queue: Queue<(u64, i64)>,
    running: Arc<RunningCluster>,
    workers: Vec<Process>,
    pushed: i64,
}

impl Cluster {
    async fn start(standbys: usize, pause_at: Option<&str>) -> Self {
        dstreams_cluster::logs::to_stderr();
        let (dir, output) = (new_dir(), Arc::<Output>::default());
        let mut options = MasterOptions::default();
        options.partitions = Some(WORKERS);
        options.standbys = standbys;
        options.silence = SILENCE;
        let (ctx, queue) = program(&dir, &output);
        let mut how = vec![how(&dir); WORKERS];
        how.iter_mut()
            .for_each(|how| how.pause_at = pause_at.map(str::to_owned));
        let (running, workers, address) = process::start(ctx, options, (WORKER, &how)).await;
        let running = Arc::new(running);
        output.cluster.set(Arc::downgrade(&running)).unwrap();
        Cluster {
            dir,
            address,
            output,
            queue,
            running,
            workers,
            pushed: 0,
        }
    }

    /// One record of each key.
    async fn push(&mut self) {
        self.pushed += 1;
        let rows = (0..KEYS).map(|key| (key, 1));
        self.queue.push(rows).await.unwrap();
    }

    /// Waits until all that was pushed is counted, once.
    async fn is_counted(&self) {
        let wanted: Counts = (0..KEYS).map(|key| (key, self.pushed)).collect();
        let is_there = || *self.output.counts.lock().unwrap() == wanted;
        until("the counts", is_there).await;
    }

    async fn workers_are(&self, count: usize) {
        let are = || self.running.status().workers.len() == count;
        until("workers", are).await;
    }

    async fn stop(self) {
        soon("the stop", self.running.running.stop()).await.unwrap();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn how(dir: &Path) -> How {
    How {
        place: Some((PLACE, dir.display().to_string())),
        ..How::default()
    }
}

/// The link of the other worker stays alive while a closure changes a state that is about to be replaced.
#[test]
fn a_slow_change_of_state_costs_no_worker_while_another_partition_is_rebuilt() {
    block_on(async {
        let mut cluster = Cluster::start(0, None).await;
        for _ in 0..2 {
            cluster.push().await;
            cluster.is_counted().await;
        }
        let [order, taken] = order(&cluster.dir);
        std::fs::write(order, "").unwrap();
        cluster.push().await;
        let pid = || std::fs::read_to_string(&taken).ok()?.parse::<u32>().ok();
        until("the slow call", || pid().is_some()).await;
        let slow = pid().unwrap();
        cluster.workers.retain(|worker| worker.pid() == slow);
        assert_eq!(cluster.workers.len(), 1);
        cluster.is_counted().await;
        cluster.push().await;
        cluster.is_counted().await;
        let status = cluster.running.status();
        assert_eq!((status.losses, status.rebuilds), (1, 1), "{status:?}");
        assert_eq!(status.rebuilt_partitions, 1, "only the lost one");
        cluster.stop().await;
    });
}

/// The batch is about to be committed, so the state is rebuilt after its output has ended: that must not wait for it.
#[test]
fn an_output_that_reads_lost_state_gets_an_error_and_its_batch_is_committed() {
    block_on(async {
        let mut cluster = Cluster::start(1, None).await;
        cluster.push().await;
        cluster.is_counted().await;
        cluster.output.reads.store(true, Ordering::SeqCst);
        cluster.push().await;
        until("the output", || cluster.output.waits.load(Ordering::SeqCst)).await;
        cluster.workers.clear();
        cluster.workers_are(0).await;
        for _ in 0..WORKERS {
            let worker = Process::start(WORKER, &cluster.address, &how(&cluster.dir));
            cluster.workers.push(worker);
        }
        cluster.workers_are(WORKERS).await;
        cluster.output.may_read.store(true, Ordering::SeqCst);
        let answer = || cluster.output.answer.lock().unwrap().clone();
        until("an answer", || answer().is_some()).await;
        let answer = answer().unwrap();
        assert!(
            answer.contains("once the batch before is committed"),
            "{answer}"
        );
        cluster.is_counted().await;
        cluster.push().await;
        cluster.is_counted().await;
        assert_eq!(cluster.running.status().rebuilds, 1);
        cluster.stop().await;
    });
}

/// The primaries stay the same, and for a while have the state of an older batch. A read that takes as long as this one
/// may find that newer batches have released its version, and fail.
#[test]
fn a_read_that_overlaps_a_rebuild_never_has_the_rows_of_an_older_batch() {
    block_on(async {
        let mut cluster = Cluster::start(1, Some("state:read=4000")).await;
        for _ in 0..3 {
            cluster.push().await;
            cluster.is_counted().await;
        }
        let [order, taken] = order(&cluster.dir);
        let running = Arc::clone(&cluster.running);
        let read = tokio::spawn(async move { running.running.table("counts").await });
        cluster.queue.push([(BAD, 1)]).await.unwrap();
        // Its records are written, and the state is rebuilt next: the replay of the first batch is slow.
        let failed = cluster.dir.join("state").join("failed");
        until("a batch that is set aside", || failed.is_dir()).await;
        std::fs::write(order, "").unwrap();
        until("the slow call", || taken.exists()).await;
        assert!(!read.is_finished(), "the read ended before the rebuild");
        match soon("the rows", read).await.unwrap() {
            Ok(table) => {
                let rows = table.collect().await.unwrap();
                let rows = rows
                    .iter()
                    .flat_map(|rows| records_of::<(u64, i64)>(rows).unwrap());
                let wanted: Counts = (0..KEYS).map(|key| (key, cluster.pushed)).collect();
                assert_eq!(rows.collect::<Counts>(), wanted);
            }
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        cluster.push().await;
        cluster.is_counted().await;
        assert_eq!(cluster.running.status().rebuilds, 1);
        cluster.stop().await;
    });
}
