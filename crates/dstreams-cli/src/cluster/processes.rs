//! [`ClusterProcesses`]: a program whose masters are child processes too, so that they can be killed like its workers.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use dstreams::BatchTime;
use dstreams_cluster::app::{Change, Members, Secret, ask};
use dstreams_cluster::{ClusterStatus, WorkerStatus};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::child_processes::{ChildCommand, Children, cores_of_each};
use super::signal::signal;
use crate::error::{ChildEnd, Error, Role};
use crate::output::warn;
use crate::program::{BatchLine, BatchResults, Program};

/// How long a worker looks for a master: much longer than a standby needs to take over.
const RETRY_FOR: &str = "30s";
/// How often the leader is asked for the status.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
/// How long the first master may take to lead, and the workers to join.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The most lines of masters that wait to be used; then their output waits, and so do their commits.
const MAX_LINES: usize = 16;

/// A leading master and a standby, and their workers.
pub struct ClusterProcesses {
    /// Dropped first: a thread that passes a line on may wait for it.
    output: mpsc::Receiver<(u32, MasterOutput)>,
    masters: Children,
    workers: Children,
    /// The address of each master, by process id.
    addresses: HashMap<u32, String>,
    /// The process that leads, once it has said so.
    leader: Option<u32>,
    /// Whether it has counted a batch.
    counts: bool,
    /// Masters that were killed here.
    killed: Vec<u32>,
    /// Their addresses, as soon as they have ended, until a standby is started there.
    vacant: Vec<String>,
    stops: bool,
    aborts: bool,
    /// The leader that was asked to stop.
    stopped: Option<Stopped>,
    /// The newest status, and the master that has answered.
    status: watch::Receiver<(u32, ClusterStatus)>,
    /// The leader and its address, for the task that asks it.
    asked: watch::Sender<Option<(u32, String)>>,
    /// The workers at the last look, and the master at that time: each master gives workers its own numbers.
    members: (u32, Members),
    newest: BatchTime,
    /// Ends with this.
    _asking: JoinSet<()>,
}

/// A master that was asked to stop.
struct Stopped {
    pid: u32,
    /// Whether the process has ended well, and whether all of its output was read.
    ended: bool,
    silent: bool,
}

/// Standard output of a master.
enum MasterOutput {
    Line(MasterLine),
    /// The output has ended.
    End,
}

/// A line of `dstreams master --json`.
#[derive(Deserialize)]
#[serde(untagged)]
enum MasterLine {
    Batch(BatchLine),
    Leads { master: String },
}

impl ClusterProcesses {
    /// Starts two masters, of which one stands by, and `count` workers; returns when all workers have joined.
    pub async fn start(program: &Program, count: u16, speculation: bool) -> Result<Self, Error> {
        let (count, token) = (usize::from(count), Secret::default().read()?);
        let (sender, output) = mpsc::channel(MAX_LINES);
        let on_line = move |pid: u32, line: Option<&str>| {
            let output = match line.map(serde_json::from_str) {
                Some(Ok(line)) => MasterOutput::Line(line),
                // Not about batches or masters.
                Some(Err(_)) => return,
                None => MasterOutput::End,
            };
            // Fails only when the demo is ending.
            let _ = sender.blocking_send((pid, output));
        };
        let command = ChildCommand {
            role: Role::Master,
            arguments: arguments(program, count, speculation),
            token: token.clone(),
        };
        let mut masters = Children::new(command, Arc::new(on_line));
        let mut addresses = HashMap::new();
        for address in free_addresses().map_err(Error::Start)? {
            addresses.insert(masters.add(&["--listen", &address])?, address);
        }
        let all: Vec<_> = addresses.values().cloned().collect();
        let command = ChildCommand::worker(&all.join(","), count, RETRY_FOR, token.clone());
        let mut workers = Children::new(command, Arc::new(|_, _| ()));
        for _ in 0..count {
            workers.add(&[])?;
        }
        let (asked, leader) = watch::channel(None);
        let (answers, status) = watch::channel(Default::default());
        let mut asking = JoinSet::new();
        asking.spawn(ask_leader(leader, answers, token));
        let mut cluster = ClusterProcesses {
            output,
            masters,
            workers,
            addresses,
            leader: None,
            counts: false,
            killed: Vec::new(),
            vacant: Vec::new(),
            stops: false,
            aborts: false,
            stopped: None,
            status,
            asked,
            members: Default::default(),
            newest: BatchTime(0),
            _asking: asking,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while cluster.status().workers.len() < count {
            cluster.step().await?;
            if Instant::now() > deadline {
                let late = "the workers have not all joined a master within a minute";
                return Err(Error::Start(std::io::Error::other(late)));
            }
        }
        Ok(cluster)
    }

    /// The addresses of the masters, for clients.
    pub fn addresses(&self) -> String {
        let all: Vec<_> = self.addresses.values().cloned().collect();
        all.join(",")
    }

    /// The workers started here that the newest leader knows.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.workers.among(self.status().workers)
    }

