//! How programs end: gracefully with everything received, or at once.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use dstreams::arrow::array::RecordBatch;
use dstreams::arrow::datatypes::SchemaRef;
use dstreams::record::batch_of;
use dstreams::{
    BatchTime, BoxError, Error, Generator, Guarantee, Ingest, Prepared, Record, Sink, Source,
    StopSignal,
};
use tokio::sync::oneshot;

use crate::program::{INTERVAL, Program, block_on, small, soon, until};
use crate::sources_that_end::{sources_that_end, they_have_ended};

#[test]
fn a_graceful_stop_drains_everything_received() {
    block_on(async {
        let mut program = Program::new(small(2, 4, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let mut all = numbers.collect();
        let live = program.start().await;
        queue.push(0..5).await.unwrap();
        live.clock.advance(INTERVAL);
        queue.push(5..9).await.unwrap();
        // In the middle of an interval: the clock need not move for the last batch.
        let summary = soon("the stop", live.running.stop()).await.unwrap();
        assert_eq!((summary.records, summary.unfinished), (9, 0));
        let mut got = Vec::new();
        while let Some(rdd) = all.try_recv() {
            got.extend(rdd.collect().unwrap());
        }
        assert_eq!(got, (0..9).collect::<Vec<_>>());
        // Again, and after it has stopped.
        assert_eq!(live.running.abort().await.unwrap(), summary);
        assert_eq!(
            live.running.await_termination(None).await.unwrap(),
            Some(summary)
        );
    });
}

#[test]
fn receivers_end_when_the_program_has_stopped() {
    block_on(async {
        let mut program = Program::new(small(1, 4, 4));
        let (_queue, numbers) = program.ctx.queue::<i64>("numbers");
        let mut all = numbers.collect();
        let mut live = program.start().await;
        live.batch().await;
        live.running.abort().await.unwrap();
        // Handles into the graph are still there.
        let _ = numbers.map(|n| n);
        assert_eq!(
            soon("the batch", all.recv()).await.unwrap().batch_time().0,
            100
        );
        assert!(soon("the end", all.recv()).await.is_none());
    });
}

#[test]
fn pushing_into_a_stopped_program_is_an_error() {
    block_on(async {
        for graceful in [true, false] {
            let mut program = Program::new(small(1, 4, 4));
            let (queue, numbers) = program.ctx.queue::<i64>("numbers");
            numbers.for_each_rdd(|_| {});
            let live = program.start().await;
            queue.push([1]).await.unwrap();
            let running = &live.running;
            match graceful {
                true => running.stop().await.unwrap(),
                false => running.abort().await.unwrap(),
            };
            let error = queue.push([2]).await.unwrap_err();
            assert!(matches!(error, Error::NotRunning), "{error}");
        }
    });
}

#[test]
fn a_stop_ends_a_push_that_waits_for_memory() {
    for graceful in [true, false] {
        block_on(async {
            let mut config = small(1, 4, 4);
            let rows = batch_of(0..1000i64).unwrap();
            let bytes: usize = rows
                .columns()
                .iter()
                .map(|c| c.get_array_memory_size())
                .sum();
            config.block_memory = bytes + bytes / 2;
            config.line_bytes = 100;
            let mut program = Program::new(config);
            let (queue, numbers) = program.ctx.queue::<i64>("numbers");
            numbers.for_each_rdd(|_| {});
            let live = program.start().await;
            queue.push_batch(rows.clone()).await.unwrap();
            let waits = tokio::spawn({
                let (queue, rows) = (queue.clone(), rows.clone());
                async move { queue.push_batch(rows).await }
            });
            assert!(live.running.status().block_memory <= bytes + bytes / 2);
            let running = &live.running;
            let stop = async {
                match graceful {
                    true => running.stop().await,
                    false => running.abort().await,
                }
            };
            let summary = soon("the stop", stop).await.unwrap();
            // Either it was taken before the end, or its producer learns that it was not.
            let pushed = soon("the push", waits).await.unwrap();
            let wanted = match (graceful, &pushed) {
                (true, Ok(())) => 2000,
                (true, Err(_)) => 1000,
                (false, _) => 0,
            };
            assert_eq!(summary.records, wanted, "{pushed:?}");
            let status = live.running.status();
            assert_eq!((status.blocks, status.block_memory), (0, 0));
        });
    }
}

#[test]
fn an_abrupt_stop_does_not_wait_for_queued_batches() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    block_on(async {
        let mut program = Program::new(small(2, 4, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let committed = Arc::new(Mutex::new(Vec::new()));
        let effects = Arc::clone(&committed);
        numbers.for_each_rdd(move |rdd| {
            effects.lock().unwrap().push(rdd.batch_time().0);
            blocked.lock().unwrap().recv().unwrap();
        });
        let live = program.start().await;
        for batch in 1..=3 {
            queue.push([batch]).await.unwrap();
            live.clock.advance(INTERVAL);
            until("the cut", || live.running.status().blocks as i64 == batch).await;
        }
        until("the effect", || !committed.lock().unwrap().is_empty()).await;
        let stop = live.running.abort();
        let nothing = live
            .running
            .await_termination(Some(Duration::from_millis(1)))
            .await
            .unwrap();
        assert!(nothing.is_none(), "it has not stopped yet");
        // A commit in progress is waited for: its effect may be visible.
        release.send(()).unwrap();
        let summary = soon("the stop", stop).await.unwrap();
        assert_eq!((summary.batches, summary.unfinished), (1, 2));
        assert_eq!(*committed.lock().unwrap(), [100]);
    });
}

#[test]
fn an_abrupt_stop_drops_the_running_batch() {
    let (release, blocked) = mpsc::channel::<()>();
    let (started, starts) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    block_on(async {
        let mut program = Program::new(small(1, 4, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let slow = numbers.map(move |n| {
            started.send(()).unwrap();
            let _ = blocked.lock().unwrap().recv();
            n
        });
        let mut all = slow.collect();
        let live = program.start().await;
        queue.push([1]).await.unwrap();
        live.clock.advance(INTERVAL);
        tokio::task::spawn_blocking(move || starts.recv().unwrap())
            .await
            .unwrap();
        let summary = soon("the stop", live.running.abort()).await.unwrap();
        assert_eq!((summary.batches, summary.unfinished), (0, 1));
        assert_eq!(live.running.status().blocks, 0, "nobody will take them");
        drop(release);
        assert!(all.try_recv().is_none());
    });
}

#[test]
fn a_graceful_stop_ends_at_its_deadline() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    block_on(async {
        let mut program = Program::new(small(1, 4, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let slow = numbers.map(move |n| {
            let _ = blocked.lock().unwrap().recv();
            n
        });
        slow.for_each_rdd(|_| {});
        let live = program.start().await;
        queue.push([1]).await.unwrap();
        live.clock.advance(INTERVAL);
        until("the cut", || live.running.status().blocks == 1).await;
        let clock = live.clock.clone();
        let stop = live.running.stop_within(Duration::from_secs(5));
        tokio::pin!(stop);
        // Asked for first, then the time passes.
        let early = tokio::time::timeout(Duration::from_millis(1), &mut stop).await;
        assert!(early.is_err(), "it cannot have stopped");
        clock.advance(Duration::from_secs(6));
        let summary = soon("the stop", stop).await.unwrap();
        assert_eq!((summary.batches, summary.unfinished > 0), (0, true));
        drop(release);
    });
}

#[test]
fn awaiting_the_end_times_out() {
    block_on(async {
        let mut program = Program::new(small(1, 4, 4));
        let (_queue, numbers) = program.ctx.queue::<i64>("numbers");
        numbers.for_each_rdd(|_| {});
        let live = program.start().await;
        let waited = live
            .running
            .await_termination(Some(Duration::from_millis(5)))
            .await;
        assert!(waited.unwrap().is_none());
        live.running.stop().await.unwrap();
        let waited = live
            .running
            .await_termination(Some(Duration::from_millis(5)))
            .await;
        assert!(waited.unwrap().is_some());
    });
}

/// All records of the sources are committed, and the clock need not move. A failed source is no success; sources
/// without an end keep the program running.
#[test]
fn a_program_stops_by_itself_when_its_sources_have_ended() {
    block_on(async {
        for fails in [false, true] {
            let mut program = Program::new(small(2, 4, 4));
            let all = sources_that_end(&mut program.ctx, fails);
            let live = program.start().await;
            let ended = soon("the end", live.running.await_termination(None)).await;
            they_have_ended(ended, &live.running, all, fails);
        }
    });
}

#[test]
fn a_source_without_an_end_keeps_the_program_running() {
    block_on(async {
        let mut program = Program::new(small(2, 4, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let few = Generator::new(1_000_000, |n| n as i64).limit(5);
        let few = program.ctx.generator("few", few);
        few.union(&numbers).unwrap().for_each_rdd(|_| {});
        program.ctx.stop_when_sources_end();
        let mut live = program.start().await;
        let mut records = 0;
        while records < 5 {
            records += live.batch().await.records;
        }
        queue.push(0..3).await.unwrap();
        assert_eq!(live.batch().await.records, 3);
        assert_eq!(live.running.stop().await.unwrap().records, 8);
    });
}

/// Pushes two numbers, and does not end; pushes another one on request, and reports the result.
struct NeverEnds(oneshot::Receiver<()>, oneshot::Sender<dstreams::Result<()>>);

#[dstreams::async_trait]
impl Source for NeverEnds {
    fn schema(&self) -> SchemaRef {
        i64::schema()
    }

    async fn run(self: Box<Self>, ingest: Ingest, _: StopSignal) -> Result<(), BoxError> {
        ingest.push(batch_of([1i64, 2])?).await?;
        if self.0.await.is_ok() {
            let _ = self.1.send(ingest.push(batch_of([9i64])?).await);
        }
        std::future::pending().await
    }
}

#[test]
fn a_source_that_does_not_end_costs_no_record() {
    for deadline in [None, Some(Duration::from_secs(60))] {
        block_on(async {
            let (late, goes_on) = oneshot::channel();
            let (pushed, refused) = oneshot::channel();
            let mut program = Program::new(small(2, 4, 4));
            let endless = NeverEnds(goes_on, pushed);
            let endless = program.ctx.source::<i64>("endless", endless).unwrap();
            let (queue, numbers) = program.ctx.queue::<i64>("numbers");
            let mut all = endless.union(&numbers).unwrap().collect();
            let dead = program.ctx.dead_letters();
            dead.for_each_rdd(|_| {});
            let live = program.start().await;
            until("the source", || live.running.status().block_memory > 0).await;
            queue.push([3, 4, 5]).await.unwrap();
            let running = &live.running;
            let stop = async {
                match deadline {
                    Some(deadline) => running.stop_within(deadline).await,
                    None => running.stop().await,
                }
            };
            tokio::pin!(stop);
            let early = tokio::time::timeout(Duration::from_millis(20), &mut stop).await;
            assert!(early.is_err(), "the source has its time to end");
            live.clock.advance(Duration::from_secs(30));
            let summary = soon("the stop", &mut stop).await.unwrap();
            assert_eq!((summary.records, summary.unfinished), (5, 0));
            let got = all.try_recv().unwrap().collect().unwrap();
            assert_eq!(got, [1, 2, 3, 4, 5]);
            // It was dropped, or its push is refused.
            let _ = late.send(());
            assert!(!matches!(refused.await, Ok(Ok(()))));
        });
    }
}

/// Reports when it is closed.
struct Closes(mpsc::Sender<()>);

#[dstreams::async_trait]
impl Sink for Closes {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }
    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        _: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        Ok(Prepared::default())
    }
    async fn commit(&self, _: BatchTime, _: Vec<Prepared>) -> Result<(), BoxError> {
        Ok(())
    }
    fn close(&self) {
        self.0.send(()).unwrap();
    }
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }
}

#[test]
fn no_output_is_called_after_the_deadline() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let (closed, is_closed) = mpsc::channel();
    let called = Arc::new(Mutex::new(Vec::new()));
    block_on(async {
        let mut program = Program::new(small(1, 4, 4));
        let (queue, numbers) = program.ctx.queue::<i64>("numbers");
        let calls = Arc::clone(&called);
        numbers.for_each_rdd(move |_| {
            calls.lock().unwrap().push("first");
            let _ = blocked.lock().unwrap().recv();
        });
        let calls = Arc::clone(&called);
        numbers.for_each_rdd(move |_| calls.lock().unwrap().push("second"));
        numbers.sink("closes", Closes(closed));
        let live = program.start().await;
        queue.push([1]).await.unwrap();
        live.clock.advance(INTERVAL);
        until("the commit", || !called.lock().unwrap().is_empty()).await;
        let stop = live.running.stop_within(Duration::from_secs(5));
        tokio::pin!(stop);
        let early = tokio::time::timeout(Duration::from_millis(1), &mut stop).await;
        assert!(early.is_err(), "it cannot have stopped");
        live.clock.advance(Duration::from_secs(6));
        let summary = soon("the stop", stop).await.unwrap();
        assert_eq!((summary.batches, summary.unfinished), (0, 2));
        assert!(is_closed.try_recv().is_err(), "an effect is under way");
        release.send(()).unwrap();
    });
    is_closed.recv_timeout(crate::program::PATIENCE).unwrap();
    assert_eq!(*called.lock().unwrap(), ["first"]);
}
