//! The contracts of sources and sinks, checked for the library's own and for examples of user-defined ones.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use dstreams::arrow::array::RecordBatch;
use dstreams::arrow::datatypes::SchemaRef;
use dstreams::record::batch_of;
use dstreams::{
    BatchTime, BoxError, Config, DStream, Error, Generator, Guarantee, Ingest, Prepared, Rdd,
    Record, Sink, Source, StopSignal, TcpText,
};
use tokio::sync::mpsc;

use crate::program::{INTERVAL, Program, block_on, small, soon};

/// A source under test, with a record of how it was treated.
struct Watched<S> {
    source: S,
    pushed: mpsc::UnboundedSender<&'static str>,
}

#[dstreams::async_trait]
impl<S: Source> Source for Watched<S> {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }
    async fn open(&mut self) -> Result<Option<SocketAddr>, BoxError> {
        let _ = self.pushed.send("opened");
        self.source.open().await
    }
    fn connect(&mut self, ingest: &Ingest) {
        let _ = self.pushed.send("connected");
        self.source.connect(ingest);
    }
    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        let _ = self.pushed.send("runs");
        let ended = Box::new(self.source).run(ingest, closing.clone()).await;
        let _ = self.pushed.send(if closing.is_requested() {
            "ended when asked"
        } else {
            "ended by itself"
        });
        ended
    }
}

/// The contract of a source of `T`: it is opened and connected before it runs; its records are in the batches,
/// complete and in order; it ends soon after it is asked to, also under backpressure; nothing it has taken in is
/// lost then.
///
/// `feed` sends it records from outside, given its address; `all` are the records it brings, or the first of them
/// if it has no end.
fn source_contract<T, S>(
    mut config: Config,
    source: impl Fn() -> S,
    feed: impl Fn(Option<SocketAddr>),
    all: &[T],
) where
    T: Record + PartialEq + std::fmt::Debug + Clone,
    S: Source,
{
    assert_eq!(source().schema().fields(), T::schema().fields());
    // In the second run memory is full before its end.
    for memory in [config.block_memory, 48 << 10] {
        config.block_memory = memory;
        config.line_bytes = 1 << 10;
        block_on(async {
            let (pushed, mut events) = mpsc::unbounded_channel();
            let mut program = Program::new(config.clone());
            let watched = Watched {
                source: source(),
                pushed,
            };
            let mut records = program
                .ctx
                .source::<T>("watched", watched)
                .unwrap()
                .collect();
            let live = program.start().await;
            for wanted in ["connected", "opened", "runs"] {
                assert_eq!(soon("the source", events.recv()).await, Some(wanted));
            }
            let address = live.running.address("watched");
            feed(address);
            let mut got = Vec::new();
            // A batch in the middle, then the end, with the clock standing still.
            live.clock.advance(INTERVAL);
            let first = soon("a batch", records.recv()).await.unwrap();
            got.extend(first.collect().unwrap());
            let summary = soon("the stop", live.running.stop()).await.unwrap();
            while let Some(rdd) = records.try_recv() {
                got.extend(rdd.collect().unwrap());
            }
            assert_eq!(got.len() as u64, summary.records);
            let ended = soon("the end of the source", events.recv()).await.unwrap();
            let known = got.len().min(all.len());
            assert_eq!(
                got[..known],
                all[..known],
                "in order, none missing, none twice"
            );
            if ended == "ended by itself" || address.is_some() {
                assert_eq!(got.len(), all.len(), "nothing is lost");
            }
            assert_eq!(live.running.status().blocks, 0);
        });
    }
}

fn lines() -> Vec<String> {
    (0..2000)
        .map(|n| format!("line {n} of the source under test"))
        .collect()
}

#[test]
fn lines_over_tcp() {
    let feed = |address: Option<SocketAddr>| {
        let mut socket = std::net::TcpStream::connect(address.unwrap()).unwrap();
        socket
            .write_all((lines().join("\n") + "\n").as_bytes())
            .unwrap();
    };
    source_contract(
        small(2, 100, 100),
        || TcpText::new("127.0.0.1:0"),
        feed,
        &lines(),
    );
}

