//! Sinks on a cluster: workers prepare, the master commits, and files equal those of one process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::arrow::array::RecordBatch;
use dstreams::files::Format;
use dstreams::{
    BatchTime, BoxError, Clients, Config, Guarantee, Prepared, Queue, Sink, StreamContext,
    async_trait,
};
use dstreams_client::{Client, Options};
use dstreams_cluster::RunningCluster;

use crate::dir::Dir;
use crate::process::{How, Process, be_worker, master_options, start};
use crate::program::{INTERVAL, Live, Program, block_on, small, soon, until};
use crate::workers::{Workers, cluster};

/// The files below a directory, with their bytes; without locks, which name the process.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let below = files(&path).into_iter();
            let name = PathBuf::from(path.file_name().unwrap());
            all.extend(below.map(|(file, bytes)| (name.join(file), bytes)));
        } else if path.file_name().unwrap() != "lock" {
            all.insert(
                path.file_name().unwrap().into(),
                std::fs::read(path).unwrap(),
            );
        }
    }
    all
}

/// Writes words and their counts to files.
fn describe(ctx: &mut StreamContext, dir: &Path) -> Queue<String> {
    let (queue, words) = ctx.queue::<String>("words");
    let long = words.filter(|word| word.len() > 1);
    long.write_files(dir.join("long"), Format::Csv).unwrap();
    let counts = words.keyed().running_agg("counts", count()).unwrap();
    let changes = counts.changes().pairs();
    changes
        .write_files(dir.join("counts"), Format::JsonLines)
        .unwrap();
    counts
        .all()
        .pairs()
        .write_files(dir.join("all"), Format::Parquet)
        .unwrap();
    queue
}

async fn feed<R>(live: &mut Live<R>, queue: &Queue<String>) {
    for batch in 0..5u32 {
        let words = (0..batch * 7).map(|n| format!("{}", n * n * batch % 41));
        queue.push(words).await.unwrap();
        live.batch().await;
    }
}

#[test]
fn files_of_a_cluster_equal_those_of_one_process() {
    let dir = Dir::missing();
    let (here, there) = (dir.join("here"), dir.join("there"));
    block_on(async {
        let mut program = Program::new(small(3, 4, 5));
        let queue = describe(&mut program.ctx, &here);
        let mut live = program.start().await;
        feed(&mut live, &queue).await;
        live.running.abort().await.unwrap();

        let mut program = Program::new(small(3, 4, 5));
        let queue = describe(&mut program.ctx, &there);
        let place = there.clone();
        let build = move || {
            let mut ctx = StreamContext::with_config(small(3, 4, 5)).unwrap();
            let _ = describe(&mut ctx, &place);
            ctx
        };
        let start = async |ctx| cluster(ctx, 3, &[1, 1], build).await;
        let mut live = program.start_by(start).await;
        feed(&mut live, &queue).await;
        let (cluster, workers) = live.running;
        cluster.running.abort().await.unwrap();
        drop(cluster);
        tokio::task::spawn_blocking(|| workers.join())
            .await
            .unwrap();
    });
    let (here, there) = (files(&here), files(&there));
    let names = |of: &BTreeMap<PathBuf, _>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&here), names(&there));
    assert!(here == there, "files of the same names differ");
    assert!(here.len() > 20, "{:?}", names(&here));
}

/// Records the processes in which it was prepared; fails once in each of them.
#[derive(Default)]
struct Where {
    seen: Arc<Mutex<BTreeSet<u32>>>,
    failed: Mutex<bool>,
}

#[async_trait]
impl Sink for Where {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }

    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let mut failed = self.failed.lock().unwrap();
        if !std::mem::replace(&mut failed, true) && rows.iter().any(|rows| rows.num_rows() > 0) {
            return Err("a disk that is full at first".into());
        }
        Ok(Prepared(std::process::id().to_le_bytes().to_vec()))
    }

    async fn commit(&self, _: BatchTime, prepared: Vec<Prepared>) -> Result<(), BoxError> {
        let pids = prepared.into_iter().map(|part| part.0.try_into().unwrap());
        let mut seen = self.seen.lock().unwrap();
        seen.extend(pids.map(u32::from_le_bytes));
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }
}

