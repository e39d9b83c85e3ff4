//! The first stages of a batch run while the previous batch commits; stages on its state wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::{Queue, StreamContext};

use crate::program::{INTERVAL, Program, block_on, small, until};
use crate::workers::cluster;

/// The events, in their order.
type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: String) {
    log.lock().unwrap().push(what);
}

fn has(log: &Log, what: &str) -> bool {
    log.lock().unwrap().iter().any(|noted| noted == what)
}

/// The commit of the first batch ends when the second batch's records have been mapped.
fn describe(ctx: &mut StreamContext, log: &Log) -> Queue<u64> {
    let (queue, numbers) = ctx.queue::<u64>("in");
    let noted = Arc::clone(log);
    let mapped = numbers.map::<u64>(move |number| {
        note(&noted, format!("mapped {number}"));
        number
    });
    let window = mapped.keyed().window_agg(INTERVAL * 2, INTERVAL, count());
    let noted = Arc::clone(log);
    let window = window.unwrap().pairs().map(move |(number, count)| {
        note(&noted, format!("counted {number}"));
        (number, count)
    });
    let log = Arc::clone(log);
    window.for_each_rdd(move |rdd| {
        let batch = rdd.batch_time().0;
        if batch == 100 {
            while !has(&log, "mapped 2") {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Time in which counts of the second batch must not happen.
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut rows: Vec<(u64, i64)> = rdd.collect().unwrap();
        rows.sort_unstable();
        note(&log, format!("batch {batch}: {rows:?}"));
    });
    queue
}

#[test]
fn a_batch_starts_while_the_previous_one_commits() {
    let log = Log::default();
    block_on(async {
        let config = small(2, 1, 8);
        let mut program = Program::new(config.clone());
        let queue = describe(&mut program.ctx, &log);
        let noted = Arc::clone(&log);
        let build = move || {
            let mut ctx = StreamContext::with_config(config.clone()).unwrap();
            let _ = describe(&mut ctx, &noted);
            ctx
        };
        let start = async |ctx| cluster(ctx, 2, &[1, 1], build).await;
        let mut live = program.start_by(start).await;
        queue.push([1]).await.unwrap();
        live.clock.advance(INTERVAL);
        until("the first batch", || has(&log, "counted 1")).await;
        queue.push([2]).await.unwrap();
        live.clock.advance(INTERVAL);
        for _ in 0..2 {
            live.report().await.unwrap();
        }
        let (cluster, workers) = live.running;
        cluster.running.abort().await.unwrap();
        drop(cluster);
        tokio::task::spawn_blocking(|| workers.join())
            .await
            .unwrap();
    });
    let log = log.lock().unwrap();
    let mut wanted = vec![
        "mapped 1",
        "counted 1",
        "mapped 2",
        "batch 100: [(1, 1)]",
        "counted 1",
        "counted 2",
        "batch 200: [(1, 1), (2, 1)]",
    ];
    if log[4] == "counted 2" {
        wanted.swap(4, 5); // in any order: they are in two partitions
    }
    assert_eq!(*log, wanted);
}
