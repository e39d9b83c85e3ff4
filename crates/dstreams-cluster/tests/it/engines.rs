//! The cluster returns the same results as the local engine, bit for bit and in the same order.

use std::sync::Arc;

use dstreams::{Config, Queue, StreamContext};
use proptest::prelude::*;

use crate::every_operator::{Log, Outcome, Row, Watch, every_operator, row, same, take};
use crate::program::{Interval, Program, block_on, cases, intervals, small};
use crate::workers::cluster;

fn describe(ctx: &mut StreamContext, log: &Log) -> Queue<Row> {
    let (queue, rows) = ctx.queue::<Row>("in");
    every_operator(ctx, &rows, &Watch(Arc::clone(log)));
    queue
}

async fn feed<R>(live: &mut crate::program::Live<R>, queue: &Queue<Row>, input: &[Interval<Row>]) {
    for interval in input {
        for block in interval {
            queue.push(block.iter().cloned()).await.unwrap();
        }
        live.batch().await;
    }
}

fn on_this_machine(config: &Config, input: &[Interval<Row>]) -> Vec<Outcome> {
    let log = Log::default();
    block_on(async {
        let mut program = Program::new(config.clone());
        let queue = describe(&mut program.ctx, &log);
        let mut live = program.start().await;
        feed(&mut live, &queue, input).await;
        live.running.abort().await.unwrap();
    });
    take(&log)
}

fn on_a_cluster(config: &Config, cores: &[usize], input: &[Interval<Row>]) -> Vec<Outcome> {
    let log = Log::default();
    block_on(async {
        let mut program = Program::new(config.clone());
        let queue = describe(&mut program.ctx, &log);
        let (settings, partitions) = (config.clone(), config.threads);
        let build = move || {
            let mut ctx = StreamContext::with_config(settings.clone()).unwrap();
            let _ = describe(&mut ctx, &Log::default());
            ctx
        };
        let start = async |ctx| cluster(ctx, partitions, cores, build).await;
        let mut live = program.start_by(start).await;
        feed(&mut live, &queue, input).await;
        let (cluster, workers) = live.running;
        cluster.running.abort().await.unwrap();
        drop(cluster);
        tokio::task::spawn_blocking(|| workers.join())
            .await
            .unwrap();
    });
    take(&log)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 0, ..cases(3) })]

    #[test]
    fn every_operator_returns_the_same_as_locally(
        input in intervals(row(), 4),
        partitions in 1..5usize,
        cores in prop::collection::vec(1..4usize, 1..4),
    ) {
        let config = small(partitions, 2, 3);
        let here = on_this_machine(&config, &input);
        same(&on_a_cluster(&config, &cores, &input), &here)?;
    }
}
