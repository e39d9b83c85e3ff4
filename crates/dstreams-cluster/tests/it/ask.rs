//! Queries of states while the program runs and workers come and go.

use crate::process::How;
use crate::program::block_on;
use crate::scene::{Scene, Setup};

#[test]
fn a_query_sees_all_states_as_of_one_batch() {
    block_on(async {
        let mut setup = Setup::local();
        setup.asked = true;
        let mut scene = Scene::open(setup).await;
        scene.is_whole(3).await;
        scene.ask_for(6).await;
        let mut workers = scene.status().workers.into_iter();
        let primary = workers.find(|worker| !worker.holds.is_empty()).unwrap();
        scene.process(primary.pid).kill();
        scene.ask_for(4).await;
        scene.add(&How::default());
        scene.ask_for(4).await;
        scene.is_whole(3).await;
        scene.ask_for(1).await;
        scene.close().await;
    });
}
