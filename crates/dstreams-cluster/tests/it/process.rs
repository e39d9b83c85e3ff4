//! Workers as processes, which can be killed.

use std::process::{Child, Command, Stdio};

use dstreams::StreamContext;
use dstreams_cluster::{WorkerOptions, run_worker};

/// Tells a test process to be a worker of this master.
const MASTER: &str = "DSTREAMS_TEST_MASTER";

/// A worker in a process of its own.
pub struct Process(Child);

impl Process {
    /// Starts this test program again, to run the test `test` only, which calls [`be_worker`].
    pub fn start(test: &str, master: &str, crash_at: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(MASTER, master)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(point) = crash_at {
            command.env("DSTREAMS_CRASH_AT", point);
        }
        Process(command.spawn().unwrap())
    }

    /// Kill -9.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a process that was started as a worker: is one until the program ends.
pub fn be_worker(build: impl Fn() -> StreamContext) -> bool {
    let Ok(master) = std::env::var(MASTER) else {
        return false;
    };
    dstreams_cluster::logs::to_stderr();
    let mut options = WorkerOptions::new(&master);
    options.cores = 1;
    options.retry = std::time::Duration::from_secs(5);
    if let Err(error) = run_worker(&options, &|_| Ok(build()), &|_, _| {}) {
        eprintln!("worker {}: {error}", std::process::id());
    }
    true
}
