//! The processes of a soak: the program, a master, workers and producers, each with its own log.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use dstreams::record::batch_of;
use dstreams_client::{Client, Options};
use dstreams_cluster::{Master, MasterOptions};

use super::program::{FILL, Shape};
use crate::killed::free_address;
use crate::process::be_worker;
use crate::program::block_on;

/// Environment variable with the program's shape.
const SHAPE: &str = "DSTREAMS_TEST_SOAK";
/// Environment variable with further parameters of a process.
const MORE: &str = "DSTREAMS_TEST_SOAK_MORE";
/// Exit code of a process whose program has failed.
pub const FAILED: i32 = 3;
/// Partitions of a cluster's state.
pub const PARTITIONS: usize = 6;
/// How long a graceful stop may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// Pause between two messages of a producer.
const PAUSE: Duration = Duration::from_millis(50);
/// Records per message of the producer that sends all keys.
const FILL_RECORDS: i64 = 4096;

/// A process of a soak.
pub struct Role {
    pub name: String,
    child: Child,
}

impl Role {
    /// Starts this test program again, to run the test `test` only.
    fn start(shape: &Shape, test: &str, name: String, settings: &[(&str, String)]) -> Self {
        let logs = shape.dir.join("logs");
        std::fs::create_dir_all(&logs).unwrap();
        let mut log = File::options();
        let log = log
            .create(true)
            .append(true)
            .open(logs.join(&name))
            .unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(SHAPE, shape.to_text())
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Role {
            name,
            child: command.spawn().unwrap(),
        }
    }

    /// The program on one machine.
    pub fn program(shape: &Shape, listen: &str, threads: usize) -> Self {
        let more = (MORE, format!("{threads}|{listen}"));
        Role::start(shape, "soak::roles::the_program", "program".into(), &[more])
    }

    pub fn master(shape: &Shape, listen: &str, workers: usize) -> Self {
        let more = (MORE, format!("{workers}|{listen}"));
        Role::start(shape, "soak::roles::the_master", "master".into(), &[more])
    }

    pub fn worker(shape: &Shape, master: &str, number: usize) -> Self {
        let settings = [
            ("DSTREAMS_TEST_MASTER", master.to_owned()),
            (MORE, (number % 2).to_string()),
        ];
        let name = format!("worker-{number}");
        Role::start(shape, "soak::roles::a_worker", name, &settings)
    }

    fn producer(shape: &Shape, to: &str, producer: i64, rate: u64) -> Self {
        let more = (MORE, format!("{producer}|{rate}|{to}"));
        let name = format!("producer-{producer}");
        Role::start(shape, "soak::roles::a_producer", name, &[more])
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.unwrap().success(), "{kill}");
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The producers: the first sends every key once, the others keys of [`key_of`](super::program::key_of) at a rate.
pub struct Feed {
    shape: Shape,
    to: String,
    rate: u64,
    next: i64,
    pub live: Vec<(i64, Role)>,
    /// Ended producers: producer, acknowledged records, sent records.
    over: Vec<(i64, i64, i64)>,
}

impl Feed {
    /// Starts `count` producers, each with `rate` records per second.
    pub fn start(shape: &Shape, to: &str, count: usize, rate: u64) -> Self {
        let mut feed = Feed {
            shape: shape.clone(),
            to: to.to_owned(),
            rate,
            next: FILL,
            live: Vec::new(),
            over: Vec::new(),
        };
        (0..=count).for_each(|_| feed.add());
        feed
    }

    fn add(&mut self) {
        let role = Role::producer(&self.shape, &self.to, self.next, self.rate);
        self.live.push((self.next, role));
        self.next += 1;
    }

    fn progress(&self, producer: i64) -> (i64, i64) {
        let mut bytes = [0; 16];
        let file = File::open(progress_file(&self.shape.dir, producer));
        // No file yet: nothing was sent.
        let _ = file.and_then(|file| file.read_exact_at(&mut bytes, 0));
        let number = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        (number(0), number(8))
    }

    /// Records the producers that have ended; all of their records must be acknowledged.
    pub fn look(&mut self) {
        let mut at = 0;
        while at < self.live.len() {
            let (producer, role) = &mut self.live[at];
            let producer = *producer;
            match role.ended() {
                Some(status) => {
                    assert!(status.success(), "producer {producer}: {status}");
                    let (acknowledged, sent) = self.progress(producer);
                    assert_eq!(acknowledged, sent, "producer {producer}");
                    self.over.push((producer, acknowledged, sent));
                    self.live.remove(at);
                }
                None => at += 1,
            }
        }
    }

    /// A producer that may be killed or stopped.
    pub fn any(&mut self, random: u64) -> &mut Role {
        let from = usize::from(self.live[0].0 == FILL);
        let at = from + random as usize % (self.live.len() - from);
        &mut self.live[at].1
    }