    /// The newest status of a leader.
    pub fn status(&self) -> ClusterStatus {
        self.status.borrow().1.clone()
    }

    /// The leader, once it has said so: its address and its process id.
    pub fn leader(&self) -> Option<(&str, u32)> {
        let pid = self.leader?;
        Some((self.addresses.get(&pid)?, pid))
    }

    /// The next batch; `None` when the program has ended. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<BatchResults>, Error> {
        loop {
            if let Some(stopped) = &self.stopped
                && stopped.ended
                && stopped.silent
            {
                return Ok(None);
            }
            if let Some(batch) = self.step().await? {
                return Ok(Some(batch));
            }
        }
    }

    /// Does what is due, then waits for the next thing to happen; a batch is returned. Cancel-safe.
    async fn step(&mut self) -> Result<Option<BatchResults>, Error> {
        self.report_changes();
        if self.stops {
            self.stop_leader();
        }
        if self.stopped.is_none() {
            if self.aborts {
                return Err(Error::Unfinished { unfinished: None });
            }
            if !self.stops || self.masters.left() == 0 {
                self.add_standbys()?;
            }
        }
        tokio::select! {
            Some((pid, output)) = self.output.recv() => return Ok(self.heard(pid, output)),
            ended = self.masters.ended() => self.master_ended(ended)?,
            ended = self.workers.ended() => {
                // Workers end with the program.
                if !self.stops || !ended.status.success() {
                    warn(&ended);
                    if self.workers.left() == 0 {
                        return Err(Error::NoneLeft(ended));
                    }
                }
            }
            () = sleep(ASK_INTERVAL) => {}
        }
        Ok(None)
    }

    fn report_changes(&mut self) {
        let (master, status) = &*self.status.borrow();
        if self.members.0 != *master {
            self.members = (*master, Members::default());
        }
        for change in self.members.1.changes(status) {
            // The end of a process is reported separately.
            if !matches!(change, Change::Gone { .. }) {
                warn(change);
            }
        }
    }

    fn heard(&mut self, pid: u32, output: MasterOutput) -> Option<BatchResults> {
        match output {
            MasterOutput::End => {
                let stopped = self.stopped.iter_mut().filter(|it| it.pid == pid);
                stopped.for_each(|it| it.silent = true);
            }
            MasterOutput::Line(MasterLine::Leads { master }) => {
                warn(format_args!("the master at {master} (pid {pid}) leads"));
                (self.leader, self.counts) = (Some(pid), false);
                self.asked.send_replace(Some((pid, master)));
            }
            MasterOutput::Line(MasterLine::Batch(line)) => {
                self.counts |= self.leader == Some(pid);
                let batch = BatchResults::from(line);
                // A new leader may repeat the last one of the leader before.
                if batch.batch > self.newest {
                    self.newest = batch.batch;
                    return Some(batch);
                }
            }
        }
        None
    }

    /// Starts a standby in the place of each master that was killed: once another one leads, since a new process would find
    /// the directory free before the standby looks at it again.
    fn add_standbys(&mut self) -> Result<(), Error> {
        if self.leader.is_none() && self.masters.left() > 0 {
            return Ok(());
        }
        for address in std::mem::take(&mut self.vacant) {
            let pid = self.masters.add(&["--listen", &address])?;
            self.addresses.insert(pid, address);
        }
        Ok(())
    }

    fn master_ended(&mut self, ended: ChildEnd) -> Result<(), Error> {
        let address = self.addresses.remove(&ended.pid);
        if self.leader == Some(ended.pid) {
            self.leader = None;
        }
        if let Some(at) = self.killed.iter().position(|pid| *pid == ended.pid) {
            self.killed.swap_remove(at);
            self.vacant.extend(address);
            return Ok(());
        }
        match &mut self.stopped {
            Some(stopped) if stopped.pid == ended.pid => match ended.status.code() {
                Some(0) => {
                    stopped.ended = true;
                    return Ok(());
                }
                // It has ended the program, and said why it is not complete.
                Some(_) => return Err(Error::Unfinished { unfinished: None }),
                // It was killed: its standby takes over.
                None => self.stopped = None,
            },
            // A standby, which ends with the program.
            Some(_) => return Ok(()),
            None => {}
        }
        warn(&ended);
        match self.masters.left() {
            0 if self.vacant.is_empty() => Err(Error::NoneLeft(ended)),
            _ => Ok(()),
        }
    }

    /// Has the leader end the program once the lines that were received are counted.
    pub fn stop(&mut self) {
        self.stops = true;
    }

    /// After [`stop`](Self::stop): has it end the program at once.
    pub fn abort(&mut self) {
        self.aborts = true;
        if let Some(stopped) = &self.stopped {
            signal(stopped.pid, "TERM");
        }
    }

    /// Asks the leader to stop, once it runs batches: before that, it would leave the program to its standby.
    fn stop_leader(&mut self) {
        if self.stopped.is_none()
            && self.runs()
            && let Some(pid) = self.leader
        {
            signal(pid, "TERM");
            self.stopped = Some(Stopped {
                pid,
                ended: false,
                silent: false,
            });
        }
    }

    /// Whether the leader is known to run batches: the status is its own.
    fn runs(&self) -> bool {
        let (pid, status) = &*self.status.borrow();
        status.runs && self.leader == Some(*pid)
    }

    /// Kills the worker that joined first, and starts another one; `None` if not all have joined.
    pub fn replace_worker(&mut self) -> Result<Option<WorkerStatus>, Error> {
        match self.runs() {
            true => super::replace_oldest(self.status().workers, &mut self.workers),
            false => Ok(None),
        }
    }

    /// Kills the leader, whose standby takes over, and returns its process id. `None` if there is no standby, or the leader has
    /// not counted a batch: otherwise no leader might ever catch up.
    pub fn kill_leader(&mut self) -> Option<u32> {
        let counts = self.counts && self.masters.left() > 1;
        let leader = self.leader.filter(|_| counts)?;
        self.leader = None;
        self.killed.push(leader);
        self.masters.kill(leader);
        Some(leader)
    }

    /// Whether another master stands by, or will do so soon.
    pub fn has_standby(&self) -> bool {
        self.masters.left() + self.vacant.len() > 1
    }

    /// Waits for the end of all processes.
    pub async fn finish(self) {
        drop(self.output);
        // Standbys that have not noticed the end of the program.
        self.addresses.keys().for_each(|pid| signal(*pid, "TERM"));
        self.masters.finish().await;
        self.workers.finish().await;
    }
}

