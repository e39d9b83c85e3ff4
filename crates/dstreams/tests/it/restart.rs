//! A program that is killed at any moment and restarted has the same batches as an undisturbed one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dstreams::StreamContext;

use crate::killed::{INTERVAL, batches_more, check, free_address, new_dir, program, send};
use crate::program::{block_on, soon, until};

/// Makes a test process be the program: the directory, and where clients send.
pub const PLACE: &str = "DSTREAMS_TEST_RESTART";
/// Not a test: the program, until it is killed or stopped.
#[test]
#[ignore = "a process of other tests"]
fn the_program() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let (dir, clients) = place.split_once('|').unwrap();
    let dir = Path::new(dir);
    be_the_program(dir, || program(dir, clients, INTERVAL));
}

/// Runs a program stored below `dir`, until this process is killed or stopped.
pub fn be_the_program(dir: &Path, app: impl FnOnce() -> dstreams::Result<StreamContext>) {
    let ended = block_on(async {
        let mut ctx = app()?;
        ctx.persist_in(dir.join("state"));
        let running = ctx.start().await?;
        running.run_until_signal(Duration::from_secs(30)).await
    });
    if let Err(error) = ended {
        eprintln!("the program: {error}");
        std::process::exit(3);
    }
}

/// A program in a process of its own.
pub struct Process(Child);

impl Process {
    fn start(dir: &Path, clients: &str, crash_at: Option<&str>) -> Self {
        let place = format!("{}|{clients}", dir.display());
        Process::start_as("restart::the_program", dir, &place, crash_at)
    }

    /// Starts this test binary again, to run only the test `test`, which finds `place`.
    pub fn start_as(test: &str, dir: &Path, place: &str, crash_at: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(PLACE, place)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(point) = crash_at {
            let plan = format!("{point}@{}", dir.join("crashed").display());
            command.env("DSTREAMS_CRASH_AT", plan);
        }
        Process(command.spawn().unwrap())
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        until("the end of the process", || self.ended().is_some()).await;
        self.0.wait().unwrap()
    }

    async fn crashed(&mut self, dir: &Path) {
        self.end().await;
        let file = dir.join("crashed");
        assert!(file.exists(), "the crash was not the planned one");
        std::fs::remove_file(file).unwrap();
    }

    /// Kill -9; it must be running.
    pub fn kill(&mut self) {
        let ended = self.ended();
        assert!(ended.is_none(), "it had ended by itself: {ended:?}");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Asks it to end, and waits for its success.
    pub fn stop(mut self) {
        let told = Command::new("kill").arg(self.0.id().to_string()).status();
        assert!(told.unwrap().success());
        assert!(self.0.wait().unwrap().success(), "it ended badly");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the program and a client while `trouble` kills it; then checks the outputs.
async fn with_trouble(trouble: impl AsyncFnOnce(&Path, &str) -> Process) {
    let (dir, clients) = (new_dir(), free_address());
    let stop = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn(send(clients.clone(), INTERVAL, Arc::clone(&stop)));
    let process = trouble(&dir, &clients).await;
    stop.store(true, Ordering::SeqCst);
    let sent = soon("the client", client).await.unwrap();
    process.stop();
    let batches = check(&dir, sent, INTERVAL);
    println!("{batches} batches, {sent} lines");
    // A file system may still be mounted in it.
    let _ = std::fs::remove_dir_all(dir);
}

/// Kills it so many times, at moments chosen by the seed.
fn killed(kills: u32, seed: u64) {
    println!("seed {seed}");
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    block_on(with_trouble(async |dir, clients| {
        let mut process = Process::start(dir, clients, None);
        for _ in 0..kills {
            batches_more(dir, below(4) as usize).await;
            tokio::time::sleep(Duration::from_micros(below(200_000))).await;
            process.kill();
            process = Process::start(dir, clients, None);
        }
        // It handles signals by then.
        batches_more(dir, 1).await;
        process
    }));
}

#[test]
fn a_killed_program_resumes() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let kills = number("DSTREAMS_KILLS").unwrap_or(34);
    let seed = number("DSTREAMS_SEED").unwrap_or(u64::from(std::process::id()));
    killed(kills as u32, seed);
}

/// It crashes at each point, early and late in its life, one process after the other in one directory.
#[test]
fn a_program_that_crashes_at_any_point_resumes() {
    block_on(with_trouble(async |dir, clients| {
        for point in [
            "journal:written#3",
            "journal:synced#40",
            "batch:cut#2",
            "batch:cut#9",
            "commit:begins#5",
            "commit:half#3",
            "commit:half#17",
            "commit:done#4",
            "checkpoint:written#1",
            "checkpoint:written#2",
            "checkpoint:visible#1",
            "checkpoint:visible#3",
            "journal:let-go#1",
            "journal:let-go#2",
        ] {
            let name = point.split('#').next().unwrap();
            assert!(dstreams::internal::POINTS.contains(&name));
            Process::start(dir, clients, Some(point)).crashed(dir).await;
        }
        // After a few batches without a checkpoint there is something to replay.
        let crashed = async |point| Process::start(dir, clients, Some(point)).crashed(dir).await;
        crashed("commit:done#2").await;
        crashed("restore:replayed#1").await;
        let process = Process::start(dir, clients, None);
        // Two more checkpoints: nothing unfinished is left.
        batches_more(dir, 8).await;
        let left = std::fs::read_dir(dir.join("state")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let hidden = left.filter(|name| name.starts_with('.')).count();
        assert!(hidden <= 1, "{hidden} checkpoints are being written");
        process
    }));
}

/// A small file system of its own at a directory, unmounted on drop.
pub struct Disk(pub PathBuf);

impl Disk {
    /// None where mounting is not allowed.
    pub fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=48k", "tmpfs"])
            .arg(at);
        let mounted = mount.stderr(Stdio::null()).status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Disk(at.to_owned()))
    }

    pub fn grow(&self) {
        let mut mount = Command::new("mount");
        let grown = mount.args(["-o", "remount,size=64m"]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Without room for the journal nothing is acknowledged and the program ends; with room it resumes.
#[test]
fn a_full_disk_ends_the_program_and_loses_nothing() {
    block_on(async {
        let mut disk = None;
        with_trouble(async |dir, clients| {
            disk = Disk::mount(&dir.join("state"));
            let Some(disk) = &disk else {
                println!("skipped: this user may not mount a file system");
                let process = Process::start(dir, clients, None);
                batches_more(dir, 1).await;
                return process;
            };
            let mut full = Process::start(dir, clients, None);
            assert_eq!(full.end().await.code(), Some(3), "how it ended");
            disk.grow();
            let process = Process::start(dir, clients, None);
            batches_more(dir, 3).await;
            process
        })
        .await;
    });
}
