//! A long downtime has the same batches and rows as in one process, primaries and standbys follow it.

use dstreams::{Queue, StreamContext};

use crate::program::{INTERVAL, Live, Program, block_on};
use crate::quiet_program::{
    AfterPauses, Events, Log, Timers, describe, over_pauses, skipping, until,
};
use crate::workers::cluster;

const DAY: u32 = 864_000;
const TIMEOUT: u32 = 150;

async fn feed<R>(live: &mut Live<R>, queue: &Queue<(String, f64)>) {
    queue.push([("a".to_owned(), 1.5)]).await.unwrap();
    live.clock.set(INTERVAL);
    until(live, 1).await;
    for day in [DAY, 2 * DAY] {
        live.clock.set(INTERVAL * day);
        // In the first gap its records time out, in the second those of a day later.
        let from = if day == DAY { 1 } else { DAY + 1 };
        until(live, from + TIMEOUT).await;
        let peaks = if day == DAY {
            304
        } else {
            DAY + 4 + 2 * TIMEOUT
        };
        until(live, peaks).await;
        queue.push([("b".to_owned(), 0.1)]).await.unwrap();
        live.clock.set(INTERVAL * (day + 1));
        until(live, day + 1).await;
    }
}

fn on_this_machine() -> Log {
    let log = Log::default();
    block_on(async {
        let mut program = Program::new(skipping());
        let queue = describe(&mut program.ctx, &log, TIMEOUT);
        let mut live = program.start().await;
        feed(&mut live, &queue).await;
        live.running.abort().await.unwrap();
    });
    log
}

fn on_a_cluster(cores: &[usize]) -> Log {
    let log = Log::default();
    block_on(async {
        let mut program = Program::new(skipping());
        let queue = describe(&mut program.ctx, &log, TIMEOUT);
        let build = || {
            let mut ctx = StreamContext::with_config(skipping()).unwrap();
            let _ = describe(&mut ctx, &Log::default(), TIMEOUT);
            ctx
        };
        let start = async |ctx| cluster(ctx, skipping().threads, cores, build).await;
        let mut live = program.start_by(start).await;
        feed(&mut live, &queue).await;
        let (cluster, workers) = live.running;
        cluster.running.abort().await.unwrap();
        drop(cluster);
        tokio::task::spawn_blocking(|| workers.join())
            .await
            .unwrap();
    });
    log
}

#[test]
fn a_gap_has_the_same_batches_as_in_one_process() {
    let here = on_this_machine();
    assert_eq!(here.batches().len(), 1 + 2 * 7);
    let there = on_a_cluster(&[1, 2]);
    assert_eq!(there.batches(), here.batches());
    assert_eq!(there.rows(), here.rows());
}

/// Records by event time, corrections, joins over time and kept records, on primaries.
#[test]
fn what_is_held_is_due_on_workers_too() {
    is_due_on_workers::<Events>();
}

#[test]
fn timers_are_due_on_workers_too() {
    is_due_on_workers::<Timers>();
}

fn is_due_on_workers<P: AfterPauses>() {
    let (here, there) = (Log::default(), Log::default());
    block_on(async {
        let mut program = Program::new(skipping());
        let events = P::describe(&mut program.ctx, &here);
        let mut live = program.start().await;
        over_pauses(&mut live, &events).await;
        live.running.abort().await.unwrap();

        let mut program = Program::new(skipping());
        let events = P::describe(&mut program.ctx, &there);
        let build = || {
            let mut ctx = StreamContext::with_config(skipping()).unwrap();
            let _ = P::describe(&mut ctx, &Log::default());
            ctx
        };
        let start = async |ctx| cluster(ctx, skipping().threads, &[1, 2], build).await;
        let mut live = program.start_by(start).await;
        over_pauses(&mut live, &events).await;
        let (cluster, workers) = live.running;
        cluster.running.abort().await.unwrap();
        drop(cluster);
        tokio::task::spawn_blocking(|| workers.join())
            .await
            .unwrap();
    });
    assert_eq!(there.rows(), here.rows());
    assert_eq!(there.batches(), here.batches());
}
