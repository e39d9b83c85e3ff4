//! Workers are killed and added: every acknowledged line is in exactly one batch, and results
//! are right.

use std::time::Duration;

use crate::dir::Dir;
use crate::process::{How, Process};
use crate::program::{block_on, until};
use crate::rng::Rng;
use crate::scene::{Scene, Setup};

#[test]
fn results_are_right_without_faults() {
    block_on(async {
        let scene = Scene::open(Setup::local()).await;
        scene.batches(5).await;
        scene.close().await;
    });
}

#[test]
fn a_worker_is_killed_and_another_joins() {
    block_on(async {
        let mut scene = Scene::open(Setup::local()).await;
        scene.batches(4).await;
        let pid = scene.busiest().pid;
        scene.process(pid).kill();
        scene.batches(4).await;
        assert_eq!(scene.status().workers.len(), 2);
        let pid = scene.add(&How::default());
        // It takes part as primary or standby. (Blocks depend on the order of receivers.)
        until("a part for the new one", || {
            let mut workers = scene.status().workers.into_iter();
            let new = workers.find(|worker| worker.pid == pid);
            new.is_some_and(|new| !(new.holds.is_empty() && new.stands_by.is_empty()))
        })
        .await;
        scene.batches(5).await;
        let status = scene.status();
        assert_eq!(status.workers.len(), 3, "{status:?}");
        scene.close().await;
    });
}

/// Number of workers that are killed, one after the other.
const KILLS: usize = 4;
/// The longest time in ms from a whole cluster to the next kill: three batches.
const MAX_PAUSE_MS: u64 = 1500;

/// `DSTREAMS_SEED=n` runs that seed alone, `DSTREAMS_SEEDS=n` the first n.
#[test]
fn workers_are_killed_at_any_time() {
    let number = |name| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().unwrap())
    };
    let seeds = match number("DSTREAMS_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("DSTREAMS_SEEDS").unwrap_or(1)).collect(),
    };
    for seed in seeds {
        println!("DSTREAMS_SEED={seed}"); // shown when it fails
        block_on(kills(Rng::new(seed)));
    }
}

async fn kills(mut random: Rng) {
    let mut scene = Scene::open(Setup::local()).await;
    scene.batches(2).await;
    for kill in 0..KILLS {
        let moment = Duration::from_millis(random.below(MAX_PAUSE_MS));
        tokio::time::sleep(moment).await;
        let at = random.below(scene.workers.len() as u64) as usize;
        let mut killed = scene.workers.remove(at);
        println!(
            "kill {kill}: worker {at} of pid {}, {moment:?} after",
            killed.pid()
        );
        killed.kill();
        until("its loss", || {
            scene.status().workers.iter().all(|w| w.pid != killed.pid())
        })
        .await;
        // The next kill waits until everything has two copies again.
        scene.add(&How::default());
        scene.is_whole(3).await;
    }
    scene.close().await;
}

fn crashes_at(point: &str) {
    assert!(dstreams::internal::POINTS.contains(&point.split('#').next().unwrap()));
    block_on(async {
        let dir = Dir::new();
        let file = dir.join("crashed");
        let mut setup = Setup::local();
        for how in &mut setup.workers {
            how.crash_at = Some(format!("{point}@{}", file.display()));
        }
        let mut scene = Scene::open(setup).await;
        until("the crash", || {
            scene.workers.iter_mut().any(Process::has_ended)
        })
        .await;
        assert!(file.exists(), "the crash was not the planned one");
        scene.batches(4).await;
        assert_eq!(scene.status().workers.len(), 2);
        scene.close().await;
    });
}

macro_rules! crashes {
    ($($name:ident: $point:literal,)*) => {
        $(#[test] fn $name() { crashes_at($point); })*
    };
}

crashes! {
    crash_with_a_sealed_block: "receive:sealed#9",
    crash_with_a_block_that_is_not_copied: "replicate:held#12",
    crash_with_a_copied_block_that_is_not_reported: "replicate:copied#15",
    crash_with_a_safe_block_that_is_not_acknowledged: "replicate:told#18",
    crash_as_a_task_begins: "execute:task#20",
    crash_as_a_task_ends: "execute:done#23",
    crash_with_state_installed_on_the_primary_only: "state:installed#5",
    crash_of_a_standby: "state:standby#5",
}
