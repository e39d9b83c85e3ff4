//! The file sink in whole programs and under the contract of sinks, and sinks that break it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dstreams::agg::count;
use dstreams::arrow::array::RecordBatch;
use dstreams::arrow::{csv, json};
use dstreams::contract::{
    self, ATOMIC_COMMIT, DECLARES_GUARANTEE, HIDDEN_UNTIL_COMMIT, IDEMPOTENT_COMMIT,
    REPORTS_NEWEST_BATCH, SUCCEEDS_ON_RETRY, WHOLE_BATCH,
};
use dstreams::files::{FileSink, Format};
use dstreams::record::records_of;
use dstreams::{BatchTime, BoxError, Error, Guarantee, Prepared, Record, Sink};

use crate::dir::Dir;
use crate::program::{Program, block_on, small};

pub const FORMATS: &[Format] = &[
    Format::JsonLines,
    Format::Csv,
    #[cfg(feature = "parquet")]
    Format::Parquet,
];

/// A directory, removed on drop.
/// Names in a directory that are not hidden, in order.
pub fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// The records of a file, read by Arrow's readers.
fn records<T: Record>(path: &Path, format: Format) -> Vec<T> {
    let file = File::open(path).unwrap();
    let batches: Vec<RecordBatch> = match format {
        Format::JsonLines => json::ReaderBuilder::new(T::schema())
            .build(BufReader::new(file))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap(),
        Format::Csv => csv::ReaderBuilder::new(T::schema())
            .with_header(true)
            .build(file)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap(),
        #[cfg(feature = "parquet")]
        Format::Parquet => {
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
                .unwrap()
                .build()
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap()
        }
        other => panic!("{other:?}"),
    };
    batches
        .iter()
        .flat_map(|batch| records_of::<T>(batch).unwrap())
        .collect()
}

/// The records of each batch in a target, in order.
pub fn visible<T: Record>(target: &Path, format: Format) -> BTreeMap<BatchTime, Vec<T>> {
    let batches = names(target).into_iter();
    batches
        .map(|name| {
            let batch = name.strip_prefix("batch=").unwrap();
            assert!(batch.len() >= 13);
            let files = names(&target.join(&name)).into_iter();
            let paths = files.map(|file| target.join(&name).join(file));
            let records = paths.flat_map(|path| records(&path, format)).collect();
            (BatchTime(batch.parse().unwrap()), records)
        })
        .collect()
}

#[test]
fn the_file_sink_keeps_the_contract() {
    for &format in FORMATS {
        let dir = Dir::new();
        let make = async || FileSink::new(dir.path(), format);
        let row = |n: u64| (format!("row {n}, \"quoted\""), n as i64);
        let read = async || visible(dir.path(), format);
        block_on(contract::sink(make, row, read)).unwrap();
    }
}

#[test]
fn a_program_writes_what_it_collects() {
    for &format in FORMATS {
        let dir = Dir::new();
        block_on(async {
            let mut program = Program::new(small(3, 1, 2));
            let (queue, words) = program.ctx.queue::<String>("words");
            let counts = words.keyed().agg(count()).unwrap();
            counts.write_files(dir.join("a/counts"), format).unwrap();
            let mut collected = counts.collect();
            let mut live = program.start().await;
            let mut wanted = BTreeMap::new();
            for batch in 0..4 {
                // The third one is empty.
                let words = (0..batch % 3 * 20).map(|n| format!("word {}", n % 7));
                queue.push(words).await.unwrap();
                live.batch().await;
                let rdd = collected.recv().await.unwrap();
                if rdd.num_rows() > 0 {
                    wanted.insert(rdd.batch_time(), rdd.collect().unwrap());
                }
            }
            assert_eq!(wanted.len(), 2);
            assert_eq!(
                visible::<(String, i64)>(&dir.join("a/counts"), format),
                wanted
            );
            live.running.stop().await.unwrap();
        });
    }
}

#[test]
fn a_batch_whose_target_cannot_be_written_stops_the_context() {
    let dir = Dir::new();
    block_on(async {
        let mut program = Program::new(small(2, 1, 2));
        let (queue, words) = program.ctx.queue::<String>("words");
        words.write_files(dir.join("words"), Format::Csv).unwrap();
        let mut live = program.start().await;
        fs::remove_dir_all(dir.join("words")).unwrap();
        fs::write(dir.join("words"), b"").unwrap();
        queue.push(["a".to_owned()]).await.unwrap();
        let error = live.try_batch().await.unwrap_err();
        let text = error.to_string();
        for part in ["4 attempt(s)", "`write_files`", "/words", "choose a path"] {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
        // The cause keeps its type.
        let Error::Batch { cause, .. } = error else {
            panic!()
        };
        let Some(Error::Sink { cause, .. }) = cause.downcast_ref() else {
            panic!("{cause:?}")
        };
        let file = cause.downcast_ref();
        assert!(matches!(file, Some(Error::File { .. })), "{cause:?}");
    });
}

#[test]
fn unsupported_columns_are_refused_when_the_graph_is_built() {
    let mut program = Program::new(small(1, 1, 1));
    let (_, lists) = program.ctx.queue::<(String, Vec<i64>)>("lists");
    let error = lists
        .write_files("/nowhere", Format::Csv)
        .unwrap_err()
        .to_string();
    for part in ["`value`", "JSON lines", file!()] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    lists.write_files("/nowhere", Format::Text).unwrap_err();
    lists.write_files("/nowhere", Format::JsonLines).unwrap();
}

/// A fault of a sink.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    ShowsPrepared,
    AddsAgain,
    ForgetsWithTheProcess,
    AttemptsMeet,
    CommitsInPieces,
    LosesEmptyPartitions,
    KnowsOnlyTheLast,
    FailsAfterACrash,
    ForgetsWhatIsEarly,
    SaysAtLeastOnce,
    OpensAsEmpty,
}