/// The events, in their order.
type Log = Arc<Mutex<Vec<String>>>;

/// Fails the first attempts of each step.
struct Fails {
    log: Log,
    prepares: Mutex<u32>,
    commits: Mutex<u32>,
}

fn fails(left: &Mutex<u32>, what: &str) -> Result<(), BoxError> {
    let mut left = left.lock().unwrap();
    match *left {
        0 => Ok(()),
        _ => {
            *left -= 1;
            Err(what.into())
        }
    }
}

#[async_trait]
impl Sink for Fails {
    async fn open(&self) -> std::result::Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }

    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let rows: usize = rows.iter().map(RecordBatch::num_rows).sum();
        if rows > 0 {
            fails(&self.prepares, "no prepare")?;
        }
        Ok(Prepared((rows as u64).to_le_bytes().to_vec()))
    }

    async fn commit(&self, batch: BatchTime, parts: Vec<Prepared>) -> Result<(), BoxError> {
        fails(&self.commits, "no commit")?;
        let rows = parts.into_iter().map(|part| part.0.try_into().unwrap());
        let rows: u64 = rows.map(u64::from_le_bytes).sum();
        note(&self.log, format!("{batch}: {rows}"));
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

fn note(log: &Log, what: String) {
    log.lock().unwrap().push(what);
}

fn started_by(
    config: Config,
    describe: impl Fn(&mut StreamContext) -> Queue<i64> + Send + Clone + 'static,
) -> impl AsyncFnOnce(StreamContext) -> (RunningCluster, Workers) {
    let build = move || {
        let mut ctx = StreamContext::with_config(config.clone()).unwrap();
        let _ = describe(&mut ctx);
        ctx
    };
    async |ctx| cluster(ctx, 2, &[1, 1], build).await
}

/// Each batch is in each output once, and totals count each record once.
#[test]
fn outputs_that_fail_twice_get_each_batch_once() {
    let (log, calls) = (Log::default(), Arc::new(Mutex::new(2)));
    let noted = Arc::clone(&log);
    let describe = move |ctx: &mut StreamContext| {
        let (queue, numbers) = ctx.queue::<i64>("numbers");
        let sink = Fails {
            log: Arc::clone(&noted),
            prepares: Mutex::new(2),
            commits: Mutex::new(2),
        };
        numbers.sink("fails", sink);
        let totals = numbers.keyed().running_agg("totals", count()).unwrap();
        let (calls, noted) = (Arc::clone(&calls), Arc::clone(&noted));
        totals.all().pairs().try_for_each_rdd(move |rdd| {
            // Fails from the first batch with records on.
            fails(&calls, "no call")?;
            let rows: Vec<(i64, i64)> = rdd.collect()?;
            note(&noted, format!("{}: {rows:?}", rdd.batch_time()));
            Ok::<(), BoxError>(())
        });
        queue
    };
    block_on(async {
        let mut config = small(2, 4, 8);
        // Two failures on each worker, and two in the commit of each output.
        config.attempts = 7;
        let mut program = Program::new(config.clone());
        let queue = describe(&mut program.ctx);
        let mut live = program.start_by(started_by(config, describe)).await;
        for _ in 0..2 {
            queue.push([7]).await.unwrap();
            live.batch().await;
        }
        let (cluster, workers) = live.running;
        cluster.running.abort().await.unwrap();
        drop(cluster);
        let joined = tokio::task::spawn_blocking(|| workers.join());
        joined.await.unwrap();
    });
    let mut log = std::mem::take(&mut *log.lock().unwrap());
    log.sort();
    // The sink is committed first; when another output fails, it is committed again.
    log.dedup();
    let [one, two] = [100, 200].map(BatchTime);
    let wanted = [
        format!("{one}: 1"),
        format!("{one}: [(7, 1)]"),
        format!("{two}: 1"),
        format!("{two}: [(7, 2)]"),
    ];
    assert_eq!(log, wanted);
}

/// Never prepares anything.
struct Stuck;

#[async_trait]
impl Sink for Stuck {
    async fn open(&self) -> std::result::Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }

    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        match rows.iter().any(|rows| rows.num_rows() > 0) {
            true => std::future::pending().await,
            false => Ok(Prepared::default()),
        }
    }

    async fn commit(&self, _: BatchTime, _: Vec<Prepared>) -> Result<(), BoxError> {
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

/// Neither a sink that never answers on a worker, nor an output that does not return on the master, blocks a stop.
#[test]
fn outputs_that_block_do_not_prevent_a_stop() {
    for on_worker in [true, false] {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let (entered, log) = (Log::default(), Log::default());
        let noted = Arc::clone(&entered);
        let done = Arc::clone(&log);
        let describe = move |ctx: &mut StreamContext| {
            let (queue, numbers) = ctx.queue::<i64>("numbers");
            if on_worker {
                let noted = Arc::clone(&noted);
                let numbers = numbers.map(move |number| {
                    note(&noted, "mapped".into());
                    number
                });
                numbers.sink("stuck", Stuck);
            } else {
                let (blocked, noted) = (Arc::clone(&blocked), Arc::clone(&noted));
                let done = Arc::clone(&done);
                numbers.for_each_rdd(move |rdd| {
                    if rdd.num_rows() > 0 {
                        note(&noted, "called".into());
                        let _ = blocked.lock().unwrap().recv();
                        note(&done, "returned".into());
                    }
                });
            }
            queue
        };
        block_on(async {
            let config = small(2, 4, 8);
            let mut program = Program::new(config.clone());
            let queue = describe(&mut program.ctx);
            let live = program.start_by(started_by(config, describe)).await;
            queue.push([7]).await.unwrap();
            live.clock.advance(INTERVAL);
            until("the batch", || !entered.lock().unwrap().is_empty()).await;
            let (cluster, workers) = live.running;
            let stop = cluster.running.stop_within(Duration::from_millis(200));
            // The deadline is one of the program's clock.
            let later = async { live.clock.advance(Duration::from_secs(1)) };
            let (stopped, _) = tokio::join!(soon("the stop", stop), later);
            assert!(stopped.unwrap().unfinished > 0);
            assert!(log.lock().unwrap().is_empty());
            drop(release);
            drop(cluster);
            let joined = tokio::task::spawn_blocking(|| workers.join());
            soon("the workers", joined).await.unwrap();
        });
    }
}

fn program(sink: Where) -> StreamContext {
    let mut config = Config::new(Duration::from_millis(200));
    config.rows_per_task = 4;
    let mut ctx = StreamContext::with_config(config).unwrap();
    let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
    let counts = lines.keyed().agg(count()).unwrap();
    counts.pairs().sink("where", sink);
    ctx
}

/// Not a test: a worker that [`Process::start`] runs.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    be_worker(|| program(Where::default()));
}

#[test]
fn prepared_values_of_all_workers_reach_the_commit() {
    block_on(async {
        let sink = Where::default();
        let seen = Arc::clone(&sink.seen);
        let mut options = master_options();
        options.partitions = Some(4);
        let of = ("sinks::a_worker", &[How::default(), How::default()][..]);
        let (cluster, workers, address) = start(program(sink), options, of).await;
        let client = Client::connect(address.clone(), Options::default())
            .await
            .unwrap();
        let mut lines = client.lines("lines").await.unwrap();
        let pids: BTreeSet<u32> = workers.iter().map(Process::pid).collect();
        let mut sent = 0;
        while *seen.lock().unwrap() != pids {
            for _ in 0..50 {
                lines.send(&format!("word {}", sent % 23)).await.unwrap();
                sent += 1;
            }
            let batches = cluster.running.status().batches;
            until("a batch", || cluster.running.status().batches > batches).await;
        }
        lines.finish().await.unwrap();
        let stopped = cluster.running.stop();
        assert_eq!(soon("the stop", stopped).await.unwrap().unfinished, 0);
    });
}
