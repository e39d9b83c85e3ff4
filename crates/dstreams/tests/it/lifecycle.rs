//! From start to stop: listeners, slow batches, failures, sinks, user-defined sources.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::arrow::datatypes::SchemaRef;
use dstreams::record::batch_of;
use dstreams::{
    BatchReport, BatchTime, BoxError, Config, Error, Generator, Ingest, Listener, Record, Source,
    StopSignal, StreamContext,
};

use crate::program::{INTERVAL, Program, block_on, small, soon, until};

/// The observations of a test, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Listener for Log {
    fn batch_submitted(&self, batch: BatchTime, records: u64) {
        self.add(format!("submitted {batch}: {records}"));
    }
    fn batch_started(&self, batch: BatchTime, attempt: u32) {
        self.add(format!("started {batch}: {attempt}"));
    }
    fn batch_completed(&self, report: &BatchReport) {
        self.add(format!("completed {}: {}", report.batch, report.records));
    }
    fn batch_failed(&self, batch: BatchTime, _: &Error) {
        self.add(format!("failed {batch}"));
    }
    fn source_failed(&self, stream: &str, error: &Error) {
        self.add(format!("source failed {stream}: {error}"));
    }
}

#[test]
fn listeners_hear_of_all_batches_in_order_even_empty_ones() {
    block_on(async {
        let log = Log::default();
        let mut program = Program::new(small(2, 4, 4));
        program.ctx.add_listener(log.clone());
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        numbers.for_each_rdd(|_| {});
        let mut live = program.start().await;
        queue.push(0..7).await.unwrap();
        let report = live.batch().await;
        assert_eq!(
            (report.batch.0, report.records, report.attempts),
            (100, 7, 1)
        );
        live.batch().await;
        queue.push(0..2).await.unwrap();
        queue.push(0..1).await.unwrap();
        live.batch().await;
        let status = live.running.status();
        assert_eq!((status.batches, status.records), (3, 10));
        until("the blocks to go", || live.running.status().blocks == 0).await;
        assert_eq!(live.running.last_batch(), Some(BatchTime(300)));
        let summary = live.running.abort().await.unwrap();
        assert_eq!(
            (summary.batches, summary.records, summary.unfinished),
            (3, 10, 0)
        );
        let wanted = [("100 ms", 7), ("200 ms", 0), ("300 ms", 3)];
        let wanted = wanted.iter().flat_map(|(at, n)| {
            [
                format!("submitted {at}: {n}"),
                format!("started {at}: 1"),
                format!("completed {at}: {n}"),
            ]
        });
        assert_eq!(log.all(), wanted.collect::<Vec<_>>());
    });
}

#[test]
fn batches_wait_in_order_behind_a_slow_one() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let (inside, effects) = (Arc::new(AtomicUsize::new(0)), Log::default());
    block_on(async {
        let log = Log::default();
        let mut program = Program::new(small(2, 4, 4));
        program.ctx.add_listener(log.clone());
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let (overlap, seen) = (Arc::clone(&inside), effects.clone());
        numbers.for_each_rdd(move |rdd| {
            assert_eq!(overlap.fetch_add(1, Ordering::SeqCst), 0, "effects overlap");
            seen.add(format!(
                "{}: {:?}",
                rdd.batch_time(),
                rdd.collect().unwrap()
            ));
            blocked.lock().unwrap().recv().unwrap();
            overlap.fetch_sub(1, Ordering::SeqCst);
        });
        let mut live = program.start().await;
        for batch in 1..=4 {
            queue.push([batch]).await.unwrap();
            live.clock.advance(INTERVAL);
            let submitted = format!("submitted {}00 ms: 1", batch);
            until("the cut", || log.all().contains(&submitted)).await;
        }
        until("the first effect", || effects.all().len() == 1).await;
        assert!(
            !log.all().contains(&"started 200 ms: 1".to_owned()),
            "{:?}",
            log.all()
        );
        assert_eq!(live.running.status().batches, 0);
        for batch in 1..=4u64 {
            release.send(()).unwrap();
            let report = live.report().await.unwrap();
            assert_eq!(report.batch, BatchTime(batch * 100));
            // By the clock, which stands at 400 ms.
            let waited = Duration::from_millis(400 - 100 * batch);
            let started = if batch == 1 { Duration::ZERO } else { waited };
            assert_eq!(report.scheduling_delay(), started);
            assert_eq!(report.total_delay(), waited);
        }
        assert_eq!(
            effects.all(),
            ["100 ms: [1]", "200 ms: [2]", "300 ms: [3]", "400 ms: [4]"]
        );
        live.running.abort().await.unwrap();
    });
}

