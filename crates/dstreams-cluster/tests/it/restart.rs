//! A program on a cluster with a state directory: its master, its workers, or all of them are killed at any moment and
//! restarted, and its batches are those of a run without faults.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use dstreams::StreamContext;
use dstreams_cluster::{ClusterStatus, Master};

use crate::killed::{batches_more, check, free_address, new_dir, program, send};
use crate::process::{How, Process, be_worker, master_options};
use crate::program::{block_on, soon};
use crate::rng::Rng;

/// Environment variable with the program's directory and the master's address.
const PLACE: &str = "DSTREAMS_TEST_KEPT";
/// Environment variable with the number of standbys of each partition.
const STANDBYS: &str = "DSTREAMS_TEST_STANDBYS";
/// Environment variable with the seconds that a worker may be silent.
const SILENCE: &str = "DSTREAMS_TEST_SILENCE";
/// Environment variable of a standby: the length of its lease in seconds.
const LEASE: &str = "DSTREAMS_TEST_LEASE";
const WORKERS: usize = 3;
/// Exit code of the master's process when the program has failed.
pub const FAILED: i32 = 3;
/// Long enough for a debug build to catch up with intervals of downtime: a batch takes a second where two cores run two
/// of these tests.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// How often a master is started until it reaches a point at which it crashes, and how long one may take.
const STARTS: usize = 8;
const LONG: Duration = Duration::from_secs(300);
/// Clients connect to the addresses of the workers, not to this one.
const ANYWHERE: &str = "127.0.0.1:0";

fn kept(dir: &Path) -> dstreams::Result<StreamContext> {
    let mut ctx = program(dir, ANYWHERE, INTERVAL)?;
    ctx.persist_in(dir.join("state"));
    Ok(ctx)
}

/// Not a test: the master, until it is killed or stopped.
#[test]
#[ignore = "a process of other tests"]
fn the_master() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let (dir, listen) = place.split_once('|').unwrap();
    let ended: dstreams::Result<()> = block_on(async {
        dstreams_cluster::logs::to_stderr();
        let mut options = master_options();
        options.listen = listen.into();
        options.workers = WORKERS;
        options.partitions = Some(3);
        if let Ok(seconds) = std::env::var(SILENCE) {
            options.silence = Duration::from_secs(seconds.parse().unwrap());
        }
        if let Ok(standbys) = std::env::var(STANDBYS) {
            options.standbys = standbys.parse().unwrap();
        }
        let program = kept(Path::new(dir))?;
        let master = match std::env::var(LEASE) {
            Ok(seconds) => {
                options.lease = Duration::from_secs(seconds.parse().unwrap());
                Master::stand_by(program, options).await?
            }
            Err(_) => Some(Master::listen(program, options).await?),
        };
        let Some(master) = master else {
            return Ok(());
        };
        let cluster = master.start().await?;
        let running = &cluster.running;
        let summary = running.run_until_signal(LONG).await?;
        assert_eq!(
            summary.unfinished, 0,
            "batches are left for the next process"
        );
        Ok(())
    });
    if let Err(error) = ended {
        eprintln!("the master: {error}");
        std::process::exit(FAILED);
    }
}

/// Not a test: a worker.
#[test]
#[ignore = "a process of other tests"]
fn a_worker() {
    let place = std::env::var(PLACE).unwrap_or_default();
    be_worker(|| kept(Path::new(&place)).unwrap());
}

/// A master and its workers.
pub struct Cluster<'a> {
    dir: &'a Path,
    address: String,
    master: Child,
    pub workers: Vec<Process>,
    /// How long the master tolerates a silent worker, and workers a silent master, in seconds.
    pub silence: Option<u64>,
    pub standbys: Option<usize>,
    patience: Option<u64>,
}

impl<'a> Cluster<'a> {
    fn start(dir: &'a Path, address: String) -> Self {
        let mut cluster = Cluster {
            dir,
            master: master((dir, &address), (None, None), None, None),
            address,
            workers: Vec::new(),
            silence: None,
            standbys: None,
            patience: None,
        };
        cluster.add_workers();
        cluster
    }

    pub fn add_workers(&mut self) {
        while self.workers.len() < WORKERS {
            self.add_worker(None);
        }
    }

    fn add_worker(&mut self, crash_at: Option<&str>) {
        let how = How {
            crash_at: crash_at.map(|point| format!("{point}@{}", self.crashed().display())),
            patience: self.patience,
            ..How::default()
        };
        self.workers.push(worker(self.dir, &self.address, how));
    }

    fn crashed(&self) -> PathBuf {
        self.dir.join("crashed")
    }

