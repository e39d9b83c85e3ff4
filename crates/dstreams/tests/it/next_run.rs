//! A program without a directory, started again on the outputs of the previous run: no record is lost.

use std::sync::{Arc, Mutex};

use dstreams::arrow::array::RecordBatch;
use dstreams::files::{FileSink, Format};
use dstreams::record::records_of;
use dstreams::{BatchTime, BoxError, DStream, Guarantee, Prepared, Sink, Summary};

use crate::dir::Dir;
use crate::files_sink::{names, visible};
use crate::program::{Program, block_on, small, soon};

/// Runs a separate program for `numbers`, all in one interval, and ends it before the interval's end.
async fn run(numbers: std::ops::Range<i64>, output: impl Fn(&DStream<i64>)) -> Summary {
    let mut program = Program::new(small(2, 4, 4));
    let (queue, stream) = program.ctx.queue::<i64>("numbers");
    output(&stream);
    let live = program.start().await;
    queue.push(numbers).await.unwrap();
    let stop = live.running.stop();
    soon("the stop", stop).await.unwrap()
}

fn written(dir: &Dir) -> Vec<(u64, Vec<i64>)> {
    let batches = visible::<i64>(dir.path(), Format::JsonLines).into_iter();
    batches.map(|(batch, rows)| (batch.0, rows)).collect()
}

#[test]
fn files_of_two_runs_within_an_interval_are_all_there() {
    let dir = Dir::new();
    block_on(async {
        for (run_of, end) in [(0..3, 3), (3..5, 2)] {
            let files = |numbers: &DStream<i64>| {
                numbers.write_files(dir.path(), Format::JsonLines).unwrap();
            };
            assert_eq!(run(run_of, files).await.records, end);
        }
        assert_eq!(written(&dir), [(100, vec![0, 1, 2]), (200, vec![3, 4])]);
    });
}

/// As in the documentation of [`Sink`], with memory across runs.
struct Ledger(Arc<Mutex<Committed>>);

type Committed = Vec<(BatchTime, Vec<i64>)>;

#[dstreams::async_trait]
impl Sink for Ledger {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(self.0.lock().unwrap().last().map(|(batch, _)| *batch))
    }

    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let numbers = rows
            .iter()
            .flat_map(|rows| records_of::<i64>(rows).unwrap());
        Ok(Prepared(numbers.flat_map(i64::to_le_bytes).collect()))
    }

    async fn commit(&self, batch: BatchTime, parts: Vec<Prepared>) -> Result<(), BoxError> {
        let mut seen = self.0.lock().unwrap();
        if seen.last().is_none_or(|(last, _)| *last < batch) {
            let bytes = parts.iter().flat_map(|part| part.0.chunks_exact(8));
            let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
            seen.push((batch, bytes.map(number).collect()));
        }
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

#[test]
fn a_user_defined_sink_has_both_runs_within_an_interval() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    block_on(async {
        for numbers in [0..3, 3..5] {
            let sink = || Ledger(Arc::clone(&seen));
            run(numbers, |stream| stream.sink("ledger", sink())).await;
        }
    });
    let wanted = [(100, vec![0, 1, 2]), (200, vec![3, 4])];
    let wanted = wanted.map(|(batch, rows)| (BatchTime(batch), rows));
    assert_eq!(*seen.lock().unwrap(), wanted);
}

#[test]
fn a_directory_belongs_to_one_output() {
    let dir = Dir::new();
    let mut program = Program::new(small(1, 4, 4));
    let (_, numbers) = program.ctx.queue::<i64>("numbers");
    numbers.write_files(dir.join("o"), Format::Csv).unwrap();
    let same = dir.join("./o/");
    let refused = numbers
        .write_files(same, Format::Csv)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("next_run.rs") && refused.contains("give each"),
        "{refused}"
    );
    // Another path to the same place is detected when the program starts.
    numbers.sink("other", FileSink::new(dir.join("o"), Format::Csv));
    let refused = block_on(program.ctx.start()).err().unwrap().to_string();
    assert!(
        refused.contains("output `other`") && refused.contains("another output"),
        "{refused}"
    );
}

#[test]
fn a_directory_belongs_to_one_program_until_it_stops() {
    let dir = Dir::new();
    block_on(async {
        let start = async || {
            let mut program = Program::new(small(1, 4, 4));
            let (queue, numbers) = program.ctx.queue::<i64>("numbers");
            numbers.write_files(dir.path(), Format::JsonLines).unwrap();
            program.ctx.start().await.map(|running| (queue, running))
        };
        let (queue, running) = start().await.unwrap();
        queue.push([1]).await.unwrap();
        let refused = start().await.err().unwrap().to_string();
        assert!(refused.contains("another process"), "{refused}");
        running.stop().await.unwrap();
        let (_, next) = start().await.unwrap();
        next.abort().await.unwrap();
        assert_eq!(written(&dir), [(100, vec![1])]);
    });
}

#[test]
fn a_directory_of_the_future_is_refused() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("batch=9999999999999")).unwrap();
    let mut program = Program::new(small(1, 4, 4));
    let (_, numbers) = program.ctx.queue::<i64>("numbers");
    numbers.write_files(dir.path(), Format::JsonLines).unwrap();
    let refused = block_on(program.ctx.start()).err().unwrap().to_string();
    assert!(refused.contains("ahead of the clock"), "{refused}");
    assert_eq!(names(dir.path()), ["batch=9999999999999"]);
}