/// The error that stops a program made by `build`, which fails at 13: the same for a batch of one task or of
/// several.
fn failure(build: impl Fn(&mut Program, &dstreams::DStream<i64>)) -> String {
    let one = failure_of(&build, 13..14);
    let several = failure_of(&build, 13..21);
    assert_eq!(one, several);
    one
}

fn failure_of(
    build: impl Fn(&mut Program, &dstreams::DStream<i64>),
    rows: std::ops::Range<i64>,
) -> String {
    block_on(async {
        let log = Log::default();
        let mut program = Program::new(small(2, 4, 4));
        program.ctx.add_listener(log.clone());
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        build(&mut program, &numbers);
        let mut live = program.start().await;
        queue.push([1]).await.unwrap();
        live.batch().await;
        queue.push(rows).await.unwrap();
        let error = live.try_batch().await.unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Batch {
                    batch: BatchTime(200),
                    ..
                }
            ),
            "{error:?}"
        );
        let end = soon("the end", live.running.await_termination(None))
            .await
            .unwrap_err();
        assert_eq!(end.to_string(), error.to_string());
        assert!(live.running.stop().await.is_err(), "it has failed for good");
        assert_eq!(log.all().last().unwrap(), "failed 200 ms");
        error.to_string()
    })
}

#[track_caller]
fn names(error: &str, parts: &[&str]) {
    let place = format!("at {}:", file!());
    for part in ["batch 200 ms", &place].iter().chain(parts) {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_panic_stops_the_context_and_names_batch_operator_and_cause() {
    fn unlucky(n: i64) -> i64 {
        assert!(n != 13, "no thirteen please");
        n
    }
    let error = failure(|_, numbers| numbers.map(unlucky).for_each_rdd(|_| {}));
    names(&error, &["`map`", "no thirteen please", "1 attempt"]);
    let error = failure(|_, numbers| numbers.filter(|n| unlucky(n) > 0).for_each_rdd(|_| {}));
    names(&error, &["`filter`", "no thirteen please"]);
    let error = failure(|_, numbers| {
        let twice = numbers.flat_map::<(i64, i64)>(|n, out| (0..2).for_each(|_| out.push((0, n))));
        let keyed = twice.by_key();
        keyed.reduce(|a, b| unlucky(a) + b).for_each_rdd(|_| {});
    });
    names(&error, &["`reduce`", "no thirteen please"]);
    let error = failure(|_, numbers| {
        numbers.for_each_rdd(|rdd| {
            rdd.collect()
                .unwrap()
                .into_iter()
                .for_each(|n| assert_eq!(unlucky(n), n))
        });
    });
    names(&error, &["`for_each_rdd`", "no thirteen please"]);
}

#[test]
fn an_error_of_a_query_names_the_query() {
    let error = failure(|_, numbers| {
        numbers
            .sql::<i64>("select 1 / (value - 13) from this")
            .unwrap()
            .for_each_rdd(|_| {});
    });
    names(&error, &["`sql`", "ivide by zero"]);
    let error = failure(|_, numbers| {
        let query = "select abs(nullif(value, 13)) as value from this";
        numbers.sql::<i64>(query).unwrap().for_each_rdd(|_| {});
    });
    names(&error, &["`sql`", "column `value` is null"]);
}

#[test]
fn key_by_requires_one_key_per_record() {
    let error = failure(|_, numbers| {
        let keyed = numbers.key_by_into::<i64>(|n, out| {
            (0..if n == 13 { 2 } else { 1 }).for_each(|_| out.push(n))
        });
        keyed.for_each_rdd(|_| {});
    });
    names(&error, &["`key_by_into`", "exactly one"]);
    // In the sum it is right: one record pushes two keys, another none.
    let error = failure(|_, numbers| {
        let keyed = numbers.key_by_into::<i64>(|n, out| {
            let pushes = match n {
                1 => 1,
                _ => 2 * (n % 2),
            };
            (0..pushes).for_each(|_| out.push(n));
        });
        keyed.for_each_rdd(|_| {});
    });
    names(&error, &["`key_by_into`", "exactly one"]);
}

/// A source as in the documentation of the trait, which ends as configured.
struct Numbers {
    until: i64,
    end: Result<(), &'static str>,
}

#[dstreams::async_trait]
impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        i64::schema()
    }
    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        for n in 0..self.until {
            if closing.is_requested() {
                break;
            }
            ingest.push(batch_of([n])?).await?;
        }
        match self.end {
            Err("panic") => panic!("the source panics"),
            end => end.map_err(Into::into),
        }
    }
}

