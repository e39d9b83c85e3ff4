//! Slow tasks run once more on another worker: the first result counts, and only that one.
//!
//! Numbers are mapped to themselves and the process that did so. Where a test wants it, the map of number 0 waits until
//! the test lets go: so the test decides which of two tasks is first.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dstreams::agg::count;
use dstreams::files::Format;
use dstreams::{Queue, StreamContext};
use dstreams_cluster::{RunningCluster, SpeculationConfig};

use crate::dir::Dir;
use crate::process::{self, How, Process, be_worker, master_options};
use crate::program::{Live, Program, block_on, small, soon, until};

/// Environment variable of workers: the directory of the test.
const PLACE: &str = "DSTREAMS_SPECULATION_PLACE";
/// Name of the test that runs as a worker.
const WORKER: &str = "speculation::a_worker";
/// Workers with one core each, and tasks of a batch.
const WORKERS: usize = 3;
/// Numbers of a batch.
const NUMBERS: i64 = 12;
/// How long a slow worker takes for a task.
const SLOW: u32 = 20_000;

/// The results of a batch.
#[derive(Default)]
struct Found {
    /// The numbers, and the processes that mapped them.
    mapped: Vec<(i64, i64)>,
    counts: Vec<(i64, i64)>,
    /// How often each number came in all batches so far, if there is state.
    totals: Vec<(i64, i64)>,
}

type Log = Arc<Mutex<Vec<Found>>>;

/// The file to which processes that wait append their ids.
fn held(dir: &Path) -> PathBuf {
    dir.join("held")
}

/// In a test that has a file `hold`, number 0 waits for a file with the id of the process.
fn map(number: i64, dir: &Path) -> i64 {
    let pid = std::process::id();
    if number == 0 && dir.join("hold").exists() {
        let mut log = std::fs::OpenOptions::new();
        let mut log = log.create(true).append(true).open(held(dir)).unwrap();
        log.write_all(format!("{pid}\n").as_bytes()).unwrap();
        let began = Instant::now();
        while !dir.join(pid.to_string()).exists() && began.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    pid.into()
}

fn describe(ctx: &mut StreamContext, dir: &Path, log: &Log) -> Queue<i64> {
    let (queue, numbers) = ctx.queue::<i64>("numbers");
    let place = dir.to_owned();
    let mapped = numbers.map::<(i64, i64)>(move |number| (number, map(number, &place)));
    mapped
        .map::<i64>(|(number, _)| number)
        .write_files(dir.join("files"), Format::Csv)
        .unwrap();
    let noted = Arc::clone(log);
    mapped.for_each_rdd(move |rdd| {
        let mut mapped = rdd.collect().unwrap();
        mapped.sort_unstable();
        noted.lock().unwrap().push(Found {
            mapped,
            ..Found::default()
        });
    });
    let counts = mapped.map::<i64>(|(number, _)| number).keyed();
    let noted = Arc::clone(log);
    counts
        .clone()
        .agg(count())
        .unwrap()
        .for_each_rdd(move |rdd| {
            let mut counts = rdd.collect().unwrap();
            counts.sort_unstable();
            noted.lock().unwrap().last_mut().unwrap().counts = counts;
        });
    if dir.join("state").exists() {
        let totals = counts.running_agg("totals", count()).unwrap();
        let noted = Arc::clone(log);
        totals.all().for_each_rdd(move |rdd| {
            let mut totals = rdd.collect().unwrap();
            totals.sort_unstable();
            noted.lock().unwrap().last_mut().unwrap().totals = totals;
        });
    }
    queue
}

fn config() -> dstreams::Config {
    small(1, 4, 8)
}

/// A program of these tests.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    /// Number 0 is held.
    Held,
    /// With a running count.
    WithState,
}

/// A cluster that runs the program on a clock moved by hand.
struct Scene {
    kind: Kind,
    dir: Dir,
    cluster: Arc<RunningCluster>,
    workers: Vec<Process>,
    live: Live<()>,
    queue: Queue<i64>,
    log: Log,
}

