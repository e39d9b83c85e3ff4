//! A drained worker hands over its blocks and state before it leaves.

use std::process::Command;

use crate::process::How;
use crate::program::{block_on, soon, until};
use crate::scene::{Scene, Setup};

/// Runs `drain` of the example, as a user would; returns its output.
async fn drain(master: &str, worker: u32) -> Result<String, String> {
    let (program, master) = (crate::app::example(), master.to_owned());
    let run = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(program);
        command.args(["drain", "--master", &master, &worker.to_string()]);
        command.output().unwrap()
    });
    let output = soon("the drain", run).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

#[test]
fn a_drained_worker_leaves_without_loss() {
    block_on(async {
        let mut scene = Scene::open(Setup::local()).await;
        scene.is_whole(3).await;
        let nobody = drain(&scene.master, 77).await.unwrap_err();
        assert!(
            nobody.contains("no worker w77") || nobody.contains("no worker 77"),
            "{nobody}"
        );
        for left in [2, 1] {
            let leaving = scene.busiest();
            let said = drain(&scene.master, leaving.id).await.unwrap();
            assert!(
                said.contains(&format!("worker {} has left", leaving.id)),
                "{said}"
            );
            until("its end", || scene.process(leaving.pid).has_ended()).await;
            scene.workers_are(left).await;
            scene.batches(2).await;
        }
        let last = scene.busiest();
        let refused = drain(&scene.master, last.id).await.unwrap_err();
        assert!(refused.contains("start one first"), "{refused}");
        // Its state has no standby now. A new worker becomes the standby; then the last one may leave.
        scene.add(&How::default());
        scene.is_whole(2).await;
        drain(&scene.master, last.id).await.unwrap();
        scene.workers_are(1).await;
        scene.batches(2).await;
        scene.close().await;
    });
}
