//! [`Children`]: workers and masters that this process starts and ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dstreams_cluster::WorkerStatus;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::error::{ChildEnd, Error, Role};
use crate::output::warn_from;

/// How long children may take to end by themselves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often processes are checked for their end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Processes of one role that this process started. Dropping it kills those that still run, and waits for them.
pub struct Children {
    /// Of each, its process id, and whether it is to be killed.
    kill: Vec<(u32, Arc<AtomicBool>)>,
    command: ChildCommand,
    on_line: OnLine,
    ends: mpsc::UnboundedSender<ChildEnd>,
    ended: mpsc::UnboundedReceiver<ChildEnd>,
    left: usize,
    threads: Vec<JoinHandle<()>>,
}

/// Called with the process id of a child and each line of its standard output; with `None` when that has ended.
pub type OnLine = Arc<dyn Fn(u32, Option<&str>) + Send + Sync>;

/// How children are started.
pub struct ChildCommand {
    pub role: Role,
    pub arguments: Vec<String>,
    pub token: Option<String>,
}

impl ChildCommand {
    /// Starts workers that join one of these masters. `count` of them share the cores of this machine. A worker that has
    /// lost its master looks for one for so long as `retry` says.
    pub fn worker(masters: &str, count: usize, retry: &str, token: Option<String>) -> Self {
        let cores = cores_of_each(count).to_string();
        let arguments = [
            "--json", "--master", masters, "--cores", &cores, "--retry", retry,
        ];
        ChildCommand {
            role: Role::Worker,
            arguments: arguments.map(str::to_owned).to_vec(),
            token,
        }
    }

    fn spawn(&self, more: &[&str]) -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(self.role.subcommand())
            .args(&self.arguments)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal must reach this process only, which ends its children in order.
            .process_group(0);
        if let Some(token) = &self.token {
            command.env("DSTREAMS_TOKEN", token);
        }
        command.spawn()
    }
}

/// The cores of each of several workers of this machine.
pub fn cores_of_each(workers: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    (cores / workers).max(1)
}

/// The line that a worker prints when it has joined.
#[derive(Deserialize)]
struct Joined {
    worker: u32,
}

impl Children {
    /// Starts no process yet.
    pub fn new(command: ChildCommand, on_line: OnLine) -> Self {
        let (ends, ended) = mpsc::unbounded_channel();
        Children {
            kill: Vec::new(),
            command,
            on_line,
            ends,
            ended,
            left: 0,
            threads: Vec::new(),
        }
    }

    /// Starts one more, with more arguments; returns its process id.
    pub fn add(&mut self, more: &[&str]) -> Result<u32, Error> {
        self.threads.retain(|thread| !thread.is_finished());
        // The thread of a process that has ended has dropped its half.
        self.kill.retain(|(_, kill)| Arc::strong_count(kill) > 1);
        let child = self.command.spawn(more).map_err(Error::Start)?;
        let pid = child.id();
        self.attend(child)?;
        Ok(pid)
    }

    /// Kills a process (kill -9), if it is one of these.
    pub fn kill(&self, pid: u32) {
        let of = self.kill.iter().filter(|(of, _)| *of == pid);
        of.for_each(|(_, kill)| kill.store(true, Ordering::Relaxed));
    }

    /// Starts threads that forward a child's output and wait for its end.
    fn attend(&mut self, mut child: Child) -> Result<(), Error> {
        let (pid, role, ended) = (child.id(), self.command.role, self.ends.clone());
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
                let _ = ended.send(ChildEnd {
                    role,
                    pid,
                    worker,
                    status,
                });
            }
        })?;
        let (Some(output), Some(errors)) = said else {
            return Ok(());
        };
        let (known, on_line) = (Arc::clone(&number), Arc::clone(&self.on_line));
        self.thread(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if role == Role::Worker {
                    note_number(&line, &known);
                }
                on_line(pid, Some(&line));
            }
            on_line(pid, None);
        })?;
        self.thread(move || pass_on(errors, role, &number, pid))
    }

    fn thread(&mut self, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new().name("child".to_owned());
        self.threads.push(thread.spawn(work).map_err(Error::Start)?);
        Ok(())
    }

    /// Those of the workers that are children.
    pub fn among(&self, workers: Vec<WorkerStatus>) -> Vec<WorkerStatus> {
        let workers = workers.into_iter();
        workers.filter(|worker| self.has(worker.pid)).collect()
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
    pub async fn ended(&mut self) -> ChildEnd {
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

/// Takes a worker's number from a line, each time that it joins.
fn note_number(line: &str, number: &AtomicU32) {
    if let Ok(joined) = serde_json::from_str::<Joined>(line) {
        number.store(joined.worker, Ordering::Relaxed);
    }
}

/// Forwards a child's warnings.
fn pass_on(errors: impl Read, role: Role, number: &AtomicU32, pid: u32) {
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        match number.load(Ordering::Relaxed) {
            0 => warn_from(format_args!("{role} of pid {pid}"), line),
            number => warn_from(format_args!("worker {number}"), line),
        }
    }
}