impl Scene {
    /// With these workers.
    async fn open(
        workers: &[How; WORKERS],
        kind: Kind,
        speculation: Option<SpeculationConfig>,
    ) -> Self {
        dstreams_cluster::logs::to_stderr();
        let dir = Dir::new();
        for (of, file) in [(Kind::Held, "hold"), (Kind::WithState, "state")] {
            if of == kind {
                std::fs::write(dir.join(file), "").unwrap();
            }
        }
        let log = Log::default();
        let mut program = Program::new(config());
        let queue = describe(&mut program.ctx, dir.path(), &log);
        let mut options = master_options();
        options.partitions = Some(WORKERS);
        options.speculation = speculation;
        let mut workers = workers.clone();
        for how in &mut workers {
            how.place = Some((PLACE, dir.path().display().to_string()));
        }
        let mut started = None;
        let start = async |ctx| {
            let cluster = process::start(ctx, options, (WORKER, &workers)).await;
            started = Some(cluster);
        };
        let live = program.start_by(start).await;
        let (cluster, workers, _) = started.unwrap();
        Scene {
            kind,
            cluster: Arc::new(cluster),
            workers,
            dir,
            live,
            queue,
            log,
        }
    }

    /// Runs a batch, and meanwhile `meanwhile`.
    async fn batch_while(&mut self, meanwhile: impl Future<Output = ()>) {
        self.queue.push(0..NUMBERS).await.unwrap();
        let batch = self.live.batch();
        soon("the batch", async { tokio::join!(batch, meanwhile) }).await;
    }

    async fn batch(&mut self) {
        self.batch_while(async {}).await;
    }

    /// The processes that mapped the numbers of the last batch, in their order.
    fn mapped_by(&self) -> Vec<u32> {
        let log = self.log.lock().unwrap();
        let mapped = log.last().unwrap().mapped.iter();
        mapped.map(|(_, pid)| *pid as u32).collect()
    }

    fn copies(&self) -> (u64, u64) {
        let status = self.cluster.status();
        (status.task_copies, status.task_copies_won)
    }

    /// Checks that every number is in the results and in the files of each batch once.
    async fn close(self) {
        let Scene {
            kind,
            dir,
            cluster,
            workers,
            log,
            ..
        } = self;
        soon("the stop", cluster.running.abort()).await.unwrap();
        drop(workers);
        let log = log.lock().unwrap();
        for (found, batches) in log.iter().zip(1..) {
            let numbers = found.mapped.iter().map(|(number, _)| *number);
            assert_eq!(
                numbers.collect::<Vec<_>>(),
                (0..NUMBERS).collect::<Vec<_>>()
            );
            let wanted: Vec<_> = (0..NUMBERS).map(|number| (number, 1)).collect();
            assert_eq!(found.counts, wanted);
            if kind == Kind::WithState {
                let wanted: Vec<_> = (0..NUMBERS).map(|number| (number, batches)).collect();
                assert_eq!(found.totals, wanted);
            }
        }
        let mut written = numbers_in(&dir.join("files"));
        written.sort_unstable();
        let each = std::iter::repeat_n(0..NUMBERS, log.len()).flatten();
        let mut wanted: Vec<i64> = each.collect();
        wanted.sort_unstable();
        assert_eq!(written, wanted, "numbers in files");
    }
}

/// The numbers in the files below a directory.
fn numbers_in(dir: &Path) -> Vec<i64> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            numbers.extend(numbers_in(&path));
        } else if path.extension().is_some_and(|kind| kind == "csv") {
            let text = std::fs::read_to_string(path).unwrap();
            numbers.extend(text.lines().filter_map(|line| line.parse::<i64>().ok()));
        }
    }
    numbers
}

