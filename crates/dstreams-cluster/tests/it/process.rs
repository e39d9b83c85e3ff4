//! Workers as separate processes, which can be killed, stopped and cut off.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dstreams::StreamContext;
use dstreams_cluster::{
    Master, MasterOptions, RunningCluster, SpeculationConfig, WorkerOptions, run_worker,
};

use crate::program::soon;

/// How long workers may be silent in tests of other things: two loaded cores may hold up a process of a debug build for
/// longer than the default.
pub const PATIENT: Duration = Duration::from_secs(10);

/// The defaults of a master, [`PATIENT`], and copies of slow tasks: they must change nothing anywhere.
pub fn master_options() -> MasterOptions {
    let mut options = MasterOptions::default();
    options.silence = PATIENT;
    options.speculation = Some(SpeculationConfig::default());
    options
}

/// Environment variable that makes a test process a worker of this master.
const MASTER: &str = "DSTREAMS_TEST_MASTER";
/// Environment variables with the options of a worker process.
const LISTEN: &str = "DSTREAMS_TEST_LISTEN";
const TOKEN: &str = "DSTREAMS_TEST_TOKEN";
const MEMORY: &str = "DSTREAMS_TEST_MEMORY";
const SPILL: &str = "DSTREAMS_TEST_SPILL";
const PATIENCE: &str = "DSTREAMS_TEST_PATIENCE";
const ADVERTISE: &str = "DSTREAMS_TEST_ADVERTISE";
const EXCHANGES: &str = "DSTREAMS_TEST_EXCHANGES";

/// The options of a worker; unset ones are the defaults of [`WorkerOptions`].
#[derive(Clone, Default)]
pub struct How {
    /// The point where it ends as if killed (`DSTREAMS_CRASH_AT`).
    pub crash_at: Option<String>,
    /// The point where it pauses, and for how many milliseconds: `NAME=MS`.
    pub pause_at: Option<String>,
    /// Its network namespace.
    pub namespace: Option<String>,
    /// The address on which it listens.
    pub listen: Option<String>,
    /// The address at which it is reached, if another.
    pub advertise: Option<String>,
    pub token: Option<String>,
    pub memory: Option<usize>,
    pub spill: Option<PathBuf>,
    /// In seconds.
    pub patience: Option<u64>,
    pub exchanges: Option<PathBuf>,
    /// A variable of its environment, for the test that it runs.
    pub place: Option<(&'static str, String)>,
}

/// A worker in a process of its own.
pub struct Process(Child);

impl Process {
    /// Starts this test program again, to run the test `test` only, which calls [`be_worker`].
    pub fn start(test: &str, master: &str, how: &How) -> Self {
        let tests = std::env::current_exe().unwrap();
        let mut command = match &how.namespace {
            // `ip` executes the program in its own process: the pid stays the same.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(tests);
                command
            }
            None => Command::new(tests),
        };
        command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(MASTER, master)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let options = [
            ("DSTREAMS_CRASH_AT", how.crash_at.clone()),
            ("DSTREAMS_PAUSE_AT", how.pause_at.clone()),
            (LISTEN, how.listen.clone()),
            (TOKEN, how.token.clone()),
            (MEMORY, how.memory.map(|bytes| bytes.to_string())),
            (PATIENCE, how.patience.map(|seconds| seconds.to_string())),
            (SPILL, path(&how.spill)),
            (EXCHANGES, path(&how.exchanges)),
            (ADVERTISE, how.advertise.clone()),
        ];
        for (name, value) in options {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some((name, place)) = &how.place {
            command.env(name, place);
        }
        Process(command.spawn().unwrap())
    }

    /// Kill -9.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Sends a signal, by its name.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.unwrap().success(), "{kill}");
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

/// Starts a program on a worker process for each of `how`, which runs the test `worker`; returns the master's address
/// too.
pub async fn start(
    ctx: StreamContext,
    mut options: MasterOptions,
    (worker, how): (&str, &[How]),
) -> (RunningCluster, Vec<Process>, String) {
    options.workers = how.len();
    let master = Master::listen(ctx, options).await.unwrap();
    let address = master.address().to_owned();
    let workers = how.iter().map(|how| Process::start(worker, &address, how));
    let workers = workers.collect();
    let cluster = soon("the workers", master.start()).await.unwrap();
    (cluster, workers, address)
}

/// In a process that was started as a worker: runs one until the program ends.
pub fn be_worker(build: impl Fn() -> StreamContext) -> bool {
    let option = |name| std::env::var(name).ok();
    let Some(master) = option(MASTER) else {
        return false;
    };
    dstreams_cluster::logs::to_stderr();
    let mut options = WorkerOptions::new(&master);
    options.cores = 1;
    options.listen = option(LISTEN).unwrap_or(options.listen);
    options.token = option(TOKEN);
    options.memory = option(MEMORY).map(|bytes| bytes.parse().unwrap());
    options.spill = option(SPILL).map(PathBuf::from);
    if let Some(seconds) = option(PATIENCE) {
        options.patience = Duration::from_secs(seconds.parse().unwrap());
    }
    options.exchanges = option(EXCHANGES).map(PathBuf::from);
    options.advertise = option(ADVERTISE);
    if let Err(error) = run_worker(&options, &|_| Ok(build()), &|_| {}) {
        eprintln!("worker {}: {error}", std::process::id());
    }
    true
}