#[test]
fn generators() {
    let all: Vec<(u64, String)> = (0..5000).map(|n| (n, format!("record {n}"))).collect();
    let make = |n| (n, format!("record {n}"));
    source_contract(
        small(2, 100, 100),
        || Generator::new(1_000_000, make).limit(5000),
        |_| {},
        &all,
    );
    source_contract(
        small(2, 100, 100),
        || Generator::new(100_000, make),
        |_| {},
        &all,
    );
}

/// The source of the documentation, in blocks.
struct Numbers(i64);

#[dstreams::async_trait]
impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        i64::schema()
    }
    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        for n in 0..self.0 {
            if closing.is_requested() {
                break;
            }
            ingest.push(batch_of(n * 100..n * 100 + 100)?).await?;
        }
        Ok(())
    }
}

#[test]
fn sources_of_users() {
    let all: Vec<i64> = (0..3000).collect();
    source_contract(small(2, 100, 100), || Numbers(30), |_| {}, &all);
    // Without an end, more than any memory.
    source_contract(
        small(2, 100, 100),
        || Numbers(i64::MAX / 1000),
        |_| {},
        &all,
    );
}

#[test]
fn pushes_with_other_columns_are_refused() {
    block_on(async {
        let mut program = Program::new(small(1, 1, 1));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let mut all = numbers.collect();
        let mut live = program.start().await;
        for wrong in [
            batch_of([1i32]).unwrap(),
            batch_of(["text".to_owned()]).unwrap(),
            batch_of([(1i64, 2i64)]).unwrap(),
            batch_of([None::<i64>]).unwrap(),
        ] {
            let error = queue.push_batch(wrong).await.unwrap_err();
            assert!(matches!(error, Error::Schema { .. }), "{error}");
            assert!(error.to_string().contains("`numbers`"), "{error}");
        }
        // Nullable in name only.
        queue
            .push_batch(batch_of([Some(7i64)]).unwrap())
            .await
            .unwrap();
        live.batch().await;
        assert_eq!(all.recv().await.unwrap().collect().unwrap(), [7]);
    });
}

/// A call of a sink.
#[derive(Debug, Clone, PartialEq)]
enum Call {
    Prepare(BatchTime, usize),
    Commit(BatchTime, Vec<Vec<u8>>),
}

/// Records the first column of each partition, and fails on request.
#[derive(Clone, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    /// Rows that are visible, by batch.
    visible: Arc<Mutex<BTreeMap<BatchTime, Vec<i64>>>>,
    staged: Arc<Mutex<BTreeMap<Vec<u8>, Vec<i64>>>>,
    /// Fails each n-th call.
    fails: Option<usize>,
}

impl Recorder {
    fn call(&self, call: Call) -> Result<usize, BoxError> {
        let mut calls = self.calls.lock().unwrap();
        calls.push(call);
        match self.fails {
            Some(every) if calls.len().is_multiple_of(every) => Err("on purpose".into()),
            _ => Ok(calls.len()),
        }
    }
}

#[dstreams::async_trait]
impl Sink for Recorder {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(self.visible.lock().unwrap().keys().next_back().copied())
    }
    async fn prepare(
        &self,
        batch: BatchTime,
        partition: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let number = self.call(Call::Prepare(batch, partition))?;
        // Each attempt has a name of its own.
        let name = format!("{batch} {partition} {number}").into_bytes();
        let records = rows
            .iter()
            .flat_map(|rows| dstreams::record::records_of::<i64>(rows).unwrap());
        self.staged
            .lock()
            .unwrap()
            .insert(name.clone(), records.collect());
        Ok(Prepared(name))
    }
    async fn commit(&self, batch: BatchTime, prepared: Vec<Prepared>) -> Result<(), BoxError> {
        let names: Vec<_> = prepared.into_iter().map(|part| part.0).collect();
        let staged = self.staged.lock().unwrap();
        let rows = names.iter().flat_map(|name| staged[name].clone()).collect();
        // Visible even if the answer is lost.
        self.visible.lock().unwrap().insert(batch, rows);
        self.call(Call::Commit(batch, names)).map(|_| ())
    }
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }
}

