//! States are asked while the program runs, and workers come and go.

use crate::process::How;
use crate::program::block_on;
use crate::scene::{Scene, Setup};

#[test]
fn what_is_asked_is_of_one_batch() {
    block_on(async {
        let mut setup = Setup::local();
        setup.asked = true;
        let mut scene = Scene::open(setup).await;
        scene.is_whole(3).await;
        scene.ask_for(6).await;
        let held = |scene: &Scene| {
            scene
                .status()
                .workers
                .into_iter()
                .find(|w| !w.holds.is_empty())
        };
        let holder = held(&scene).unwrap();
        scene.process(holder.pid).kill();
        scene.ask_for(4).await;
        scene.add(&How::default());
        scene.ask_for(4).await;
        scene.is_whole(3).await;
        scene.ask_for(1).await;
        scene.close().await;
    });
}