/// Keeps asking the leader for its status.
async fn ask_leader(
    leader: watch::Receiver<Option<(u32, String)>>,
    answers: watch::Sender<(u32, ClusterStatus)>,
    token: Option<String>,
) {
    loop {
        sleep(ASK_INTERVAL).await;
        let leader = leader.borrow().clone();
        if let Some((pid, address)) = leader
            && let Ok(status) = ask(&address, token.clone()).await
        {
            answers.send_replace((pid, status));
        }
    }
}

/// The arguments of a master that stands by while another one leads.
fn arguments(program: &Program, workers: usize, speculation: bool) -> Vec<String> {
    // Without it, a standby would wait for all workers before the first checkpoint.
    let partitions = (cores_of_each(workers) * workers).clamp(2, 128);
    let mut arguments: Vec<String> = ["--standby", "--json"].map(str::to_owned).to_vec();
    arguments.extend(["--workers".to_owned(), workers.to_string()]);
    arguments.extend(["--partitions".to_owned(), partitions.to_string()]);
    arguments.extend(speculation.then(|| "--speculation".to_owned()));
    arguments.extend(program.times_and_places());
    arguments
}

/// Two ports of this machine that are free now. A standby opens its port when it takes over.
fn free_addresses() -> std::io::Result<[String; 2]> {
    // Both are taken at once, so that they differ.
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
    let (first, second) = (first?.local_addr()?, second?.local_addr()?);
    Ok([first.to_string(), second.to_string()])
}
