//! Clocks that step, while a program runs and between two processes: no batch comes twice, none is left out, and
//! windows count downtime.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::{Queue, RddReceiver};

use crate::dir::Dir;
use crate::program::{INTERVAL, Live, Program, block_on, small, soon};

const WINDOW: u32 = 3;

/// A window of words, stored in a directory if there is one.
struct Counter {
    live: Live,
    queue: Queue<String>,
    windows: RddReceiver<(String, i64)>,
}

impl Counter {
    /// Starts one whose clock shows so many intervals.
    async fn start(dir: Option<&Dir>, at: u32) -> Self {
        let mut config = small(2, 4, 8);
        config.checkpoint_every = 2;
        let mut program = Program::after(at, config);
        let (queue, words) = program.ctx.queue::<String>("words");
        let windows = words
            .keyed()
            .window_agg(INTERVAL * WINDOW, INTERVAL, count());
        let windows = windows.unwrap().pairs().collect();
        if let Some(dir) = dir {
            program.ctx.persist_in(dir.path());
        }
        let live = program.start().await;
        Counter {
            live,
            queue,
            windows,
        }
    }

    async fn push(&self, word: &str) {
        self.queue.push([word.to_owned()]).await.unwrap();
    }

    fn set(&self, intervals: u32) {
        self.live.clock.set(INTERVAL * intervals);
    }

    /// The number of the next batch, its records, and its window.
    async fn next(&mut self) -> (u64, u64, Vec<(String, i64)>) {
        let report = self.live.report().await.unwrap();
        let rdd = soon("a window", self.windows.recv()).await.unwrap();
        assert_eq!(rdd.batch_time(), report.batch);
        (report.batch.0 / 100, report.records, rdd.collect().unwrap())
    }

    async fn end(self) {
        self.live.running.abort().await.unwrap();
    }
}

fn a(count: i64) -> Vec<(String, i64)> {
    vec![("a".into(), count)]
}

#[test]
fn a_clock_set_back_repeats_no_batch() {
    block_on(async {
        let mut counter = Counter::start(None, 0).await;
        counter.push("a").await;
        counter.set(10);
        for batch in 1..=10 {
            let of = if batch <= u64::from(WINDOW) {
                a(1)
            } else {
                vec![]
            };
            assert_eq!(counter.next().await, (batch, u64::from(batch == 1), of));
        }
        counter.set(4);
        counter.push("a").await;
        // An interval with a batch gets no other one.
        for at in 5..=10 {
            counter.set(at);
            counter.push("a").await;
        }
        counter.set(11);
        assert_eq!(counter.next().await, (11, 7, a(7)));
        // A stop does not wait for the clock.
        counter.set(2);
        counter.push("a").await;
        let stop = counter.live.running.stop_within(Duration::from_secs(3600));
        let summary = soon("the stop", stop).await.unwrap();
        assert_eq!((summary.batches, summary.records), (12, 9));
        assert_eq!(counter.next().await, (12, 1, a(8)));
    });
}

#[test]
fn a_clock_set_forward_has_a_batch_for_each_interval() {
    block_on(async {
        let mut counter = Counter::start(None, 0).await;
        counter.push("a").await;
        counter.set(500);
        for batch in 1..=500 {
            let (at, _, window) = counter.next().await;
            assert_eq!(at, batch);
            assert_eq!(window.len(), usize::from(batch <= u64::from(WINDOW)));
        }
        counter.push("a").await;
        counter.set(501);
        assert_eq!(counter.next().await, (501, 1, a(1)));
        counter.end().await;
    });
}

#[test]
fn a_process_with_a_clock_behind_the_last_batch_resumes_after_it() {
    let dir = &Dir::new();
    block_on(async {
        let mut counter = Counter::start(Some(dir), 50).await;
        counter.push("a").await;
        counter.set(51);
        assert_eq!(counter.next().await, (51, 1, a(1)));
        counter.end().await;

        let mut counter = Counter::start(Some(dir), 20).await;
        for at in 20..=51 {
            counter.set(at);
            counter.push("a").await;
        }
        counter.set(52);
        assert_eq!(counter.next().await, (52, 32, a(33)));
        counter.end().await;
    });
}

#[test]
fn downtime_has_a_batch_for_each_interval() {
    let dir = &Dir::new();
    block_on(async {
        let mut counter = Counter::start(Some(dir), 0).await;
        counter.push("a").await;
        counter.set(1);
        assert_eq!(counter.next().await, (1, 1, a(1)));
        counter.end().await;

        let mut counter = Counter::start(Some(dir), 300).await;
        for batch in 2..=300 {
            let (at, records, window) = counter.next().await;
            assert_eq!((at, records), (batch, 0));
            assert_eq!(window.len(), usize::from(batch <= u64::from(WINDOW)));
        }
        counter.push("a").await;
        counter.set(301);
        assert_eq!(counter.next().await, (301, 1, a(1)));
        counter.end().await;
    });
}
