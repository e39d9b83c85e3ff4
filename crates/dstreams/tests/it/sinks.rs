//! Failing sinks: what is retried, in which order, and what stops the context.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dstreams::agg::sum;
use dstreams::arrow::array::RecordBatch;
use dstreams::{BatchReport, BatchTime, BoxError, Error, Guarantee, Prepared, Sink};

use crate::lifecycle::Log;
use crate::program::{INTERVAL, Program, block_on, small};

#[track_caller]
fn names(error: &str, parts: &[&str]) {
    let place = format!("at {}:", file!());
    for part in ["batch 200 ms", &place].iter().chain(parts) {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

/// A sink that fails on purpose.
#[derive(Clone, Default)]
struct Unreliable {
    log: Log,
    prepares_fail: Arc<AtomicUsize>,
    commits_fail: Arc<AtomicUsize>,
    panics: bool,
}

impl Unreliable {
    fn fails(&self, left: &AtomicUsize, what: &str) -> Result<(), BoxError> {
        let failed = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        match failed {
            Ok(_) if self.panics => panic!("{what} panics"),
            Ok(_) => Err(format!("{what} fails").into()),
            Err(_) => Ok(()),
        }
    }
}

#[dstreams::async_trait]
impl Sink for Unreliable {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }
    async fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let rows: usize = rows.iter().map(RecordBatch::num_rows).sum();
        self.log.add(format!("prepare {batch} {partition}: {rows}"));
        self.fails(&self.prepares_fail, "prepare")?;
        Ok(Prepared(format!("{batch} {partition}").into_bytes()))
    }
    async fn commit(&self, batch: BatchTime, prepared: Vec<Prepared>) -> Result<(), BoxError> {
        let parts: Vec<_> = prepared
            .iter()
            .map(|part| String::from_utf8_lossy(&part.0))
            .collect();
        self.log
            .add(format!("commit {batch}: {}", parts.join(", ")));
        self.fails(&self.commits_fail, "commit")
    }
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }
}

/// Runs two batches into the sink; returns the second one's result.
async fn write_two(
    sink: &Unreliable,
    failures: impl FnOnce(),
) -> (Result<BatchReport, Error>, crate::program::Live) {
    let mut program = Program::new(small(2, 1, 4));
    let (queue, numbers) = program.ctx.queue::<i64>("numbers");
    numbers.sink("warehouse", sink.clone());
    let mut live = program.start().await;
    queue.push(0..5).await.unwrap();
    live.batch().await;
    failures();
    queue.push(0..8).await.unwrap();
    (live.try_batch().await, live)
}

const FIRST: [&str; 3] = [
    "prepare 100 ms 0: 2",
    "prepare 100 ms 1: 3",
    "commit 100 ms: 100 ms 0, 100 ms 1",
];
const PREPARE: [&str; 2] = ["prepare 200 ms 0: 4", "prepare 200 ms 1: 4"];
const COMMIT: &str = "commit 200 ms: 200 ms 0, 200 ms 1";

#[test]
fn a_failed_commit_is_repeated_for_the_same_batch() {
    block_on(async {
        let sink = Unreliable::default();
        let fail = Arc::clone(&sink.commits_fail);
        let (report, mut live) = write_two(&sink, || fail.store(3, Ordering::SeqCst)).await;
        assert_eq!(report.unwrap().batch, BatchTime(200));
        let wanted: Vec<_> = FIRST
            .into_iter()
            .chain(PREPARE)
            .chain([COMMIT; 4])
            .collect();
        assert_eq!(sink.log.all(), wanted);
        // The next batch begins from scratch.
        fail.store(3, Ordering::SeqCst);
        assert_eq!(live.batch().await.batch, BatchTime(300));
    });
}

#[test]
fn a_failed_prepare_runs_the_batch_again() {
    block_on(async {
        let sink = Unreliable::default();
        let fail = Arc::clone(&sink.prepares_fail);
        let (report, _live) = write_two(&sink, || fail.store(2, Ordering::SeqCst)).await;
        let report = report.unwrap();
        assert_eq!((report.attempts, report.batch), (3, BatchTime(200)));
        let retries = [PREPARE[0], PREPARE[0]];
        let wanted: Vec<_> = FIRST
            .into_iter()
            .chain(retries)
            .chain(PREPARE)
            .chain([COMMIT])
            .collect();
        assert_eq!(sink.log.all(), wanted);
    });
}

#[test]
fn a_sink_that_fails_for_good_stops_the_context() {
    block_on(async {
        let sink = Unreliable::default();
        let fail = Arc::clone(&sink.commits_fail);
        let (report, live) = write_two(&sink, || fail.store(usize::MAX, Ordering::SeqCst)).await;
        let error = report.unwrap_err().to_string();
        names(&error, &["`warehouse`", "commit fails"]);
        assert_eq!(
            sink.log.all().iter().filter(|line| *line == COMMIT).count(),
            4
        );
        live.running.await_termination(None).await.unwrap_err();
        let (sink, fail) = (Unreliable::default(), Arc::new(AtomicUsize::new(0)));
        let sink = Unreliable {
            prepares_fail: Arc::clone(&fail),
            ..sink
        };
        let (report, _live) = write_two(&sink, || fail.store(usize::MAX, Ordering::SeqCst)).await;
        names(
            &report.unwrap_err().to_string(),
            &["4 attempt", "`warehouse`", "prepare fails"],
        );
    });
}

#[test]
fn a_sink_that_panics_stops_the_context() {
    block_on(async {
        for commits in [false, true] {
            let sink = Unreliable {
                panics: true,
                ..Unreliable::default()
            };
            let fail = Arc::clone(if commits {
                &sink.commits_fail
            } else {
                &sink.prepares_fail
            });
            let (report, _live) = write_two(&sink, || fail.store(9, Ordering::SeqCst)).await;
            let what = if commits {
                "commit panics"
            } else {
                "prepare panics"
            };
            names(&report.unwrap_err().to_string(), &["`warehouse`", what]);
        }
    });
}

#[test]
fn state_is_right_after_a_retried_batch() {
    block_on(async {
        let sink = Unreliable::default();
        let mut program = Program::new(small(2, 1, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let window = numbers
            .map(|n| (n % 2, n))
            .by_key()
            .window_agg(INTERVAL * 2, INTERVAL, sum::<i64>())
            .unwrap();
        let mut sums = window.collect();
        window.pairs().sink("warehouse", sink.clone());
        let mut live = program.start().await;
        for batch in 1..=4 {
            sink.prepares_fail.store(2, Ordering::SeqCst);
            sink.commits_fail.store(1, Ordering::SeqCst);
            queue.push([batch * 10, batch * 10 + 1]).await.unwrap();
            live.batch().await;
            // The repeated commit collects again: the same.
            for _ in 0..2 {
                let mut got = sums.recv().await.unwrap().collect().unwrap();
                got.sort();
                let before = if batch == 1 {
                    (0, 0)
                } else {
                    (batch * 10 - 10, batch * 10 - 9)
                };
                assert_eq!(
                    got,
                    [(0, batch * 10 + before.0), (1, batch * 10 + 1 + before.1)]
                );
            }
        }
    });
}
