//! How soon, and why, the master gives up a worker: one that died, one that is stopped, one that is cut off one way.

use std::time::{Duration, Instant};

use dstreams_cluster::{LossReason, LostWorker, MasterOptions};

use crate::namespaces::network;
use crate::program::{block_on, until};
use crate::scene::{Scene, Setup};

/// The default of `MasterOptions::silence`, and what is left of it for the probe and for the look.
const BOUND_MS: u64 = 2_000;
const LEAST_MS: u64 = BOUND_MS * 9 / 10;

/// Three workers that may be silent for as long as by default.
fn setup() -> Setup {
    let mut setup = Setup::local();
    setup.silence = Duration::from_millis(BOUND_MS);
    assert_eq!(setup.silence, MasterOptions::default().silence);
    setup
}

/// Waits until the master has given up the process for the n-th time.
async fn loss_of(scene: &Scene, pid: u32, n: usize) -> LostWorker {
    let newest = || {
        let lost = scene.status().lost.into_iter();
        let mut lost = lost.filter(|lost| lost.pid == pid);
        lost.nth(n - 1)
    };
    until("a loss", || newest().is_some()).await;
    let lost = newest().unwrap();
    let workers = scene.status().workers;
    assert!(workers.iter().all(|worker| worker.id != lost.id));
    lost
}

/// Waits until the process is a worker again, under a new number, with all that a whole cluster has.
async fn is_back(scene: &Scene, lost: &LostWorker) {
    scene.is_whole(3).await;
    let workers = scene.status().workers.into_iter();
    let mut back = workers.filter(|worker| worker.pid == lost.pid);
    let back = back.next().expect("the one that was given up");
    assert!(back.id > lost.id, "{back:?} is a new one");
}

#[test]
fn a_killed_worker_is_noticed_by_its_connection() {
    block_on(async {
        let mut scene = Scene::open(setup()).await;
        scene.batches(3).await;
        let pid = scene.busiest().pid;
        let killed = Instant::now();
        scene.process(pid).kill();
        let lost = loss_of(&scene, pid, 1).await;
        println!("noticed within {:?}: {lost:?}", killed.elapsed());
        assert_eq!(lost.why, LossReason::Ended, "{lost:?}");
        assert!(lost.after_ms < BOUND_MS / 2, "{lost:?}");
        scene.batches(4).await;
        assert_eq!(scene.status().losses, 1);
        scene.close().await;
    });
}

/// Its sockets stay open, and it continues where it stopped. Nothing that it sends or writes then has an effect.
#[test]
fn a_stopped_worker_is_given_up_within_the_bound_and_rejoins_clean() {
    block_on(async {
        let mut setup = setup();
        setup.aimed = true;
        let scene = Scene::open(setup).await;
        scene.batches(4).await;
        // The one that the client sends to.
        let stopped = &scene.workers[0];
        stopped.signal("STOP");
        let lost = loss_of(&scene, stopped.pid(), 1).await;
        assert_eq!(lost.why, LossReason::Silent, "{lost:?}");
        // In time in which the master looked, and that is counted in steps of two ticks at most.
        assert!((LEAST_MS..=BOUND_MS).contains(&lost.after_ms), "{lost:?}");
        scene.batches(4).await;
        scene.acknowledged(50).await;
        stopped.signal("CONT");
        is_back(&scene, &lost).await;
        assert_eq!(scene.status().losses, 1);
        scene.close().await;
    });
}

/// A worker that is stopped for less than the bound keeps its number, its blocks and its state.
#[test]
fn a_worker_that_is_stopped_for_a_moment_is_not_given_up() {
    block_on(async {
        let scene = Scene::open(setup()).await;
        scene.batches(2).await;
        for stopped in &scene.workers {
            stopped.signal("STOP");
            tokio::time::sleep(Duration::from_millis(LEAST_MS / 3)).await;
            stopped.signal("CONT");
            scene.batches(2).await;
        }
        let status = scene.status();
        assert_eq!((status.losses, status.workers.len()), (0, 3), "{status:?}");
        scene.close().await;
    });
}

/// First the messages of the worker are lost, and then those of the master.
#[test]
fn a_worker_that_is_cut_off_one_way_is_given_up_within_the_bound() {
    let Some(network) = network(3) else { return };
    block_on(async {
        let mut setup = network.setup();
        setup.silence = Duration::from_millis(BOUND_MS);
        let scene = Scene::open(setup).await;
        let pid = scene.workers[0].pid();
        // Without acknowledgements, the worker's system may hold back what the worker says, so that it is silent too.
        let ways = [
            (true, &[LossReason::Silent][..]),
            (false, &[LossReason::Unanswered, LossReason::Silent]),
        ];
        for (n, (to_master, why)) in (1..).zip(ways) {
            scene.batches(2).await;
            network.one_way(0, to_master, "add");
            let lost = loss_of(&scene, pid, n).await;
            println!("{lost:?}");
            assert!(why.contains(&lost.why), "{lost:?}");
            assert!((LEAST_MS..=BOUND_MS).contains(&lost.after_ms), "{lost:?}");
            scene.batches(4).await;
            scene.acknowledged(50).await;
            network.one_way(0, to_master, "del");
            is_back(&scene, &lost).await;
        }
        assert_eq!(scene.status().losses, 2);
        scene.close().await;
    });
}
