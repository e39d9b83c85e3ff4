//! Runs a program over a list of intervals and returns what each batch gave.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dstreams::testing::{TestProgram, TestRun};
use dstreams::{
    BatchReport, Clock, Config, DStream, Error, ManualClock, Queue, Record, Running, StreamContext,
};
use dstreams_client::Client;
use proptest::prelude::*;

/// Batch interval of all tests on a manual clock.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Bound of every wait: only a failure takes as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The records of one interval, block by block.
pub type Interval<T> = Vec<Vec<T>>;
/// What each batch gave: batch time in milliseconds and records.
pub type Batches<U> = Vec<(u64, Vec<U>)>;

/// Runs a future on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    /// Waits for nothing at its end: after a failure there may be threads that never end.
    struct Ending(Option<tokio::runtime::Runtime>);
    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.take().unwrap().shutdown_background();
        }
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let runtime = Ending(Some(runtime));
    runtime.0.as_ref().unwrap().block_on(future)
}

/// Waits for `future`, which must end.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, wait).await
}

/// Sends numbered lines, five and a pause, until told to stop; returns how many, all acknowledged.
/// `told` sees how many are so far.
pub async fn send_numbered(
    client: Client,
    pause: Duration,
    stop: &AtomicBool,
    told: impl Fn(u64),
) -> usize {
    let mut lines = client.lines("lines").await.unwrap();
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        for _ in 0..5 {
            let line = format!("a w{} {sent}", sent % 7);
            lines.send(&line).await.unwrap();
            sent += 1;
        }
        tokio::time::sleep(pause).await;
        told(lines.acknowledged());
    }
    let report = lines.finish().await.unwrap();
    assert_eq!(report.records_acknowledged, sent as u64);
    sent
}

/// Settings with which little data makes many tasks, batches of rows and blocks.
pub fn small(threads: usize, rows_per_task: usize, rows_per_batch: usize) -> Config {
    let mut config = Config::new(INTERVAL);
    config.threads = threads;
    config.rows_per_task = rows_per_task;
    config.rows_per_batch = rows_per_batch;
    // Every push is a block.
    config.block_bytes = 1;
    config
}

/// Any settings of that kind.
pub fn settings() -> impl Strategy<Value = Config> {
    (1..5usize, 1..12usize, 1..9usize)
        .prop_map(|(threads, task, batch)| small(threads, task, batch))
}

/// A program in a directory that runs several times.
#[derive(Debug, Clone)]
pub struct Runs {
    pub config: Config,
    /// Of each run in turn, the number of its intervals, and whether it is killed at its end.
    ends: Vec<(usize, bool)>,
}

impl Runs {
    /// Runs all of `input`: `run` gets the number of the first interval of a run, its intervals, and whether it is killed.
    pub fn each<T>(&self, input: &[T], mut run: impl FnMut(usize, &[T], bool)) {
        let (mut first, mut ends) = (0, self.ends.iter().cycle());
        while first < input.len() {
            let (intervals, is_killed) = ends.next().unwrap();
            let some = &input[first..input.len().min(first + intervals)];
            run(first, some, *is_killed);
            first += some.len();
        }
    }
}

pub fn runs() -> impl Strategy<Value = Runs> {
    let settings = (1..4usize, 1..6usize, 1..4u32);
    let ends = prop::collection::vec((1..5usize, prop::bool::ANY), 1..5);
    (settings, ends).prop_map(|((threads, task, every), ends)| {
        let mut config = small(threads, task, 4);
        config.checkpoint_every = every;
        Runs { config, ends }
    })
}

/// `cases` random cases, without files about failures.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    }
}

/// Up to `most` intervals of up to three blocks of `record`, empty ones included.
pub fn intervals<S: Strategy>(
    record: S,
    most: usize,
) -> impl Strategy<Value = Vec<Interval<S::Value>>>
where
    S::Value: Clone,
{
    let block = prop::collection::vec(record, 0..10);
    prop::collection::vec(prop::collection::vec(block, 0..4), 1..=most)
}

/// Texts of every kind of length; few, so that they come again.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{0,2}",
        "[ab]{12}c",
        Just("exactly12byt".to_owned()),
        "a key that is long and ends with [0-9]",
        "[äß€]{1,2}",
    ]
}

/// A program that is being described, on a clock moved by hand; what goes wrong is a panic.
pub struct Program {
    pub ctx: StreamContext,
    clock: ManualClock,
}

impl Program {
    pub fn new(config: Config) -> Self {
        Program::after(0, config)
    }

