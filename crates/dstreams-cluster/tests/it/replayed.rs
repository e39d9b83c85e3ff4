//! A restart replays committed batches for their state alone: sinks do not prepare them again.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::arrow::array::RecordBatch;
use dstreams::{
    BatchTime, BoxError, Config, Generator, Guarantee, Prepared, Sink, StreamContext, async_trait,
};

use crate::killed::new_dir;
use crate::process::{How, be_worker, master_options, start};
use crate::program::{block_on, soon, until};

/// Environment variable with the program's directory, for worker processes.
const PLACE: &str = "DSTREAMS_TEST_REPLAYED";
const PARTITIONS: usize = 2;

/// Logs its calls.
struct Log(PathBuf);

impl Log {
    fn add(&self, name: &str, line: String) -> Result<(), BoxError> {
        let path = self.0.join(name);
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(file.write_all(line.as_bytes())?)
    }
}

#[async_trait]
impl Sink for Log {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }

    async fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        _: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        self.add("prepared", format!("{} {partition}\n", batch.0))?;
        Ok(Prepared(Vec::new()))
    }

    async fn commit(&self, batch: BatchTime, _: Vec<Prepared>) -> Result<(), BoxError> {
        self.add("committed", format!("{}\n", batch.0))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }
}

fn program(dir: &Path) -> StreamContext {
    let mut config = Config::new(Duration::from_millis(200));
    // No checkpoints: all batches are replayed.
    config.checkpoint_every = 1_000_000;
    let mut ctx = StreamContext::with_config(config).unwrap();
    let numbers = ctx.generator("numbers", Generator::new(200, |n| n % 7));
    let counts = numbers.keyed().running_agg("counts", count()).unwrap();
    counts.all().pairs().sink("log", Log(dir.to_owned()));
    ctx.persist_in(dir.join("state"));
    ctx
}

/// Not a test: a worker.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    let place = std::env::var(PLACE).unwrap_or_default();
    be_worker(|| program(Path::new(&place)));
}

/// The number of occurrences of each line.
fn lines(dir: &Path, name: &str) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let mut lines = BTreeMap::new();
    text.lines()
        .for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
    lines
}

#[test]
fn committed_batches_are_not_prepared_again() {
    let dir = new_dir();
    let committed = || lines(&dir, "committed");
    block_on(async {
        for _ in 0..2 {
            let before = committed();
            let mut options = master_options();
            options.partitions = Some(PARTITIONS);
            let how = How {
                place: Some((PLACE, dir.display().to_string())),
                ..How::default()
            };
            let of = ("replayed::a_worker", &[how][..]);
            let (cluster, _workers, _) = start(program(&dir), options, of).await;
            until("batches", || committed().len() >= before.len() + 4).await;
            soon("the stop", cluster.running.stop()).await.unwrap();
        }
    });
    let committed = committed();
    assert!(committed.values().all(|times| *times == 1), "{committed:?}");
    let prepared = lines(&dir, "prepared");
    assert!(prepared.values().all(|times| *times == 1), "{prepared:?}");
    assert_eq!(prepared.len(), PARTITIONS * committed.len());
    let _ = std::fs::remove_dir_all(&dir);
}
