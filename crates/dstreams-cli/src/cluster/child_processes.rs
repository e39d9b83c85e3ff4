//! [`Children`]: worker processes that this process starts and ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::error::WorkerEnd;
use crate::output::warn_from;

/// How long a worker tries to reconnect after its link broke: just long enough to see that this process
/// has ended.
const RETRY_FOR: &str = "2s";
/// How long workers may take to end by themselves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often processes are checked for their end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Worker processes that this process started. Dropping it kills those that still run, and waits for them.
pub struct Children {
    /// Of each, its process id, and whether it is to be killed.
    kill: Vec<(u32, Arc<AtomicBool>)>,
    start: WorkerCommand,
    ends: mpsc::UnboundedSender<WorkerEnd>,
    ended: mpsc::UnboundedReceiver<WorkerEnd>,
    left: usize,
    threads: Vec<JoinHandle<()>>,
}

/// How a worker is started.
struct WorkerCommand {
    master: String,
    cores: usize,
    token: Option<String>,
}

impl WorkerCommand {
    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["worker", "--json", "--master", &self.master])
            .args(["--cores", &self.cores.to_string(), "--retry", RETRY_FOR])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal must reach this process only, which ends its workers in order.
            .process_group(0);
        if let Some(token) = &self.token {
            command.env("DSTREAMS_TOKEN", token);
        }
        command.spawn()
    }
}

/// The line that a worker prints when it has joined.
#[derive(Deserialize)]
struct Joined {
    worker: u32,
}

impl Children {
    /// Starts `count` workers of the master at `master`, which share the cores of this machine.
    pub fn start(count: usize, master: &str, token: Option<&str>) -> Result<Self, Error> {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let (ends, ended) = mpsc::unbounded_channel();
        let mut children = Children {
            kill: Vec::new(),
            start: WorkerCommand {
                master: master.to_owned(),
                cores: (cores / count).max(1),
                token: token.map(str::to_owned),
            },
            ends,
            ended,
            left: 0,
            threads: Vec::new(),
        };
        for _ in 0..count {
            children.add()?;
        }
        Ok(children)
    }

    /// Starts one more worker.
    pub fn add(&mut self) -> Result<(), Error> {
        self.threads.retain(|thread| !thread.is_finished());
        // The thread of a process that has ended has dropped its half.
        self.kill.retain(|(_, kill)| Arc::strong_count(kill) > 1);
        let child = self.start.spawn().map_err(Error::Start)?;
        self.attend(child)
    }

    /// Kills a process (kill -9), if it is one of these.
    pub fn kill(&self, pid: u32) {
        let of = self.kill.iter().filter(|(of, _)| *of == pid);
        of.for_each(|(_, kill)| kill.store(true, Ordering::Relaxed));
    }

    /// Starts threads that forward a child's output and wait for its end.
    fn attend(&mut self, mut child: Child) -> Result<(), Error> {
        let (pid, ended) = (child.id(), self.ends.clone());
        let (number, kill) = (
            Arc::new(AtomicU32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let said = (child.stdout.take(), child.stderr.take());
        self.left += 1;
        self.kill.push((pid, Arc::clone(&kill)));
        let known = Arc::clone(&number);
        // The thread that can kill the child comes first: nothing may fail before it runs.
        self.thread(move || {
            let status = wait(&mut child, &kill);
            let worker = Some(known.load(Ordering::Relaxed)).filter(|number| *number > 0);
            if let Some(status) = status {
                let _ = ended.send(WorkerEnd {
                    pid,
                    worker,
                    status,
                });
            }
        })?;
        let (Some(output), Some(errors)) = said else {
            return Ok(());
        };
        let known = Arc::clone(&number);
        self.thread(move || note_number(output, &known))?;
        self.thread(move || pass_on(errors, &number, pid))
    }

    fn thread(&mut self, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new().name("child".to_owned());
        self.threads.push(thread.spawn(work).map_err(Error::Start)?);
        Ok(())
    }

    /// Whether `pid` is one of these processes.
    pub fn has(&self, pid: u32) -> bool {
        self.kill.iter().any(|(of, _)| *of == pid)
    }

    /// Number of processes that have not ended.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Waits for the next process to end; never returns if none is left. Cancel-safe.
    pub async fn ended(&mut self) -> WorkerEnd {
        match self.ended.recv().await {
            Some(ended) => {
                self.left -= 1;
                ended
            }
            None => std::future::pending().await,
        }
    }

    /// Waits a while for all to end by themselves; then kills the rest.
    pub async fn finish(mut self) {
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        while self.left > 0 && timeout_at(deadline, self.ended()).await.is_ok() {}
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (_, kill) in &self.kill {
            kill.store(true, Ordering::Relaxed);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits for the end of a process; kills it once `kill` is set.
fn wait(child: &mut Child, kill: &AtomicBool) -> Option<ExitStatus> {
    loop {
        if kill.load(Ordering::Relaxed) {
            // It may have ended meanwhile.
            let _ = child.kill();
            return child.wait().ok();
        }
        match child.try_wait() {
            Ok(None) => thread::sleep(POLL_INTERVAL),
            Ok(ended) => return ended,
            Err(_) => return None,
        }
    }
}

/// Reads a worker's output: its number, each time that it joins.
fn note_number(output: impl Read, number: &AtomicU32) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Ok(joined) = serde_json::from_str::<Joined>(&line) {
            number.store(joined.worker, Ordering::Relaxed);
        }
    }
}

/// Forwards a worker's warnings.
fn pass_on(errors: impl Read, number: &AtomicU32, pid: u32) {
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        match number.load(Ordering::Relaxed) {
            0 => warn_from(format_args!("worker of pid {pid}"), line),
            number => warn_from(format_args!("worker {number}"), line),
        }
    }
}