    /// One that begins so many intervals after the first one.
    pub fn after(intervals: u32, config: Config) -> Self {
        let mut ctx = StreamContext::with_config(config).unwrap();
        let (manual, clock) = Clock::manual(INTERVAL * intervals);
        // For those who start the context themselves.
        ctx.set_clock(clock);
        Program { ctx, clock: manual }
    }

    pub async fn start(self) -> Live {
        self.start_by(async |ctx| ctx.start().await.unwrap()).await
    }

    /// Starts it in a way of its own.
    pub async fn start_by<R>(self, start: impl AsyncFnOnce(StreamContext) -> R) -> Live<R> {
        let test = TestProgram::from_context(self.ctx).on_clock(&self.clock);
        let mut running = None;
        let started = async |ctx| {
            running = Some(start(ctx).await);
            Ok::<_, Error>(())
        };
        let run = test.patience(PATIENCE).start_by(started).await.unwrap();
        Live {
            running: running.unwrap(),
            clock: self.clock,
            run,
        }
    }
}

/// A program that runs.
pub struct Live<R = Running> {
    pub running: R,
    pub clock: ManualClock,
    run: TestRun<()>,
}

impl<R> Live<R> {
    /// Ends the interval and waits until its batch has taken effect.
    pub async fn batch(&mut self) -> BatchReport {
        self.try_batch().await.unwrap()
    }

    /// The same; the error is that of a batch that failed.
    pub async fn try_batch(&mut self) -> Result<BatchReport, Error> {
        self.run.end_interval().await
    }

    /// Waits for the next batch to take effect.
    pub async fn report(&mut self) -> Result<BatchReport, Error> {
        self.run.next_batch().await
    }
}

impl Live {
    /// Runs the intervals, and ends the program with them: by an abort, or by a graceful stop, which runs the last one.
    pub async fn feed_and_end<T: Record + Clone>(
        mut self,
        queue: &Queue<T>,
        input: &[Interval<T>],
        kill: bool,
    ) {
        let mut stops = false;
        for (at, interval) in input.iter().enumerate() {
            for block in interval {
                queue.push(block.iter().cloned()).await.unwrap();
            }
            stops = !kill && at + 1 == input.len();
            if !stops {
                self.batch().await;
            }
        }
        match stops {
            true => self.running.stop().await.unwrap(),
            false => self.running.abort().await.unwrap(),
        };
    }
}

/// What `build` makes of the intervals.
pub fn run<T, U>(
    config: &Config,
    intervals: &[Interval<T>],
    build: impl FnOnce(&StreamContext, &DStream<T>) -> DStream<U>,
) -> Batches<U>
where
    T: Record + Clone,
    U: Record,
{
    let build = |ctx: &StreamContext, stream: &DStream<T>| vec![build(ctx, stream)];
    run_all(config, intervals, build).remove(0)
}

/// The same of several streams.
pub fn run_all<T, U>(
    config: &Config,
    intervals: &[Interval<T>],
    build: impl FnOnce(&StreamContext, &DStream<T>) -> Vec<DStream<U>>,
) -> Vec<Batches<U>>
where
    T: Record + Clone,
    U: Record,
{
    block_on(async {
        let mut program = Program::new(config.clone());
        let (queue, stream) = program.ctx.queue::<T>("in");
        let streams = build(&program.ctx, &stream);
        let mut outputs: Vec<_> = streams.iter().map(DStream::collect).collect();
        let mut live = program.start().await;
        for interval in intervals {
            for block in interval {
                queue.push(block.iter().cloned()).await.unwrap();
            }
            live.batch().await;
        }
        let collected = outputs.iter_mut().map(|output| {
            let batches = dstreams::testing::batches(output).unwrap().into_iter();
            batches.map(|(batch, records)| (batch.0, records)).collect()
        });
        let collected = collected.collect();
        live.running.stop().await.unwrap();
        collected
    })
}

/// What `f` makes of the records of each interval.
pub fn each<T: Clone, U>(intervals: &[Interval<T>], f: impl Fn(Vec<T>) -> Vec<U>) -> Batches<U> {
    let numbered = (1u64..).zip(intervals);
    numbered
        .map(|(n, interval)| (n * 100, f(interval.concat())))
        .collect()
}

/// The records of each batch in an order of their own.
pub fn sorted<U: std::fmt::Debug>(mut batches: Batches<U>) -> Batches<U> {
    for (_, records) in &mut batches {
        records.sort_by_cached_key(|record| format!("{record:?}"));
    }
    batches
}
