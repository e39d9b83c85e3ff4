//! Kills during setting a batch aside on a cluster: each record is committed once or set aside once, and the state is
//! that of the committed records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dstreams::agg::count;
use dstreams::{BatchTime, Clients, Config, DStream, OnFailure, StreamContext};
use dstreams_client::{Client, Options};
use dstreams_cluster::Master;

use crate::killed::{Files, batches, batches_more, free_address, new_dir};
use crate::process::{How, Process, be_worker, master_options};
use crate::program::{block_on, until};

/// Environment variable with the program's directory and the master's address.
const PLACE: &str = "DSTREAMS_TEST_ASIDE";
const WORKERS: usize = 3;
const INTERVAL: Duration = Duration::from_millis(500);

/// Outputs lines, and counts of their first words; if `strict`, panics on `bad` after states have changed.
fn described(dir: &Path, strict: bool) -> dstreams::Result<(StreamContext, DStream<String>)> {
    let mut config = Config::new(INTERVAL);
    config.threads = 2;
    config.rows_per_task = 2;
    config.checkpoint_every = 4;
    config.on_failure = OnFailure::SetAside;
    let mut ctx = StreamContext::with_config(config)?;
    let lines = ctx.clients::<String>("lines", &Clients::listen("127.0.0.1:0"));
    let [to_lines, to_totals] = ["lines", "totals"].map(|output| {
        let dir = dir.join(output);
        std::fs::create_dir_all(&dir).unwrap();
        Files(dir)
    });
    lines.sink("lines", to_lines);
    let words = lines.map::<String>(|line| line.split(' ').next().unwrap_or("").to_owned());
    let totals = words.keyed().running_agg("totals", count())?;
    let totals = totals.all().pairs().map::<(String, i64)>(move |(word, n)| {
        assert!(!strict || word != "bad", "a bad word");
        (word.to_owned(), n)
    });
    totals.sink("totals", to_totals);
    Ok((ctx, lines))
}

fn kept(dir: &Path) -> dstreams::Result<StreamContext> {
    let mut ctx = described(dir, true)?.0;
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
    block_on(async {
        dstreams_cluster::logs::to_stderr();
        let mut options = master_options();
        options.listen = listen.into();
        options.workers = WORKERS;
        options.partitions = Some(3);
        let master = Master::listen(kept(Path::new(dir)).unwrap(), options);
        let cluster = master.await.unwrap().start().await.unwrap();
        let running = &cluster.running;
        running
            .run_until_signal(Duration::from_secs(60))
            .await
            .unwrap();
    });
}

/// Not a test: a worker.
#[test]
#[ignore = "a process of other tests"]
fn a_worker() {
    let place = std::env::var(PLACE).unwrap_or_default();
    be_worker(|| kept(Path::new(&place)).unwrap());
}

struct Cluster {
    dir: PathBuf,
    address: String,
    master: Option<Child>,
    workers: Vec<Process>,
    sent: Vec<String>,
}

