//! State that takes many intervals to copy: copies complete while batches run, so the cluster survives one loss after
//! the other, and joins complete.

use crate::process::How;
use crate::program::{block_on, until};
use crate::scene::{Scene, Setup};

/// A worker that takes three seconds, six intervals, to import a partition of state.
fn slow() -> How {
    How {
        pause_at: Some("state:fetched=3000".into()),
        ..How::default()
    }
}

#[test]
fn a_second_loss_after_slow_copies_loses_nothing() {
    block_on(async {
        let mut setup = Setup::local();
        setup.workers = vec![slow(); 3];
        let mut scene = Scene::open(setup).await;
        scene.is_whole(3).await;
        for left in [2, 1] {
            let pid = scene.busiest().pid;
            scene.process(pid).kill();
            scene.workers_are(left).await;
            if left > 1 {
                scene.is_whole(left).await;
            }
        }
        scene.batches(2).await;
        scene.close().await;
    });
}

/// The joining worker gets the whole state of a partition, and becomes its primary.
#[test]
fn a_join_completes_with_slow_copies() {
    block_on(async {
        let mut setup = Setup::local();
        setup.workers = vec![slow(); 2];
        let mut scene = Scene::open(setup).await;
        scene.is_whole(2).await;
        let pid = scene.add(&slow());
        until("a part for the new one", || {
            let mut workers = scene.status().workers.into_iter();
            workers.any(|worker| worker.pid == pid && !worker.holds.is_empty())
        })
        .await;
        scene.is_whole(3).await;
        scene.close().await;
    });
}
