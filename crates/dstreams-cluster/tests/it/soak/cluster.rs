//! Soak on a cluster: workers and the master are killed and stopped, workers join and drain, one fault at a time or two
//! that may overlap. Losing state with two workers at once may end the program while it resumes from its directory; then
//! it resumes again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use dstreams_cluster::{ClusterStatus, Master};
use tokio::runtime::Runtime;

use super::roles::{FAILED, PARTITIONS, Role, address, master_options};
use super::{PATIENCE, Soak};
use crate::program::{block_on, soon};

const INTERVAL: Duration = Duration::from_secs(1);
const WORKERS: usize = 3;
/// How long a master may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

struct Cluster {
    soak: Soak,
    address: String,
    master: Role,
    workers: Vec<Role>,
    /// Number of workers started so far.
    started: usize,
    /// Whether more was lost than a cluster survives while it resumes.
    may_end: bool,
    drains: Vec<Child>,
    runtime: Runtime,
}

impl Cluster {
    fn start() -> Self {
        let address = address();
        let soak = Soak::new("a cluster", INTERVAL, &address, 2);
        let mut cluster = Cluster {
            master: Role::master(&soak.shape, &address, WORKERS),
            soak,
            address,
            workers: Vec::new(),
            started: 0,
            may_end: false,
            drains: Vec::new(),
            runtime: Runtime::new().unwrap(),
        };
        (0..WORKERS).for_each(|_| cluster.add());
        cluster
    }

    fn add(&mut self) {
        let worker = Role::worker(&self.soak.shape, &self.address, self.started);
        self.started += 1;
        self.soak
            .say(format_args!("{} starts, pid {}", worker.name, worker.pid()));
        self.workers.push(worker);
        self.watch();
    }

    fn start_master(&mut self) {
        self.master = Role::master(&self.soak.shape, &self.address, WORKERS);
        self.soak
            .say(format_args!("a master starts, pid {}", self.master.pid()));
        self.watch();
    }

    fn watch(&self) {
        let mut live = vec![("master".to_owned(), self.master.pid())];
        let workers = self.workers.iter();
        live.extend(workers.map(|worker| ("workers".to_owned(), worker.pid())));
        self.soak.watch.live(live);
    }

    fn any_worker(&mut self) -> usize {
        let random = self.soak.random.next() >> 8;
        random as usize % self.workers.len()
    }

    fn status(&self) -> Option<ClusterStatus> {
        let ask = async {
            let address = format!("http://{}", self.address);
            let channel = tonic::transport::Endpoint::from_shared(address).ok()?;
            let mut master = FlightServiceClient::new(channel.connect().await.ok()?);
            let status = master.do_action(Action::new("status", "")).await.ok()?;
            let status = status.into_inner().message().await.ok()??;
            serde_json::from_slice(&status.body).ok()
        };
        let ask = async { tokio::time::timeout(ANSWER_TIMEOUT, ask).await.ok()? };
        self.runtime.block_on(ask)
    }

    fn tick(&mut self) {
        self.soak.tick();
        if let Some(status) = self.master.ended() {
            assert!(
                self.may_end && status.code() == Some(FAILED),
                "the master has ended: {status}"
            );
            self.soak.say("the master has ended, since state was lost");
            self.start_master();
        }
        self.drains.retain_mut(|drain| {
            let ended = drain.try_wait().unwrap();
            if let Some(status) = ended.filter(|status| !status.success()) {
                self.soak.say(format_args!("a drain failed: {status}"));
            }
            ended.is_none()
        });
    }

