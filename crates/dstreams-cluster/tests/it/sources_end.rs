//! A program that stops when its sources have ended.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::arrow::datatypes::SchemaRef;
use dstreams::files::{Files, Format};
use dstreams::{BoxError, Clock, Ingest, RddReceiver, Record, Source, StopSignal, StreamContext};
use dstreams_cluster::{Master, MasterOptions};

use crate::dir::Dir;
use crate::program::{INTERVAL, Program, block_on, small, soon};
use crate::sources_that_end::{sources_that_end, they_have_ended};
use crate::workers::cluster;

#[test]
fn a_program_stops_by_itself_when_its_sources_have_ended() {
    block_on(async {
        for fails in [false, true] {
            let mut program = Program::new(small(2, 4, 4));
            let all = sources_that_end(&mut program.ctx, fails);
            let build = move || {
                let mut ctx = StreamContext::with_config(small(2, 4, 4)).unwrap();
                let _ = sources_that_end(&mut ctx, fails);
                ctx
            };
            let start = async |ctx| cluster(ctx, 2, &[1, 1], build).await;
            let (cluster, workers) = program.start_by(start).await.running;
            let ended = cluster.running.await_termination(None);
            let ended = soon("the end", ended).await;
            they_have_ended(ended, &cluster.running, all, fails);
            drop(cluster);
            let joined = tokio::task::spawn_blocking(|| workers.join());
            joined.await.unwrap();
        }
    });
}

/// Views of a page, by the time of files.
fn replay(dir: &std::path::Path) -> (StreamContext, RddReceiver<(i64, i64)>) {
    let mut ctx = StreamContext::with_config(small(2, 4, 4)).unwrap();
    ctx.set_clock(Clock::of_sources());
    let files = Files::dir(dir, Format::Csv).piece_bytes(100).once();
    let files = files.by_time("value", Duration::ZERO);
    let views = ctx.files::<(i64, i64)>("views", files).unwrap();
    let views = views.key_by(|(page, _)| page).map_values(|(_, at)| at);
    let windows = views.window_agg(4 * INTERVAL, 2 * INTERVAL, count());
    let windows = windows.unwrap().collect();
    ctx.close_when_sources_end(4 * INTERVAL);
    (ctx, windows)
}

/// The rows of each batch.
fn rows(mut windows: RddReceiver<(i64, i64)>) -> Vec<(u64, Vec<(i64, i64)>)> {
    let rdds = std::iter::from_fn(|| windows.try_recv());
    let rows = rdds.map(|rdd| {
        let mut rows = rdd.collect().unwrap();
        rows.sort();
        (rdd.batch_time().millis(), rows)
    });
    rows.filter(|(_, rows)| !rows.is_empty()).collect()
}

/// The master reads the files, and workers run the batches.
#[test]
fn files_move_the_clock_of_a_cluster_as_that_of_one_process() {
    let dir = Dir::new();
    for file in 0..3i64 {
        let line = |n: i64| format!("{},{}\n", n % 3, 7_000 + (file * 50 + n) * 13);
        let lines: String = (0..50).map(line).collect();
        std::fs::write(
            dir.join(format!("{file}.csv")),
            "key,value\n".to_owned() + &lines,
        )
        .unwrap();
    }
    block_on(async {
        let (ctx, windows) = replay(dir.path());
        let running = ctx.start().await.unwrap();
        soon("the end", running.await_termination(None))
            .await
            .unwrap();
        let alone = rows(windows);
        assert!(alone.len() > 8, "{alone:?}");
        let (ctx, windows) = replay(dir.path());
        let path = dir.path().to_owned();
        let (cluster, workers) = cluster(ctx, 2, &[1, 1], move || replay(&path).0).await;
        let ended = cluster.running.await_termination(None);
        soon("the end", ended).await.unwrap();
        assert_eq!(rows(windows), alone);
        drop(cluster);
        let joined = tokio::task::spawn_blocking(|| workers.join());
        joined.await.unwrap();
    });
}

/// Runs on a worker.
struct OfWorker;

#[dstreams::async_trait]
impl Source for OfWorker {
    fn schema(&self) -> SchemaRef {
        i64::schema()
    }
    fn gives_time(&self) -> bool {
        true
    }
    async fn run(self: Box<Self>, _: Ingest, _: StopSignal) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn a_source_of_a_worker_cannot_move_the_clock() {
    let mut ctx = StreamContext::with_config(small(2, 4, 4)).unwrap();
    ctx.set_clock(Clock::of_sources());
    ctx.source::<i64>("numbers", OfWorker).unwrap().print(1);
    let refused = block_on(async { Master::listen(ctx, MasterOptions::default()).await.err() });
    let error = refused.unwrap().to_string();
    assert!(
        error.contains("only sources of the master (`Files`)"),
        "{error}"
    );
}