    /// Crashes a master at a point. It passes the points of its start only if there is something to do, e.g. to replay;
    /// if not, another one is started. It is not killed before it reaches one of the others: each master would begin
    /// further behind, and no checkpoint would cover all that is in a file of the journal.
    async fn crash_master(&mut self, point: &str) {
        for _ in 0..STARTS {
            self.kill_master();
            self.start_master(Some(point));
            let (dir, at_start) = (self.dir, point.starts_with("restore:"));
            let started = async {
                match at_start {
                    true => batches_more(dir, 2).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = exit(&mut self.master) => {
                    std::fs::remove_file(self.crashed()).expect("the planned crash");
                    return;
                }
                () = started => {}
                () = tokio::time::sleep(LONG) => panic!("no master has reached {point} in {LONG:?}"),
            }
        }
        panic!("{STARTS} masters have not reached {point}");
    }

    /// Waits until a worker has ended at the planned point.
    async fn worker_crashed(&mut self) {
        let workers = &mut self.workers;
        let wait = async {
            while !workers.iter_mut().any(Process::has_ended) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the crash of a worker", wait).await;
    }

    pub fn kill_master(&mut self) {
        let _ = self.master.kill();
        self.master.wait().unwrap();
    }

    pub fn start_master(&mut self, crash_at: Option<&str>) {
        let options = (self.silence, self.standbys);
        self.master = master((self.dir, &self.address), options, crash_at, None);
    }

    fn signal_master(&self, name: &str) {
        let kill = Command::new("kill")
            .args(["-s", name, &self.master.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    pub async fn status(&self) -> ClusterStatus {
        status(&self.address).await.unwrap()
    }

    /// The master's process id, and its workers' numbers.
    async fn ask(&self) -> (u32, Vec<u32>) {
        let status = self.status().await;
        let workers = status.workers.iter().map(|worker| worker.id);
        (self.master.id(), workers.collect())
    }

    /// Waits for more batches of this process of the master.
    pub async fn goes_on(&mut self, more: usize) {
        let dir = self.dir;
        tokio::select! {
            () = batches_more(dir, more) => {}
            status = exit(&mut self.master) => panic!("the master has ended with {status}"),
        }
    }

    /// Waits until the master has crashed at the planned point.
    pub async fn master_crashes(&mut self) {
        soon("the crash of the master", exit(&mut self.master)).await;
        std::fs::remove_file(self.crashed()).expect("the planned crash");
    }

    /// Waits for more batches. If the master ends because state was lost with its workers, restarts it.
    pub async fn batches_more(&mut self, more: usize) {
        let dir = self.dir;
        let mut wait = Box::pin(batches_more(dir, more));
        loop {
            let tick = tokio::time::sleep(Duration::from_millis(20));
            tokio::select! {
                () = &mut wait => return,
                () = tick => {
                    if let Some(status) = self.master.try_wait().unwrap() {
                        println!("the master has ended with {status}");
                        self.add_workers();
                        self.start_master(None);
                    }
                }
            }
        }
    }

    fn stop(mut self) {
        let signalled = Command::new("kill")
            .arg(self.master.id().to_string())
            .status();
        assert!(signalled.unwrap().success());
        assert!(self.master.wait().unwrap().success(), "it ended badly");
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.kill_master();
    }
}

/// A worker of the program in this directory.
pub fn worker(dir: &Path, masters: &str, how: How) -> Process {
    let how = How {
        place: Some((PLACE, dir.display().to_string())),
        ..how
    };
    Process::start("restart::a_worker", masters, &how)
}

/// The status of the master at this address, if one answers.
pub async fn status(address: &str) -> Option<ClusterStatus> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut master = FlightServiceClient::new(endpoint.connect().await.ok()?);
    let status = master.do_action(Action::new("status", "")).await.ok()?;
    let status = status.into_inner().message().await.ok()??;
    Some(serde_json::from_slice(&status.body).unwrap())
}

/// Waits until a process has ended by itself, as long as that takes.
pub async fn exit(process: &mut Child) -> ExitStatus {
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A master, which leads at once, or is a standby with a lease of so many seconds.
pub fn master(
    (dir, address): (&Path, &str),
    (silence, standbys): (Option<u64>, Option<usize>),
    crash_at: Option<&str>,
    lease: Option<u64>,
) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "restart::the_master",
            "--nocapture",
            "--include-ignored",
        ])
        .env(PLACE, format!("{}|{address}", dir.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(silence) = silence {
        command.env(SILENCE, silence.to_string());
    }
    if let Some(standbys) = standbys {
        command.env(STANDBYS, standbys.to_string());
    }
    if let Some(lease) = lease {
        command.env(LEASE, lease.to_string());
    }
    if let Some(point) = crash_at {
        let plan = format!("{point}@{}", dir.join("crashed").display());
        command.env("DSTREAMS_CRASH_AT", plan);
    }
    command.spawn().unwrap()
}

/// Runs the program and a client while `trouble` kills parts of it; then checks the results.
pub async fn with_trouble(trouble: impl AsyncFnOnce(&mut Cluster<'_>)) {
    let (dir, address) = (new_dir(), free_address());
    let stop = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn(send(address.clone(), INTERVAL, Arc::clone(&stop)));
    let mut cluster = Cluster::start(&dir, address);
    trouble(&mut cluster).await;
    // By then it handles signals.
    cluster.batches_more(1).await;
    stop.store(true, Ordering::SeqCst);
    let sent = soon("the client", client).await.unwrap();
    cluster.stop();
    let batches = check(&dir, sent, INTERVAL);
    println!("{batches} batches, {sent} lines");
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_killed_cluster_resumes() {
    block_on(with_trouble(async |cluster| {
        cluster.batches_more(5).await;
        cluster.kill_master();
        cluster.start_master(None);
        cluster.batches_more(5).await;
        // Now nothing is left in memory.
        cluster.kill_master();
        cluster.workers.clear();
        cluster.start_master(None);
        cluster.add_workers();
        cluster.batches_more(5).await;
    }));
}

/// It stalls for longer than a worker may be silent, and for less than a master may.
#[test]
fn a_stalled_master_keeps_its_workers() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let (pause, patience) = (
        number("DSTREAMS_PAUSE").unwrap_or(3),
        number("DSTREAMS_PATIENCE"),
    );
    block_on(with_trouble(async |cluster| {
        cluster.kill_master();
        cluster.workers.clear();
        cluster.silence = Some(2);
        cluster.patience = Some(patience.unwrap_or(4 * pause));
        cluster.start_master(None);
        cluster.add_workers();
        cluster.batches_more(3).await;
        let before = cluster.ask().await;
        cluster.signal_master("STOP");
        tokio::time::sleep(Duration::from_secs(pause)).await;
        cluster.signal_master("CONT");
        cluster.batches_more(5).await;
        assert_eq!(cluster.ask().await, before, "the master, and its workers");
    }));
}

/// It waits for workers then, and does nothing that would fail.
#[test]
fn a_master_that_loses_its_directory_while_it_resumes_ends() {
    block_on(with_trouble(async |cluster| {
        cluster.batches_more(3).await;
        cluster.kill_master();
        cluster.workers.clear();
        for _ in 0..WORKERS {
            cluster.add_worker(Some("execute:task#1"));
        }
        cluster.start_master(None);
        // The first batch is replayed.
        cluster.worker_crashed().await;
        cluster.workers.clear();
        std::fs::remove_file(cluster.crashed()).expect("the planned crash");
        let [state, away] = ["state", "away"].map(|name| cluster.dir.join(name));
        std::fs::rename(&state, &away).unwrap();
        let ended = soon("the end of the master", exit(&mut cluster.master)).await;
        assert_eq!(ended.code(), Some(FAILED), "{ended}");
        std::fs::rename(&away, &state).unwrap();
        cluster.start_master(None);
        cluster.add_workers();
    }));
}

/// The master crashes at each of its crash points, and workers at theirs.
#[test]
fn a_cluster_that_crashes_at_any_point_resumes() {
    block_on(with_trouble(async |cluster| {
        cluster.batches_more(2).await;
        for point in [
            "journal:let-go#1",
            "batch:cut#2",
            "commit:begins#2",
            "commit:half#3",
            "commit:done#3",
            "checkpoint:written#1",
            "checkpoint:visible#1",
            "restore:replayed#1",
        ] {
            cluster.crash_master(point).await;
            cluster.start_master(None);
            cluster.batches_more(1).await;
        }
        for point in [
            "journal:written#20",
            "journal:synced#20",
            "replicate:told#20",
        ] {
            // All workers have the plan; the client's one crashes.
            cluster.kill_master();
            cluster.workers.clear();
            for _ in 0..WORKERS {
                cluster.add_worker(Some(point));
            }
            cluster.start_master(None);
            cluster.worker_crashed().await;
            // The others still have the plan.
            cluster.kill_master();
            cluster.workers.clear();
            std::fs::remove_file(cluster.crashed()).expect("the planned crash");
            cluster.add_workers();
            cluster.start_master(None);
            cluster.batches_more(1).await;
        }
    }));
}

/// `DSTREAMS_SEED=n` sets the seed, `DSTREAMS_KILLS=n` the number of kills.
#[test]
fn a_cluster_resumes_after_random_kills() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let kills = number("DSTREAMS_KILLS").unwrap_or(6);
    let seed = number("DSTREAMS_SEED").unwrap_or(u64::from(std::process::id()));
    println!("DSTREAMS_SEED={seed}");
    let mut random = Rng::new(seed);
    block_on(with_trouble(async |cluster| {
        for kill in 0..kills {
            cluster.batches_more(random.below(6) as usize).await;
            let moment = Duration::from_millis(random.below(400));
            tokio::time::sleep(moment).await;
            let victim = random.below(3);
            println!(
                "kill {kill}: {}",
                ["the master", "a worker", "all"][victim as usize]
            );
            match victim {
                0 => cluster.kill_master(),
                1 => drop(
                    cluster
                        .workers
                        .remove(random.below(WORKERS as u64) as usize),
                ),
                _ => {
                    cluster.kill_master();
                    cluster.workers.clear();
                }
            }
            cluster.add_workers();
            if victim != 1 {
                cluster.start_master(None);
            }
        }
    }));
}