impl Cluster {
    fn new() -> Self {
        Cluster {
            dir: new_dir(),
            address: free_address(),
            master: None,
            workers: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Replaces the master by one with this environment variable, and adds missing workers.
    fn start(&mut self, (variable, value): (&str, &str)) {
        self.kill_master();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = "set_aside_killed::the_master";
        let master = command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(PLACE, format!("{}|{}", self.dir.display(), self.address))
            .env(variable, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        self.master = Some(master.spawn().unwrap());
        while self.workers.len() < WORKERS {
            let how = How {
                place: Some((PLACE, self.dir.display().to_string())),
                ..How::default()
            };
            let worker = Process::start("set_aside_killed::a_worker", &self.address, &how);
            self.workers.push(worker);
        }
    }

    fn kill_master(&mut self) {
        if let Some(mut master) = self.master.take() {
            let _ = master.kill();
            master.wait().unwrap();
        }
    }

    /// Sends lines that begin with these words, and waits for their acknowledgement.
    async fn send(&mut self, words: &str) {
        let mut options = Options::default();
        options.retry.tries = u32::MAX;
        options.retry.longest_pause = Duration::from_millis(200);
        let client = loop {
            match Client::connect(self.address.clone(), options.clone()).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let mut lines = client.lines("lines").await.unwrap();
        for word in words.split(' ') {
            let line = format!("{word} {}", self.sent.len());
            lines.send(&line).await.unwrap();
            self.sent.push(line);
        }
        lines.finish().await.unwrap();
    }

    /// The batches that were set aside.
    fn set_aside(&self) -> Vec<u64> {
        let failed = std::fs::read_dir(self.dir.join("state/failed"));
        let names = failed.into_iter().flatten();
        let names = names.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let batches = names.filter_map(|name| name.strip_prefix("batch=")?.parse().ok());
        batches.collect()
    }

    /// Sends a bad line, and waits until the master has crashed at this point.
    async fn crash_master_at(&mut self, point: &str) {
        let crashed = self.dir.join("crashed");
        let plan = format!("{point}@{}", crashed.display());
        self.start(("DSTREAMS_CRASH_AT", &plan));
        self.send("a b a").await;
        batches_more(&self.dir, 1).await;
        self.send("b bad a").await;
        let master = self.master.as_mut().unwrap();
        until("the crash", || master.try_wait().unwrap().is_some()).await;
        std::fs::remove_file(crashed).expect("the planned crash");
    }

    /// Sends a bad line; kills a worker once `now` holds, while the master pauses at that point.
    async fn kill_worker_at(&mut self, pause: &str, now: impl Fn(&Self, usize) -> bool) {
        self.start(("DSTREAMS_PAUSE_AT", pause));
        self.send("a b a").await;
        batches_more(&self.dir, 1).await;
        let before = self.set_aside().len();
        // Blocks of several workers.
        for words in ["b bad a", "c", "c a", "b"] {
            self.send(words).await;
        }
        until("the moment", || now(self, before)).await;
        drop(self.workers.remove(0));
        until("its batch", || self.set_aside().len() > before).await;
        batches_more(&self.dir, 2).await;
    }

    /// Stops the program and checks all of its output.
    fn finish(mut self) {
        let mut master = self.master.take().unwrap();
        let signalled = Command::new("kill").arg(master.id().to_string()).status();
        assert!(signalled.unwrap().success());
        assert!(master.wait().unwrap().success(), "it ended badly");
        let mut found = Vec::new();
        let mut counts = BTreeMap::<String, i64>::new();
        let totals = batches(&self.dir.join("totals"));
        for (batch, lines) in batches(&self.dir.join("lines")) {
            for line in lines.lines().filter(|line| !line.is_empty()) {
                let word = line.split(' ').next().unwrap();
                *counts.entry(word.to_owned()).or_default() += 1;
                found.push(line.to_owned());
            }
            let wanted = counts.iter().map(|(word, n)| format!("{word}={n}"));
            let mut of_batch: Vec<_> = totals[&batch].lines().filter(|it| !it.is_empty()).collect();
            of_batch.sort_unstable();
            assert_eq!(of_batch, wanted.collect::<Vec<_>>(), "batch {batch}");
        }
        assert!(!counts.contains_key("bad"), "{counts:?}");
        let aside = self.set_aside();
        for batch in &aside {
            let (ctx, lines) = described(&self.dir, false).unwrap();
            let mut output = lines.collect();
            let replay = ctx.replay(self.dir.join("state"), BatchTime(*batch));
            block_on(replay).unwrap();
            while let Some(rdd) = output.try_recv() {
                found.extend(rdd.collect().unwrap());
            }
        }
        found.sort();
        self.sent.sort();
        assert_eq!(found, self.sent, "{aside:?} are set aside");
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_master();
    }
}

/// Before the first block is fetched; after the records are written but not announced; and after they count as set
/// aside, while the state still has the batch's changes.
#[test]
fn the_master_is_killed_while_a_batch_is_set_aside() {
    let mut cluster = Cluster::new();
    block_on(async {
        for (set_aside, point) in (1..).zip(["aside:block#1", "aside:files#1", "aside:written#1"]) {
            cluster.crash_master_at(point).await;
            cluster.start(("DSTREAMS_NOTHING", ""));
            until("its batch", || cluster.set_aside().len() == set_aside).await;
            batches_more(&cluster.dir, 1).await;
        }
        cluster.send("a bad").await;
        until("its batch", || cluster.set_aside().len() == 4).await;
        batches_more(&cluster.dir, 1).await;
    });
    cluster.finish();
}

/// While blocks are fetched; and while workers rebuild the state.
#[test]
fn a_worker_is_killed_while_a_batch_is_set_aside() {
    let mut cluster = Cluster::new();
    block_on(async {
        let being_written = |cluster: &Cluster, _: usize| {
            let failed = std::fs::read_dir(cluster.dir.join("state/failed"));
            let mut names = failed
                .into_iter()
                .flatten()
                .map(|it| it.unwrap().file_name());
            names.any(|name| name.to_str().unwrap().starts_with(".batch="))
        };
        cluster
            .kill_worker_at("aside:block=700", being_written)
            .await;
        let announced = |cluster: &Cluster, before: usize| cluster.set_aside().len() > before;
        cluster.kill_worker_at("aside:again=700", announced).await;
    });
    cluster.finish();
}