/// The processes in which number 0 is held, in the order in which they began.
fn holders(dir: &Path) -> Vec<u32> {
    let log = std::fs::read_to_string(held(dir)).unwrap_or_default();
    log.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until number 0 is held for the `count`th time; returns the process.
async fn holder(dir: &Path, count: usize) -> u32 {
    until("a task that is held", || holders(dir).len() >= count).await;
    let holders = holders(dir);
    assert_eq!(holders.len(), count, "{holders:?}");
    holders[count - 1]
}

fn let_go(dir: &Path, pid: u32) {
    std::fs::write(dir.join(pid.to_string()), "").unwrap();
}

fn slow(ms: u32) -> [How; WORKERS] {
    let slow = How {
        pause_at: Some(format!("execute:task={ms}")),
        ..How::default()
    };
    [How::default(), slow, How::default()]
}

#[test]
fn batches_do_not_wait_for_a_slow_worker() {
    block_on(async {
        let mut scene = Scene::open(&slow(SLOW), Kind::Plain, Some(Default::default())).await;
        let slow = scene.workers[1].pid();
        for _ in 0..4 {
            scene.batch().await;
            assert!(!scene.mapped_by().contains(&slow), "it has waited");
        }
        let (made, won) = scene.copies();
        assert!(made >= 1 && won >= 1, "{made} copies, {won} won");
        scene.close().await;
    });
}

/// Not even tasks on state: its partitions move to the others, and each has two copies there.
#[test]
fn a_slow_worker_gets_nothing_until_it_is_tried_again() {
    block_on(async {
        let mut speculation = SpeculationConfig::default();
        speculation.rest = Duration::from_secs(5);
        // A copy has more than half a second to be first.
        speculation.floor = Duration::from_millis(300);
        let mut scene = Scene::open(&slow(1_000), Kind::WithState, Some(speculation)).await;
        let slow = scene.workers[1].pid();
        let is_slow = |scene: &Scene| {
            let status = scene.cluster.status();
            let mut workers = status.workers.into_iter();
            workers.find(|worker| worker.pid == slow).unwrap().slow
        };
        let mut batches = 0;
        while !is_slow(&scene) {
            scene.batch().await;
            batches += 1;
            // More than 8 may be needed: it gets no task while one that lost still occupies its core.
            assert!(batches <= 64, "{:?}", scene.copies());
        }
        assert!(batches >= 8, "slow after {batches} batches");
        let cluster = Arc::clone(&scene.cluster);
        let spread = || {
            let workers = cluster.status().workers;
            let mut roles: BTreeSet<(u32, bool)> = BTreeSet::new();
            for worker in workers.iter().filter(|worker| worker.pid != slow) {
                roles.extend(worker.holds.iter().map(|partition| (*partition, true)));
                roles.extend(worker.stands_by.iter().map(|partition| (*partition, false)));
            }
            roles.len() == 2 * WORKERS
        };
        until("state that has moved", spread).await;
        // While it rests, nothing waits for it. Its first rests are short, and it is tried between them.
        let began = Instant::now();
        let mut quick = 0;
        while quick < 20 {
            let (copies, _) = scene.copies();
            scene.batch().await;
            let alone = scene.copies().0 == copies && !scene.mapped_by().contains(&slow);
            quick = if alone { quick + 1 } else { 0 };
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "{:?}",
                scene.copies()
            );
        }
        let (tried, _) = scene.copies();
        let again = async {
            while scene.copies().0 == tried {
                scene.batch().await;
            }
        };
        soon("a trial", again).await;
        assert!(is_slow(&scene));
        scene.close().await;
    });
}

#[test]
fn without_speculation_a_batch_waits_for_a_slow_worker() {
    block_on(async {
        let mut scene = Scene::open(&slow(1_000), Kind::Plain, None).await;
        let slow = scene.workers[1].pid();
        scene.batch().await;
        assert!(scene.mapped_by().contains(&slow), "it has not waited");
        assert_eq!(scene.copies(), (0, 0));
        scene.close().await;
    });
}