    /// Kills a producer; another takes its place.
    pub fn kill(&mut self, random: u64) {
        let pid = self.any(random).pid();
        let at = self.live.iter().position(|(_, role)| role.pid() == pid);
        let (producer, mut role) = self.live.remove(at.unwrap());
        role.kill();
        let (acknowledged, sent) = self.progress(producer);
        self.over.push((producer, acknowledged, sent));
        self.add();
    }

    /// Asks all producers to finish sending and to end.
    pub fn finish(&mut self) {
        std::fs::write(self.shape.dir.join("stop"), "").unwrap();
    }

    /// The records of each producer, once all have ended.
    pub fn sent(&self) -> &[(i64, i64, i64)] {
        assert!(self.live.is_empty());
        &self.over
    }
}

fn progress_file(dir: &Path, producer: i64) -> std::path::PathBuf {
    dir.join(format!("progress-{producer}"))
}

fn settings() -> Option<(Shape, String)> {
    let shape = std::env::var(SHAPE).ok()?;
    let more = std::env::var(MORE).unwrap_or_default();
    Some((Shape::from_text(&shape), more))
}

fn end_with(ended: dstreams::Result<()>) {
    if let Err(error) = ended {
        eprintln!("ended: {error}");
        std::process::exit(FAILED);
    }
}

/// Not a test: the program on one machine, until it is killed or stopped.
#[test]
#[ignore = "a process of other tests"]
fn the_program() {
    let Some((shape, more)) = settings() else {
        return;
    };
    dstreams_cluster::logs::to_stderr();
    let (threads, listen) = more.split_once('|').unwrap();
    end_with(block_on(async {
        let running = shape
            .open(listen, threads.parse().unwrap())?
            .start()
            .await?;
        running.run_until_signal(DEADLINE).await?;
        Ok(())
    }));
}

pub fn master_options(listen: &str, workers: usize) -> MasterOptions {
    let mut options = MasterOptions::default();
    options.listen = listen.into();
    options.workers = workers;
    options.partitions = Some(PARTITIONS);
    options.speculation = Some(dstreams_cluster::SpeculationConfig::default());
    options
}

/// Not a test: a master, until it is killed or stopped.
#[test]
#[ignore = "a process of other tests"]
fn the_master() {
    let Some((shape, more)) = settings() else {
        return;
    };
    dstreams_cluster::logs::to_stderr();
    let (workers, listen) = more.split_once('|').unwrap();
    end_with(block_on(async {
        let options = master_options(listen, workers.parse().unwrap());
        let master = Master::listen(shape.open("127.0.0.1:0", 2)?, options).await?;
        let cluster = master.start().await?;
        cluster.running.run_until_signal(DEADLINE).await?;
        Ok(())
    }));
}

/// Not a test: a worker.
#[test]
#[ignore = "a process of other tests"]
fn a_worker() {
    if let Some((shape, odd)) = settings() {
        let odd: usize = odd.parse().unwrap();
        be_worker(|| shape.open("127.0.0.1:0", 2 + odd).unwrap());
    }
}

/// Not a test: sends numbered records until the file `stop` exists; logs the numbers of sent and acknowledged ones.
#[test]
#[ignore = "a process of other tests"]
fn a_producer() {
    let Some((shape, more)) = settings() else {
        return;
    };
    let mut more = more.splitn(3, '|');
    let producer: i64 = more.next().unwrap().parse().unwrap();
    let rate: i64 = more.next().unwrap().parse().unwrap();
    let to = more.next().unwrap().to_owned();
    let mut file = File::options();
    let file = file.create(true).write(true).truncate(false);
    let file = file.open(progress_file(&shape.dir, producer)).unwrap();
    let log_progress = |at: u64, number: i64| file.write_all_at(&number.to_le_bytes(), at).unwrap();
    block_on(async {
        let mut options = Options::default();
        options.retry.tries = u32::MAX;
        options.retry.elapsed = Duration::MAX;
        options.retry.longest_pause = Duration::from_millis(500);
        let client = loop {
            match Client::connect(to.clone(), options.clone()).await {
                Ok(client) => break client,
                // The program does not listen yet.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let schema = <(i64, i64) as dstreams::Record>::schema();
        let mut events = client.batches("events", schema).await.unwrap();
        let paced = (rate * PAUSE.as_millis() as i64 / 1000).max(1);
        let mut sent = 0;
        loop {
            let more = match producer {
                FILL => FILL_RECORDS.min(shape.keys as i64 - sent),
                _ => paced,
            };
            if more == 0 || (producer != FILL && shape.dir.join("stop").exists()) {
                break;
            }
            let rows = (sent..sent + more).map(|at| (producer, at));
            sent += more;
            log_progress(8, sent);
            events.send(batch_of(rows).unwrap()).await.unwrap();
            log_progress(0, events.acknowledged() as i64);
            if producer != FILL {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let report = events.finish().await.unwrap();
        assert_eq!(report.records_acknowledged, sent as u64);
        log_progress(0, sent);
        eprintln!("{report:?}");
    });
}

/// An address for the program or its master.
pub fn address() -> String {
    free_address()
}
