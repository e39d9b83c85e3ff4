//! State that takes many intervals to copy: copies become complete while batches go on, so one loss after the other is
//! survived, and a drain ends.

use crate::process::How;
use crate::program::{block_on, until};
use crate::scene::{Scene, Setup};

/// Workers that take three seconds, six intervals, to take in a partition of state.
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

/// The one that joins is sent all the state, and takes over.
#[test]
fn a_join_ends_with_slow_copies() {
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