#[test]
fn a_failed_source_is_reported_and_the_others_continue() {
    block_on(async {
        for (end, message) in [
            (Err("the wire is cut"), "the wire is cut"),
            (Err("panic"), "the source panics"),
        ] {
            let log = Log::default();
            let mut program = Program::new(small(2, 4, 4));
            program.ctx.add_listener(log.clone());
            let numbers = program
                .ctx
                .source::<i64>("broken", Numbers { until: 5, end })
                .unwrap();
            let (queue, others) = program.ctx.queue::<i64>("fine");
            let mut all = numbers.union(&others).unwrap().collect();
            let mut live = program.start().await;
            let told = || {
                log.all()
                    .iter()
                    .any(|line| line.starts_with("source failed broken") && line.contains(message))
            };
            until("the news", told).await;
            queue.push([7]).await.unwrap();
            live.batch().await;
            assert_eq!(
                all.recv().await.unwrap().collect().unwrap(),
                [0, 1, 2, 3, 4, 7],
                "what it pushed counts"
            );
            queue.push([8]).await.unwrap();
            live.batch().await;
            assert_eq!(all.recv().await.unwrap().collect().unwrap(), [8]);
            live.running.stop().await.unwrap();
        }
    });
}

#[test]
fn generated_records_are_the_same_in_each_run() {
    let run = || {
        block_on(async {
            let mut program = Program::new(small(2, 100, 100));
            let generator =
                Generator::new(20_000, |n| (n, n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).limit(1000);
            let mut records = program.ctx.generator("numbers", generator).collect();
            let mut live = program.start().await;
            let mut all = Vec::new();
            while all.len() < 1000 {
                live.batch().await;
                all.extend(records.recv().await.unwrap().collect().unwrap());
            }
            live.running.stop().await.unwrap();
            all
        })
    };
    let (one, other) = (run(), run());
    assert_eq!(one.len(), 1000);
    assert!(
        one.iter()
            .enumerate()
            .all(|(n, record)| record.0 == n as u64)
    );
    assert!(one == other);
}

#[test]
fn the_wall_clock_works() {
    block_on(async {
        let mut ctx = StreamContext::with_config(Config::new(Duration::from_millis(20))).unwrap();
        let (queue, words) = ctx.queue::<String>("words");
        let mut counts = words.keyed().agg(count()).unwrap().collect();
        let running = ctx.start().await.unwrap();
        queue
            .push(["a", "b", "a"].map(str::to_owned))
            .await
            .unwrap();
        let mut last = 0;
        let mut found = Vec::new();
        while found.is_empty() {
            let rdd = soon("a batch", counts.recv()).await.unwrap();
            let at = rdd.batch_time().0;
            assert!(
                at % 20 == 0 && (last == 0 || at == last + 20),
                "{at} after {last}"
            );
            last = at;
            found = rdd.collect().unwrap();
        }
        found.sort();
        assert_eq!(found, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        running.stop_within(Duration::from_secs(10)).await.unwrap();
    });
}

/// An output may wait: for threads, for futures, for a query over the RDD.
#[test]
fn an_output_may_block_on_futures() {
    block_on(async {
        let mut program = Program::new(small(2, 1, 2));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let counts = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&counts);
        numbers.for_each_rdd(move |rdd| {
            let runtime = tokio::runtime::Handle::current();
            runtime.block_on(tokio::time::sleep(Duration::from_millis(1)));
            let count = runtime.block_on(rdd.dataframe().unwrap().count());
            // As clients with a runtime of their own do.
            let own = tokio::runtime::Runtime::new().unwrap();
            seen.lock()
                .unwrap()
                .push(own.block_on(async { count.unwrap() }));
        });
        let mut all = numbers.collect();
        let mut live = program.start().await;
        for batch in [0..3, 0..0, 0..70] {
            queue.push(batch).await.unwrap();
            live.batch().await;
            assert!(all.try_recv().is_some());
        }
        live.running.stop().await.unwrap();
        assert_eq!(counts.lock().unwrap()[..3], [3, 0, 70]);
    });
}

/// A panicking listener does not end a program.
#[test]
fn a_panicking_listener_is_ignored() {
    struct Careless;
    impl Listener for Careless {
        fn batch_completed(&self, _: &BatchReport) {
            tokio::runtime::Handle::current().block_on(async {});
        }
    }
    block_on(async {
        let mut program = Program::new(small(2, 4, 4));
        program.ctx.add_listener(Careless);
        let log = Log::default();
        program.ctx.add_listener(log.clone());
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        numbers.for_each_rdd(|_| {});
        let mut live = program.start().await;
        queue.push(0..7).await.unwrap();
        live.batch().await;
        queue.push(0..2).await.unwrap();
        live.batch().await;
        let completed = "completed 200 ms: 2".to_owned();
        until("the next listener", || log.all().contains(&completed)).await;
        live.running.stop().await.unwrap();
    });
}
