//! A program that stops when its sources have ended.

use dstreams::StreamContext;

use crate::program::{Program, block_on, small, soon};
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