/// The contract of the engine towards sinks: `prepare` for each partition, then `commit` with the results of the
/// last successful `prepare` of each partition, in order of partitions; batches in order, each until it succeeds;
/// nothing of the next batch is committed before.
fn sink_contract(fails: Option<usize>, batches: u64) {
    let sink = Recorder {
        fails,
        ..Recorder::default()
    };
    block_on(async {
        let mut program = Program::new(small(3, 1, 2));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        numbers.sink("recorder", sink.clone());
        let mut live = program.start().await;
        for batch in 1..=batches as i64 {
            queue
                .push(batch * 10..batch * 10 + batch % 5)
                .await
                .unwrap();
            live.batch().await;
        }
        live.running.abort().await.unwrap();
    });
    let calls = sink.calls.lock().unwrap().clone();
    if fails.is_some() {
        assert!(calls.len() > 3 * batches as usize, "the faults fired");
    }
    let mut last = BTreeMap::<usize, Vec<u8>>::new();
    let mut done = BatchTime(0);
    let mut committing = None;
    for (number, call) in (1..).zip(&calls) {
        let failed = fails.is_some_and(|every| number % every == 0);
        match call {
            Call::Prepare(batch, partition) => {
                assert_eq!(
                    batch.0,
                    done.0 + 100,
                    "the batch after the last one that was committed"
                );
                assert_eq!(
                    committing, None,
                    "nothing is prepared while a commit is outstanding"
                );
                if *partition == 0 {
                    last.clear();
                }
                if !failed {
                    last.insert(
                        *partition,
                        format!("{batch} {partition} {number}").into_bytes(),
                    );
                }
            }
            Call::Commit(batch, names) => {
                assert_eq!(batch.0, done.0 + 100);
                assert_eq!(*names, last.values().cloned().collect::<Vec<_>>());
                assert!(
                    last.keys().copied().eq(0..names.len()),
                    "every partition once"
                );
                committing = Some(batch);
                if !failed {
                    (done, committing) = (*batch, None);
                    last.clear();
                }
            }
        }
    }
    assert_eq!(done.0, batches * 100);
    let visible = sink.visible.lock().unwrap();
    for (batch, n) in (1..=batches).map(|n| (BatchTime(n * 100), n as i64)) {
        assert_eq!(
            visible[&batch],
            (n * 10..n * 10 + n % 5).collect::<Vec<_>>(),
            "exactly once"
        );
    }
}

#[test]
fn sinks_are_prepared_and_committed_in_order() {
    sink_contract(None, 12);
}

#[test]
fn sinks_that_fail_sometimes_take_effect_exactly_once() {
    sink_contract(Some(5), 8);
    sink_contract(Some(7), 8);
}

/// Outputs of the library: each sees every batch, in order, and they take effect in program order.
#[test]
fn outputs_take_effect_in_the_order_of_the_program() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let output = |stream: &DStream<i64>, name: &'static str| {
        let log = Arc::clone(&log);
        stream.for_each_rdd(move |rdd: Rdd<i64>| {
            log.lock().unwrap().push((rdd.batch_time().0, name))
        });
    };
    block_on(async {
        let mut program = Program::new(small(2, 1, 1));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        output(&numbers.map(|n| n + 1), "first");
        output(&numbers, "second");
        numbers.print(1);
        output(&numbers.filter(|_| false), "third");
        let mut live = program.start().await;
        for _ in 0..3 {
            queue.push(0..3).await.unwrap();
            live.batch().await;
        }
        live.running.abort().await.unwrap();
    });
    let wanted: Vec<_> = [100, 200, 300]
        .into_iter()
        .flat_map(|at| ["first", "second", "third"].map(|name| (at, name)))
        .collect();
    assert_eq!(*log.lock().unwrap(), wanted);
}