/// State that outlives the process.
#[derive(Default)]
struct World {
    staged: BTreeMap<Vec<u8>, Vec<i64>>,
    visible: BTreeMap<BatchTime, Vec<i64>>,
    last: Option<BatchTime>,
    opened: u64,
}

/// A sink in memory.
struct Model {
    world: Arc<Mutex<World>>,
    fault: Fault,
    process: u64,
    attempts: AtomicU64,
    committed: Mutex<Vec<BatchTime>>,
}

impl Model {
    fn open(world: &Arc<Mutex<World>>, fault: Fault) -> Self {
        let mut inner = world.lock().unwrap();
        inner.opened += 1;
        Model {
            world: Arc::clone(world),
            fault,
            process: inner.opened,
            attempts: AtomicU64::new(0),
            committed: Mutex::default(),
        }
    }

    fn knows(&self, batch: BatchTime) -> bool {
        let world = self.world.lock().unwrap();
        match self.fault {
            Fault::AddsAgain => false,
            Fault::ForgetsWithTheProcess => self.committed.lock().unwrap().contains(&batch),
            Fault::KnowsOnlyTheLast => world.last == Some(batch),
            _ => world.last >= Some(batch),
        }
    }
}

#[dstreams::async_trait]
impl Sink for Model {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        let last = self.world.lock().unwrap().last;
        Ok(last.filter(|_| self.fault != Fault::OpensAsEmpty))
    }

    async fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        if rows.is_empty() {
            return Ok(Prepared::default());
        }
        let rows: Vec<i64> = rows
            .iter()
            .flat_map(|rows| records_of(rows).unwrap())
            .collect();
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let name = match self.fault {
            Fault::AttemptsMeet => format!("{batch} {partition}"),
            Fault::FailsAfterACrash => format!("{batch} {partition} {attempt}"),
            _ => format!("{batch} {partition} {} {attempt}", self.process),
        };
        let mut world = self.world.lock().unwrap();
        if self.fault == Fault::ShowsPrepared {
            world.visible.entry(batch).or_default().extend(&rows);
        }
        let staged = world.staged.entry(name.clone().into_bytes()).or_default();
        if self.fault == Fault::FailsAfterACrash && !staged.is_empty() {
            return Err("there is one of this name".into());
        }
        staged.extend(rows);
        Ok(Prepared(name.into_bytes()))
    }

    async fn commit(&self, batch: BatchTime, prepared: Vec<Prepared>) -> Result<(), BoxError> {
        if self.knows(batch) {
            return Ok(());
        }
        let mut rows = Vec::new();
        for (partition, part) in prepared.iter().enumerate() {
            if self.fault == Fault::LosesEmptyPartitions && partition > 1 {
                break;
            }
            let mut staged = self.world.lock().unwrap().staged.get(&part.0).cloned();
            if self.fault == Fault::CommitsInPieces {
                let piece = staged.take().unwrap_or_default();
                let mut world = self.world.lock().unwrap();
                world.visible.entry(batch).or_default().extend(piece);
            }
            rows.extend(staged.unwrap_or_default());
            if self.fault == Fault::CommitsInPieces {
                tokio::task::yield_now().await;
            }
        }
        let mut world = self.world.lock().unwrap();
        world.visible.entry(batch).or_default().extend(rows);
        world.last = world.last.max(Some(batch));
        if self.fault == Fault::ForgetsWhatIsEarly {
            world.staged.clear();
        }
        self.committed.lock().unwrap().push(batch);
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        match self.fault {
            Fault::SaysAtLeastOnce => Guarantee::AtLeastOnce,
            _ => Guarantee::ExactlyOnce,
        }
    }
}

#[test]
fn the_contract_finds_the_faults_of_a_sink() {
    let check = |fault| {
        let world = Arc::new(Mutex::new(World::default()));
        let make = async || Model::open(&world, fault);
        let read = async || world.lock().unwrap().visible.clone();
        block_on(contract::sink(make, |n| n as i64, read))
    };
    check(Fault::None).unwrap();
    let faults = [
        (Fault::ShowsPrepared, HIDDEN_UNTIL_COMMIT, "prepared"),
        (
            Fault::AddsAgain,
            IDEMPOTENT_COMMIT,
            "committed a second time",
        ),
        (
            Fault::ForgetsWithTheProcess,
            IDEMPOTENT_COMMIT,
            "committed again by the next process",
        ),
        (
            Fault::AttemptsMeet,
            WHOLE_BATCH,
            "committed, partitions of two attempts",
        ),
        (Fault::CommitsInPieces, ATOMIC_COMMIT, "a commit broke off"),
        (Fault::LosesEmptyPartitions, WHOLE_BATCH, "committed"),
        (
            Fault::KnowsOnlyTheLast,
            IDEMPOTENT_COMMIT,
            "an old batch committed again",
        ),
        (Fault::FailsAfterACrash, SUCCEEDS_ON_RETRY, "prepared"),
        (
            Fault::ForgetsWhatIsEarly,
            WHOLE_BATCH,
            "committed, two batches were prepared",
        ),
        (Fault::SaysAtLeastOnce, DECLARES_GUARANTEE, "nothing"),
        (Fault::OpensAsEmpty, REPORTS_NEWEST_BATCH, "opened"),
    ];
    for (fault, promise, step) in faults {
        let broken = check(fault).unwrap_err();
        assert_eq!(
            (broken.promise, broken.step.as_str()),
            (promise, step),
            "{fault:?}: {broken}"
        );
    }
}
