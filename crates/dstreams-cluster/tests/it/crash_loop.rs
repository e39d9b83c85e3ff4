//! A worker that repeatedly joins and dies does not harm running batches: they are retried without counting an
//! attempt, or continue if they do not need the worker.

use crate::process::How;
use crate::program::{block_on, soon};
use crate::scene::{Scene, Setup};

/// More than the attempts of a batch.
const DEATHS: usize = 6;

#[test]
fn slow_batches_survive_a_worker_that_crashes_in_a_loop() {
    block_on(async {
        let mut setup = Setup::local();
        let slow = How {
            pause_at: Some("execute:task=400".into()),
            ..How::default()
        };
        setup.workers = vec![slow; 2];
        let mut scene = Scene::open(setup).await;
        scene.batches(1).await;
        for _ in 0..DEATHS {
            let pid = scene.add(&How::default());
            scene.workers_are(3).await;
            scene.process(pid).kill();
            scene.workers_are(2).await;
        }
        // The program has not failed; the backlog by now would take long.
        scene.batches(1).await;
        let stopped = scene.cluster.running.abort();
        soon("the stop", stopped).await.unwrap();
    });
}