/// The original takes its place back, and its worker and that of the copy get tasks again.
#[test]
fn an_original_that_is_faster_than_its_copy_counts() {
    block_on(async {
        let workers = [(); WORKERS].map(|()| How::default());
        let mut scene = Scene::open(&workers, Kind::Held, Some(Default::default())).await;
        let dir = scene.dir.path().to_owned();
        let mut pids = (0, 0);
        let meanwhile = async {
            let original = holder(&dir, 1).await;
            pids = (original, holder(&dir, 2).await);
            let_go(&dir, original);
        };
        scene.batch_while(meanwhile).await;
        let (original, copy) = pids;
        assert_ne!(original, copy);
        assert_eq!(scene.mapped_by()[0], original);
        assert_eq!(scene.copies(), (1, 0));
        std::fs::remove_file(dir.join("hold")).unwrap();
        let_go(&dir, copy);
        let mut tries = 0;
        while scene.mapped_by().into_iter().collect::<BTreeSet<_>>().len() < WORKERS {
            scene.batch().await;
            tries += 1;
            assert!(tries < 100, "a core did not come back");
        }
        scene.close().await;
    });
}

#[test]
fn a_copy_outlives_the_worker_of_its_original() {
    for stopped in [false, true] {
        block_on(async {
            let workers = [(); WORKERS].map(|()| How::default());
            let mut scene = Scene::open(&workers, Kind::Held, Some(Default::default())).await;
            let dir = scene.dir.path().to_owned();
            let mut copy = 0;
            let mut processes = std::mem::take(&mut scene.workers);
            let cluster = Arc::clone(&scene.cluster);
            let meanwhile = async {
                let original = holder(&dir, 1).await;
                copy = holder(&dir, 2).await;
                let at = processes.iter().position(|worker| worker.pid() == original);
                let original = &mut processes[at.unwrap()];
                if stopped {
                    original.signal("STOP");
                } else {
                    original.kill();
                    let left = || cluster.status().workers.len() == WORKERS - 1;
                    until("the loss", left).await;
                }
                let_go(&dir, copy);
            };
            scene.batch_while(meanwhile).await;
            assert_eq!(scene.mapped_by()[0], copy);
            // Over a task that is lost there is no win.
            assert_eq!(scene.copies(), (1, u64::from(stopped)));
            assert_eq!(holders(&dir).len(), 2);
            // The batch does not wait until the silent worker is given up.
            assert_eq!(scene.cluster.status().losses, u64::from(!stopped));
            scene.workers = processes;
            scene.close().await;
        });
    }
}

#[test]
fn an_original_outlives_the_worker_of_its_copy() {
    block_on(async {
        let workers = [(); WORKERS].map(|()| How::default());
        let mut scene = Scene::open(&workers, Kind::Held, Some(Default::default())).await;
        let dir = scene.dir.path().to_owned();
        let mut processes = std::mem::take(&mut scene.workers);
        let mut pids = [0; 3];
        let meanwhile = async {
            pids[0] = holder(&dir, 1).await;
            pids[1] = holder(&dir, 2).await;
            let mut copy = processes
                .iter_mut()
                .filter(|worker| worker.pid() == pids[1]);
            copy.next().unwrap().kill();
            pids[2] = holder(&dir, 3).await;
            let_go(&dir, pids[0]);
        };
        scene.batch_while(meanwhile).await;
        let distinct: BTreeSet<u32> = pids.into_iter().collect();
        assert_eq!(
            distinct.len(),
            3,
            "another copy, and not where the original is"
        );
        assert_eq!(scene.mapped_by()[0], pids[0]);
        assert_eq!(scene.copies(), (2, 0));
        scene.workers = processes;
        scene.close().await;
    });
}

/// Not a test: a worker that [`Process::start`] runs.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    let place = std::env::var(PLACE).unwrap_or_default();
    be_worker(|| {
        let mut ctx = StreamContext::with_config(config()).unwrap();
        let _ = describe(&mut ctx, Path::new(&place), &Log::default());
        ctx
    });
}
