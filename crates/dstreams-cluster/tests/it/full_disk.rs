//! Little memory for records and a full disk: backpressure on clients, and nothing is lost.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use dstreams_client::{Client, Options};

use crate::dir::Dir;
use crate::process::{How, master_options, start};
use crate::program::{block_on, soon, until};
use crate::scene::{OTHER, SMALLEST_MEMORY, Scene, Setup};
use crate::stateless;

/// Bytes of memory for records in each worker; half of it is for stored blocks.
const MEMORY: usize = 4 * SMALLEST_MEMORY;
/// Bytes of the disk: less than one worker wants to write, and less than two whole blocks.
const DISK: usize = SMALLEST_MEMORY * 3 / 2;
/// Number of lines of each flooding client, and bytes of each line.
const LINES_PER_CLIENT: usize = 2000;
const LINE_BYTES: usize = 1000;

/// A disk that fills up at once, if this process may mount one; else a directory that can be removed.
/// Removed when dropped.
struct Disk {
    dir: Dir,
    mounted: bool,
}

impl Disk {
    fn new() -> Self {
        let dir = Dir::new();
        let size = format!("size={DISK}");
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]);
        let mount = mount.arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        Disk { dir, mounted }
    }

    /// Makes writes fail from now on, if it is not a real disk.
    fn take_away(&self) {
        if !self.mounted {
            std::fs::remove_dir_all(self.dir.path()).unwrap();
        }
    }

    /// Whether there is no space for another whole block.
    fn is_full(&self) -> bool {
        if !self.mounted {
            return true;
        }
        let mut stat = Command::new("stat");
        let stat = stat.args(["-f", "-c", "%a %S"]).arg(self.dir.path());
        let said = String::from_utf8(stat.output().unwrap().stdout).unwrap();
        let mut free = said.split_whitespace().map(|n| n.parse::<usize>().unwrap());
        free.next().unwrap() * free.next().unwrap() < SMALLEST_MEMORY
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(self.dir.path())
                .status();
        }
    }
}

/// Sends as fast as possible to the first address that answers.
async fn flood(addresses: String, from: usize) {
    let client = Client::connect(addresses, Options::default())
        .await
        .unwrap();
    let mut lines = client.lines("lines").await.unwrap();
    for number in from..from + LINES_PER_CLIENT {
        let line = format!("{OTHER} {number} {}", "x".repeat(LINE_BYTES));
        lines.send(&line).await.unwrap();
    }
    lines.finish().await.unwrap();
}

/// Floods three workers with little memory at once; each has to store copies of another's blocks.
fn flooded(disk: Option<&Disk>) {
    let how = How {
        memory: Some(MEMORY),
        spill: disk.map(|disk| disk.dir.path().to_owned()),
        ..How::default()
    };
    block_on(async {
        let mut setup = Setup::local();
        setup.workers = vec![how; 3];
        setup.workers[0].spill = None;
        let scene = Scene::open(setup).await;
        scene.batches(2).await;
        if let Some(disk) = disk {
            disk.take_away();
        }
        let workers = scene.status().workers;
        let floods = workers.iter().zip((0..).step_by(LINES_PER_CLIENT));
        let floods: Vec<_> = floods
            .map(|(worker, from)| flood(format!("{},{}", worker.ingest, scene.master), from))
            .map(tokio::spawn)
            .collect();
        let mut was_full = false;
        let all = async {
            while !floods.iter().all(|flood| flood.is_finished()) {
                was_full |= disk.is_none_or(Disk::is_full);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        soon("the floods", all).await;
        for flood in floods {
            flood.await.unwrap();
        }
        assert!(was_full, "the disk was never full");
        // Space becomes free again after the flood.
        scene.acknowledged(50).await;
        until("all lines in batches", || {
            scene.others().len() >= 3 * LINES_PER_CLIENT
        })
        .await;
        let mut numbers: Vec<usize> = Vec::new();
        for line in scene.others() {
            numbers.push(line.split(' ').nth(1).unwrap().parse().unwrap());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..3 * LINES_PER_CLIENT).collect::<Vec<_>>());
        scene.close().await;
    });
}

#[test]
fn workers_with_little_memory_do_not_deadlock() {
    flooded(None);
}

/// The first worker's disk is not full, so it accepts more than the others can copy. Their space becomes
/// free with a batch, which must not wait for those copies.
#[test]
fn a_full_disk_slows_clients_down_and_loses_nothing() {
    flooded(Some(&Disk::new()));
}

#[test]
fn a_batch_waits_for_space_for_its_exchanges() {
    let disk = Disk::new();
    if !disk.mounted {
        let skipped = b"SKIPPED: no file system may be mounted on this machine\n";
        return std::io::stderr().write_all(skipped).unwrap();
    }
    block_on(async {
        let filler = disk.dir.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let found = Arc::default();
        let (ctx, queue) = stateless::program(&found);
        let mut options = master_options();
        options.partitions = Some(2);
        let how = How {
            exchanges: Some(disk.dir.path().to_owned()),
            ..How::default()
        };
        let of = (stateless::WORKER, &[how][..]);
        let (cluster, _workers, _) = start(ctx, options, of).await;
        queue.push(0..100).await.unwrap();
        // Time in which neither the batch nor the program may end.
        let ended = cluster
            .running
            .await_termination(Some(Duration::from_secs(1)));
        assert!(ended.await.unwrap().is_none());
        assert!(found.lock().unwrap().counts.is_empty());
        drop(file);
        std::fs::remove_file(&filler).unwrap();
        until("the batch", || found.lock().unwrap().counts.len() == 100).await;
        soon("the stop", cluster.running.stop()).await.unwrap();
    });
}