    fn pass(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.tick();
        }
    }

    fn batches_more(&mut self, more: u64) {
        let wanted = self.soak.check.batches + more;
        let begun = Instant::now();
        while self.soak.check.batches < wanted {
            assert!(
                begun.elapsed() < PATIENCE,
                "waited {PATIENCE:?} for batches: {:?}",
                self.status()
            );
            self.tick();
        }
    }

    /// Replaces ended workers, and waits until there are all workers and all copies.
    fn repair(&mut self) {
        let begun = Instant::now();
        loop {
            let mut at = 0;
            while at < self.workers.len() {
                match self.workers[at].ended() {
                    Some(status) => {
                        let worker = self.workers.remove(at);
                        self.soak
                            .say(format_args!("{} has ended: {status}", worker.name));
                    }
                    None => at += 1,
                }
            }
            while self.workers.len() < WORKERS {
                self.add();
            }
            let status = self.status();
            if let Some(status) = &status {
                let workers = status.workers.iter();
                let held: usize = workers.clone().map(|worker| worker.holds.len()).sum();
                let copied: usize = workers.clone().map(|worker| worker.stands_by.len()).sum();
                if workers.len() == self.workers.len() && held == PARTITIONS && copied == PARTITIONS
                {
                    break;
                }
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "waited {PATIENCE:?} for a whole cluster: {status:?}"
            );
            self.tick();
        }
        // By then, earlier blocks are released.
        self.batches_more(3);
        self.may_end = false;
        self.soak
            .say(format_args!("whole after {:.1?}", begun.elapsed()));
    }

    /// Asks for a drain. Returns whether the master knows the worker.
    fn drain(&mut self, pid: u32) -> bool {
        let Some(status) = self.status() else {
            self.soak.say("no drain: the master does not answer");
            return false;
        };
        let Some(worker) = status.workers.iter().find(|worker| worker.pid == pid) else {
            self.soak.say("no drain: the master does not know it");
            return false;
        };
        let mut command = Command::new(crate::app::example());
        command.args(["drain", "--master", &self.address, &worker.id.to_string()]);
        self.soak.say(format_args!("drains worker {}", worker.id));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.drains.push(command.spawn().unwrap());
        true
    }

    /// A join or a drain, possibly during another fault.
    fn move_a_worker(&mut self) {
        if self.soak.random.chance(500) {
            self.soak.fault("a worker joins", "");
            self.add();
        } else {
            let at = self.any_worker();
            let name = self.workers[at].name.clone();
            self.soak.fault("a worker is drained", name);
            self.add();
            self.drain(self.workers[at].pid());
        }
    }

    fn kill_a_worker(&mut self) {
        let at = self.any_worker();
        let mut worker = self.workers.remove(at);
        self.soak.fault("a worker is killed", &worker.name);
        worker.kill();
    }

    fn stop_a_worker(&mut self) {
        // After two seconds of silence it is given up.
        let (at, time) = (self.any_worker(), self.soak.up_to(5_000));
        let worker = &self.workers[at];
        let more = format!("{} for {time:?}", worker.name);
        worker.signal("STOP");
        self.soak.fault("a worker is stopped", more);
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.tick();
        }
        self.workers[at].signal("CONT");
    }

    /// The worker is given up and replaced, and another is lost, before it continues.
    fn stop_a_worker_for_long(&mut self) {
        let at = self.any_worker();
        let worker = self.workers.remove(at);
        worker.signal("STOP");
        let what = "a worker is stopped until another is lost";
        self.soak.fault(what, &worker.name);
        self.repair();
        self.kill_a_worker();
        let after = self.soak.up_to(2_000);
        self.pass(after);
        self.soak.say(format_args!("{} runs again", worker.name));
        worker.signal("CONT");
        self.workers.push(worker);
    }

    /// A second master in the same directory must be refused, and must change nothing.
    fn start_a_second_master(&mut self) {
        self.soak.fault("a second master starts", "");
        let mut second = Role::master(&self.soak.shape, "127.0.0.1:0", 1);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = second.ended() {
                break status;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "a second master runs in the directory of the first"
            );
            self.tick();
        };
        assert_eq!(status.code(), Some(FAILED), "a second master: {status}");
    }

    fn stop_the_master(&mut self) {
        let time = self.soak.up_to(10_000);
        self.soak
            .fault("the master is stopped", format_args!("for {time:?}"));
        self.master.signal("STOP");
        std::thread::sleep(time);
        self.master.signal("CONT");
    }

    fn kill_the_master(&mut self) {
        let away = self.soak.up_to(3_000);
        self.soak.fault(
            "the master is killed",
            format_args!("and away for {away:?}"),
        );
        self.master.kill();
        std::thread::sleep(away);
        self.start_master();
    }

    /// At most one loss at a time, or more if only the directory can save the program.
    fn one_fault(&mut self) {
        let quiet = self.soak.is_quiet();
        match self.soak.random.below(21) {
            0 | 1 => self.kill_a_worker(),
            2 => self.stop_a_worker_for_long(),
            3 | 4 => self.stop_a_worker(),
            5 => self.start_a_second_master(),
            6 => self.stop_the_master(),
            7 => {
                self.move_a_worker();
                let after = self.soak.up_to(2_000);
                self.pass(after);
                self.stop_the_master();
            }
            8..=10 => self.move_a_worker(),
            11 | 12 => {
                self.move_a_worker();
                let after = self.soak.up_to(3_000);
                self.pass(after);
                self.kill_a_worker();
            }
            13 | 14 if !quiet => self.kill_the_master(),
            15 if !quiet => {
                self.move_a_worker();
                let after = self.soak.up_to(2_000);
                self.pass(after);
                self.kill_the_master();
            }
            16 if !quiet => {
                self.may_end = true;
                let after = self.soak.up_to(1_000);
                self.kill_a_worker();
                std::thread::sleep(after);
                self.kill_a_worker();
            }
            17 if !quiet => {
                self.soak.fault("all are killed", "");
                self.master.kill();
                self.workers.clear();
                self.start_master();
                (0..WORKERS).for_each(|_| self.add());
            }
            18 if !quiet => {
                let patience = self.soak.random_patience();
                self.soak.ask_to_end(&mut self.master, patience);
                self.start_master();
            }
            _ => self.soak.trouble_a_producer(),
        }
    }

    fn run(&mut self) {
        self.repair();
        while !self.soak.is_over() {
            let pause = self.soak.up_to(3_000);
            self.pass(pause);
            self.one_fault();
            self.repair();
            while self.workers.len() > WORKERS {
                // Kills or drains the surplus workers that joined.
                match self.soak.random.chance(500) {
                    true => self.kill_a_worker(),
                    false => {
                        let at = self.any_worker();
                        let pid = self.workers[at].pid();
                        let name = self.workers[at].name.clone();
                        self.soak.fault("a worker is drained", name);
                        let asked = self.drain(pid);
                        let begun = Instant::now();
                        while asked && self.workers[at].ended().is_none() {
                            assert!(
                                begun.elapsed() < PATIENCE,
                                "waited {PATIENCE:?} for a drain: {:?}",
                                self.status()
                            );
                            self.tick();
                        }
                    }
                }
                self.repair();
            }
        }
        self.soak.feed.finish();
        let begun = Instant::now();
        while !self.soak.feed.live.is_empty() {
            assert!(
                begun.elapsed() < PATIENCE,
                "waited {PATIENCE:?} for the producers"
            );
            self.tick();
        }
        self.master.signal("TERM");
        let status = self.master.end();
        assert!(status.success(), "it ended badly: {status}");
    }
}

#[test]
fn counts_are_exact_under_faults_on_a_cluster() {
    let mut cluster = Cluster::start();
    cluster.run();
    cluster.soak.check.finish();
    cluster.soak.check_producers();
    cluster.workers.clear();
    let soak = &cluster.soak;
    block_on(async {
        let options = master_options(&cluster.address, 2);
        let ctx = soak.shape.open("127.0.0.1:0", 2).unwrap();
        let master = Master::listen(ctx, options).await.unwrap();
        let workers = [0, 1]
            .map(|number| Role::worker(&soak.shape, &cluster.address, cluster.started + number));
        let running = soon("the start", master.start()).await.unwrap();
        soak.check_state(&running.running).await;
        let stopped = running.running.stop();
        soon("the stop", stopped).await.unwrap();
        drop(workers);
    });
    cluster.soak.close();
}
