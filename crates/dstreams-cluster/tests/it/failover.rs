//! Several masters of one program: one leads, the others stand by and take over, and all batches are those of a run without
//! faults.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::killed::{batches_more, check, free_address, new_dir, send};
use crate::process::{How, Process};
use crate::program::{block_on, soon};
use crate::restart::{FAILED, INTERVAL, exit, master, status, worker};

const MASTERS: usize = 3;
const WORKERS: usize = 3;
/// The length of a lease in seconds: two loaded cores may hold up a process of a debug build.
const LEASE: u64 = 4;
/// How often a master is asked whether it leads, or its process whether it has ended.
const PAUSE: Duration = Duration::from_millis(50);

/// The masters of a program, all started as standbys, and its workers.
struct Masters<'a> {
    dir: &'a Path,
    /// The address of each, and its process.
    all: Vec<(String, Child)>,
    workers: Vec<Process>,
}

impl<'a> Masters<'a> {
    fn start(dir: &'a Path, addresses: &[String]) -> Self {
        let all = addresses.iter();
        let all = all.map(|address| (address.clone(), standby(dir, address)));
        let mut masters = Masters {
            dir,
            all: all.collect(),
            workers: Vec::new(),
        };
        masters.add_workers();
        masters
    }

    fn add_workers(&mut self) {
        let addresses: Vec<&str> = self.all.iter().map(|(address, _)| &**address).collect();
        let addresses = addresses.join(",");
        while self.workers.len() < WORKERS {
            let worker = worker(self.dir, &addresses, How::default());
            self.workers.push(worker);
        }
    }

    /// Waits until a master other than `former` answers.
    async fn leader(&self, former: Option<usize>) -> usize {
        let wait = async {
            loop {
                for (at, (address, _)) in self.all.iter().enumerate() {
                    if Some(at) != former && status(address).await.is_some() {
                        return at;
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        soon("a master that leads", wait).await
    }

    fn signal(&self, at: usize, name: &str) {
        let pid = self.all[at].1.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success(), "kill -s {name} {pid}");
    }

    /// Kill -9, if it still runs. Returns how it ended.
    fn kill(&mut self, at: usize) -> ExitStatus {
        let process = &mut self.all[at].1;
        let _ = process.kill();
        process.wait().unwrap()
    }

    /// Starts another standby in the place of a master that has ended.
    fn restart(&mut self, at: usize) {
        let (address, process) = &mut self.all[at];
        *process = standby(self.dir, address);
    }

    async fn batches_more(&self, more: usize) {
        batches_more(self.dir, more).await;
    }
}

impl Drop for Masters<'_> {
    fn drop(&mut self) {
        for (_, process) in &mut self.all {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn standby(dir: &Path, address: &str) -> Child {
    master((dir, address), (None, None), None, Some(LEASE))
}

/// Runs the program and a client while `trouble` is made; then stops the master that leads, upon which all end, and checks the
/// results.
async fn with_masters(trouble: impl AsyncFnOnce(&mut Masters<'_>)) {
    let dir = new_dir();
    let addresses: Vec<String> = (0..MASTERS).map(|_| free_address()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn(send(addresses.join(","), INTERVAL, Arc::clone(&stop)));
    let mut masters = Masters::start(&dir, &addresses);
    trouble(&mut masters).await;
    masters.batches_more(1).await;
    let leader = masters.leader(None).await;
    stop.store(true, Ordering::SeqCst);
    let sent = soon("the client", client).await.unwrap();
    masters.signal(leader, "TERM");
    for (address, process) in &mut masters.all {
        let status = soon("the end of all masters", exit(process)).await;
        assert!(status.success(), "{address} has ended with {status}");
    }
    let batches = check(&dir, sent, INTERVAL);
    println!("{batches} batches, {sent} lines");
    drop(masters);
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_standby_goes_on_when_the_master_is_killed() {
    block_on(with_masters(async |masters| {
        let first = masters.leader(None).await;
        masters.batches_more(4).await;
        masters.kill(first);
        let second = masters.leader(Some(first)).await;
        masters.batches_more(3).await;
        // The master, and a worker with it.
        masters.kill(second);
        drop(masters.workers.remove(0));
        masters.restart(first);
        let third = masters.leader(Some(second)).await;
        masters.batches_more(3).await;
        println!("led by {first}, {second}, {third}");
        masters.restart(second);
    }));
}

/// A stopped master keeps its lock, its connections and its workers. Once continued, it must do no harm.
#[test]
fn a_standby_goes_on_when_the_master_is_stopped() {
    block_on(with_masters(async |masters| {
        let first = masters.leader(None).await;
        masters.batches_more(4).await;
        masters.signal(first, "STOP");
        let (_, second) = tokio::join!(masters.batches_more(4), masters.leader(Some(first)));
        masters.signal(first, "CONT");
        masters.batches_more(3).await;
        assert_eq!(masters.leader(Some(first)).await, second);
        // Whether it still has workers or not.
        let ended = soon(
            "the end of the replaced master",
            exit(&mut masters.all[first].1),
        )
        .await;
        assert_eq!(ended.code(), Some(FAILED), "{ended}");
        masters.restart(first);
    }));
}
