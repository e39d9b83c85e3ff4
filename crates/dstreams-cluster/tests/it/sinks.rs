//! Sinks on a cluster: workers prepare, the master commits, and files are those of one process.

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
use dstreams_cluster::{Master, MasterOptions};

use crate::process::{How, Process, be_worker};
use crate::program::{Live, Program, block_on, small, soon, until};
use crate::workers::cluster;

/// The files below a directory, with their bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let below = files(&path).into_iter();
            let name = PathBuf::from(path.file_name().unwrap());
            all.extend(below.map(|(file, bytes)| (name.join(file), bytes)));
        } else {
            all.insert(
                path.file_name().unwrap().into(),
                std::fs::read(path).unwrap(),
            );
        }
    }
    all
}

/// Counts of words, and the words, as files.
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
fn files_of_a_cluster_are_those_of_one_process() {
    let dir = std::env::temp_dir().join(format!("dstreams-sinks-{}", std::process::id()));
    let (here, there) = (dir.join("here"), dir.join("there"));
    block_on(async {
        let mut program = Program::new(small(3, 4, 5));
        let queue = describe(&mut program.ctx, &here);
        let mut live = program.start().await;
        feed(&mut live, &queue).await;
        live.running.stop(false, None).await.unwrap();

        let mut program = Program::new(small(3, 4, 5));
        let queue = describe(&mut program.ctx, &there);
        let place = there.clone();
        let build = move || {
            let mut ctx = StreamContext::with_config(small(3, 4, 5)).unwrap();
            describe(&mut ctx, &place);
            ctx
        };
        let start = async |ctx| cluster(ctx, 3, &[1, 1], build).await;
        let mut live = program.start_by(start).await;
        feed(&mut live, &queue).await;
        let (cluster, workers) = live.running;
        cluster.running.stop(false, None).await.unwrap();
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
    std::fs::remove_dir_all(dir).unwrap();
}

/// Says in which processes it was prepared; fails the first time where it is told to.
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

fn program(sink: Where) -> StreamContext {
    let mut config = Config::new(Duration::from_millis(200));
    config.rows_per_task = 4;
    let mut ctx = StreamContext::with_config(config).unwrap();
    let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
    let counts = lines.keyed().agg(count()).unwrap();
    counts.pairs().sink("where", sink);
    ctx
}

/// Not a test: what [`Process::start`] runs.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    be_worker(|| program(Where::default()));
}

#[test]
fn workers_prepare_and_what_they_say_is_told() {
    block_on(async {
        let sink = Where::default();
        let seen = Arc::clone(&sink.seen);
        let mut options = MasterOptions::default();
        (options.workers, options.partitions) = (2, Some(4));
        let master = Master::listen(program(sink), options).await.unwrap();
        let address = master.address().to_owned();
        let start = || Process::start("sinks::a_worker", &address, &How::default());
        let workers = [start(), start()];
        let cluster = soon("the workers", master.start()).await.unwrap();
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
        let stopped = cluster.running.stop(true, None);
        assert_eq!(soon("the stop", stopped).await.unwrap().unfinished, 0);
    });
}
