//! A program without state survives the loss of any workers: here the master itself receives the records, and batches
//! are retried until they succeed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::{Queue, StreamContext};
use dstreams_cluster::RunningCluster;

use crate::process::{How, Process, be_worker, master_options, start};
use crate::program::{block_on, soon, until};

/// The results: counts of numbers.
#[derive(Default)]
pub struct Found {
    pub counts: Vec<(i64, i64)>,
    even: i64,
}

/// One dataset has two readers, so workers cache it between two jobs of the engine.
pub fn program(found: &Arc<Mutex<Found>>) -> (StreamContext, Queue<i64>) {
    let mut config = dstreams::Config::new(Duration::from_millis(100));
    config.rows_per_task = 2;
    let mut ctx = StreamContext::with_config(config).unwrap();
    let (queue, numbers) = ctx.queue::<i64>("numbers");
    let slow = numbers.map::<i64>(|number| {
        std::thread::sleep(Duration::from_millis(5));
        number
    });
    let log = Arc::clone(found);
    slow.keyed().agg(count()).unwrap().for_each_rdd(move |rdd| {
        let rows = rdd.collect().unwrap();
        log.lock().unwrap().counts.extend(rows);
    });
    let log = Arc::clone(found);
    slow.filter(|number| number % 2 == 0)
        .count()
        .unwrap()
        .for_each_rdd(move |rdd| {
            log.lock().unwrap().even += rdd.collect().unwrap().into_iter().sum::<i64>();
        });
    (ctx, queue)
}

/// Name of the test that runs as its worker.
pub const WORKER: &str = "stateless::a_worker";

/// Pushes ten numbers, `more` times.
async fn push(queue: &Queue<i64>, next: &mut i64, more: usize) {
    for _ in 0..more {
        queue.push(*next..*next + 10).await.unwrap();
        *next += 10;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn workers_are(cluster: &RunningCluster, count: usize) {
    until("workers", || cluster.status().workers.len() == count).await;
}

#[test]
fn workers_are_killed_one_at_a_time_and_then_all() {
    block_on(async {
        dstreams_cluster::logs::to_stderr();
        let found = Arc::default();
        let (ctx, queue) = program(&found);
        let mut options = master_options();
        options.partitions = Some(3);
        let of = (WORKER, &vec![How::default(); 3][..]);
        let (cluster, mut workers, address) = start(ctx, options, of).await;
        let start = || Process::start(WORKER, &address, &How::default());
        let mut next = 0;
        for at in 0..6 {
            push(&queue, &mut next, 10).await;
            workers[at % 3].kill();
            workers[at % 3] = start();
            push(&queue, &mut next, 5).await;
            workers_are(&cluster, 3).await;
        }
        workers.iter_mut().for_each(Process::kill);
        workers_are(&cluster, 0).await;
        push(&queue, &mut next, 10).await;
        workers.push(start());
        workers_are(&cluster, 1).await;

        let summary = soon("the stop", cluster.running.stop()).await.unwrap();
        assert_eq!(summary.unfinished, 0);
        let mut found = found.lock().unwrap();
        found.counts.sort_unstable();
        let wanted: Vec<_> = (0..next).map(|number| (number, 1)).collect();
        assert_eq!(found.counts, wanted);
        assert_eq!(found.even, next / 2);
    });
}

/// Not a test: a worker that [`Process::start`] runs.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    be_worker(|| program(&Arc::default()).0);
}
