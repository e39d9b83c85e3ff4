//! Faults between the engine and its executors.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::Schema;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use dstreams::internal::Description;
use dstreams::{BatchTime, Queue, StreamContext};

use super::ClusterEngine;
use super::engine::scheduler_config;
use super::scheduler_proxy::REPORTS_TO_LOSE;
use crate::data::{Peers, Token};
use crate::plan::Codec;
use crate::{Master, MasterOptions, WorkerOptions, run_worker};

type Found = Arc<Mutex<Vec<i64>>>;

fn program(found: &Found) -> (StreamContext, Queue<i64>) {
    let mut ctx = StreamContext::new(Duration::from_millis(50)).unwrap();
    let (queue, numbers) = ctx.queue::<i64>("numbers");
    let log = Arc::clone(found);
    numbers
        .map::<i64>(|number| number + 1)
        .for_each_rdd(move |rdd| {
            log.lock().unwrap().extend(rdd.collect().unwrap());
        });
    (ctx, queue)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "waited for {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_reports_and_a_stopped_executor_lose_no_records() {
    let found = Found::default();
    let (ctx, queue) = program(&found);
    let master = Master::listen(ctx, MasterOptions::default()).await.unwrap();
    let mut options = WorkerOptions::new(master.address());
    options.cores = 1;
    let build = |_: &[String]| Ok(program(&Found::default()).0);
    let worker = std::thread::spawn(move || run_worker(&options, &build, &|_| {}));
    let cluster = master.start().await.unwrap();
    for (lost, number) in [(0, 1), (2, 2), (0, 3)] {
        REPORTS_TO_LOSE.store(lost, Ordering::SeqCst);
        queue.push([number]).await.unwrap();
        until("the batch", || {
            found.lock().unwrap().len() == number as usize
        })
        .await;
        assert_eq!(
            REPORTS_TO_LOSE.load(Ordering::SeqCst),
            0,
            "reports were lost"
        );
    }
    // The engine stops an executor that it considers dead.
    let before = cluster.status().workers;
    let remote = cluster.calls.begun.borrow().clone().unwrap();
    let executors = &remote.batches.engine.scheduler.state.executor_manager;
    let name = format!("worker-{}", before[0].id);
    executors.stop_executor(&name, "a test".into()).await;
    for number in 4..10 {
        queue.push([number]).await.unwrap();
        until("the batch", || {
            found.lock().unwrap().len() == number as usize
        })
        .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(*found.lock().unwrap(), (2..11).collect::<Vec<_>>());
    assert_eq!(
        cluster.status().workers[0].id,
        before[0].id,
        "the same worker"
    );
    drop(remote);
    cluster.running.stop().await.unwrap();
    drop(cluster);
    tokio::task::spawn_blocking(|| worker.join())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// The engine ignores a cancellation while it plans the job.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_can_be_cancelled_at_any_time() {
    let (ctx, _queue) = program(&Found::default());
    let plans = Arc::new(Description::of(ctx).unwrap().plans(2).unwrap());
    let peers = Peers::new(Token::default());
    let codec = Codec::master(plans);
    let engine = ClusterEngine::start(("127.0.0.1", "127.0.0.1"), codec, 2, peers, None)
        .await
        .unwrap();
    let plan: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
    let mut ran = 0;
    for polls in 0..200 {
        // There is no executor to run it.
        let run = engine.run(BatchTime(polls), Arc::clone(&plan));
        let while_planned = async {
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = run => panic!("nobody ran it"),
            () = while_planned => {}
        }
        ran = ran.max(engine.jobs());
    }
    assert!(ran > 0, "none of them came to the engine");
    until("no jobs", || engine.jobs() == 0).await;
}

/// The engine compares the wall clock with a worker's last heartbeat: a clock set forward makes that look old.
#[test]
fn a_clock_set_forward_loses_no_worker() {
    const MONTH: u64 = 30 * 24 * 3600;
    let config = scheduler_config(2);
    assert!(config.executor_timeout_seconds > MONTH);
    assert!(config.no_executors_grace_period_seconds > MONTH);
}
