//! The stored data of a program is bounded: offsets, checkpoints, missed intervals.

use std::path::Path;
use std::time::{Duration, Instant};

use dstreams::agg::{count, sum};
use dstreams::files::{Files, Format};
use dstreams::{Clients, DeadLetter, RddReceiver};
use dstreams_client::{Client, Options};

use crate::dir::Dir;
use crate::program::{INTERVAL, Live, Program, block_on, small};
use crate::receive_tcp::take;

/// An empty directory, removed at the end.
/// The files of checkpoints, with their bytes.
fn states(dir: &Path) -> Vec<(String, u64)> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let named = files.map(|file| (file.file_name().into_string().unwrap(), file.path()));
    let states = named.filter(|(name, _)| name.starts_with("state-"));
    let mut states: Vec<_> = states
        .filter_map(|(name, path)| Some((name, path.metadata().ok()?.len())))
        .collect();
    states.sort();
    states
}

fn checkpoint(dir: &Path) -> Option<dstreams::CheckpointInfo> {
    // Files of an older one may be deleted during the read.
    dstreams::inspect(dir).ok()?.checkpoint
}

/// Runs batches until there is a checkpoint of this one or a later one; returns its batch.
async fn checkpoint_of(live: &mut Live, dir: &Dir, batch: u64) -> u64 {
    for _ in 0..1000 {
        live.batch().await;
        match checkpoint(dir.path()) {
            Some(checkpoint) if checkpoint.batch >= batch => return checkpoint.batch,
            _ => {}
        }
    }
    panic!("no checkpoint of {batch}");
}

/// Each `dstreams send` is a producer of its own.
#[test]
fn offsets_of_producers_are_bounded() {
    let dir = &Dir::missing();
    block_on(async {
        let clients = Clients::listen("127.0.0.1:0");
        let mut config = small(1, 4, 8);
        (config.checkpoint_every, config.producers) = (1, 3);
        let mut program = Program::new(config);
        let lines = program.ctx.clients::<String>("lines", &clients);
        lines.for_each_rdd(|_| ());
        program.ctx.persist_in(dir.path());
        let mut live = program.start().await;
        let address = live.running.address("lines").unwrap().to_string();
        for _ in 0..9 {
            let client = Client::connect(address.clone(), Options::default());
            let mut sender = client.await.unwrap().lines("lines").await.unwrap();
            sender.send("a").await.unwrap();
            sender.finish().await.unwrap();
            live.batch().await;
        }
        checkpoint_of(&mut live, dir, 900).await;
        assert_eq!(checkpoint(dir.path()).unwrap().producers, 3);
        assert_eq!(live.running.status().forgotten_producers, 6);
        live.running.stop().await.unwrap();
    });
}

/// A program that reads the files of `in`, below its directory, and forgets deleted ones at once.
struct Reading {
    live: Live,
    lines: RddReceiver<String>,
    dead: RddReceiver<DeadLetter>,
    /// Intervals run so far, by it and the processes before it.
    batches: u32,
}

impl Reading {
    async fn start(dir: &Path, every: Duration, batches: u32) -> Self {
        let mut config = small(1, 4, 8);
        config.checkpoint_every = 1;
        let mut program = Program::after(batches, config);
        let files = Files::dir(dir.join("in"), Format::Text);
        let files = files.every(every).forget_after(Duration::ZERO);
        let lines = program.ctx.files::<String>("lines", files).unwrap();
        let (lines, dead) = (lines.collect(), program.ctx.dead_letters().collect());
        program.ctx.persist_in(dir.join("kept"));
        let live = program.start().await;
        Reading {
            live,
            lines,
            dead,
            batches,
        }
    }

    /// Stops it and starts it again. A stop makes its last batch ahead of the clock.
    async fn again(self, dir: &Path, every: Duration) -> Self {
        self.live.running.stop().await.unwrap();
        Reading::start(dir, every, self.batches + 1).await
    }

    /// Runs batches until there are so many lines, and a checkpoint has so many offsets; returns the lines.
    async fn until(&mut self, dir: &Path, lines: usize, offsets: usize) -> Vec<String> {
        let (mut all, mut dead) = (Vec::new(), Vec::new());
        for _ in 0..20_000 {
            self.batches += 1;
            self.live.batch().await;
            take(&mut self.lines, &mut all);
            take(&mut self.dead, &mut dead);
            tokio::time::sleep(Duration::from_millis(1)).await;
            if all.len() >= lines
                && checkpoint(&dir.join("kept")).is_some_and(|it| it.producers == offsets)
            {
                return all;
            }
        }
        panic!("{} lines, {:?}", all.len(), checkpoint(&dir.join("kept")));
    }
}

/// A file with one line, and `more`.
fn put(dir: &Path, name: &str, more: &[u8]) {
    let to = dir.join("in").join(name);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::write(dir.join("in/.new"), [name.as_bytes(), b"\n", more].concat()).unwrap();
    std::fs::rename(dir.join("in/.new"), to).unwrap();
}

/// Neither its own, nor that of its dead letters.
#[test]
fn offsets_of_deleted_files_are_forgotten() {
    let dir = Dir::missing();
    let dir = dir.path();
    let every = Duration::from_millis(1);
    block_on(async {
        (0..30).for_each(|n| put(dir, &format!("old/{n}"), b"\xff\n"));
        let mut reading = Reading::start(dir, every, 0).await;
        assert_eq!(reading.until(dir, 30, 60).await.len(), 30);
        std::fs::remove_dir_all(dir.join("in/old")).unwrap();
        (0..10).for_each(|n| put(dir, &format!("new/{n}"), b""));
        assert_eq!(reading.until(dir, 10, 10).await.len(), 10);
        // A reused name is a new file now.
        put(dir, "old/7", b"");
        assert_eq!(reading.until(dir, 1, 11).await, ["old/7"]);
        let mut reading = reading.again(dir, every).await;
        put(dir, "old/8", b"");
        assert_eq!(reading.until(dir, 1, 12).await, ["old/8"]);
        reading.live.running.stop().await.unwrap();
    });
}

/// A measurement: `DSTREAMS_FILES=100000 cargo test ... -- --ignored --nocapture many_small_files`.
#[test]
#[ignore = "a measurement"]
fn many_small_files() {
    let files = std::env::var("DSTREAMS_FILES").map_or(20_000, |files| files.parse().unwrap());
    let dir = Dir::missing();
    let dir = dir.path();
    let every = Duration::from_millis(500);
    for n in 0..files {
        put(dir, &format!("old/{}/{n}", n % 100), b"");
    }
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let times = stat.split(' ').skip(13).take(2);
        times
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum::<u64>()
            * 10
    };
    let size = || {
        states(&dir.join("kept"))
            .iter()
            .map(|(_, bytes)| bytes)
            .sum::<u64>()
    };
    block_on(async {
        let begun = Instant::now();
        let mut reading = Reading::start(dir, every, 0).await;
        let found = reading.until(dir, files, files).await.len();
        println!(
            "{found} of {files} files in {:?}; {} bytes of checkpoints",
            begun.elapsed(),
            size()
        );
        let before = cpu();
        tokio::time::sleep(Duration::from_secs(40)).await;
        println!("idle: {} ms of a processor in 40 s", cpu() - before);
        let begun = Instant::now();
        let mut reading = reading.again(dir, every).await;
        println!("started again in {:?}", begun.elapsed());
        put(dir, "new/one", b"");
        assert_eq!(reading.until(dir, 1, files + 1).await, ["new/one"]);
        println!("the first line after {:?}", begun.elapsed());
        std::fs::remove_dir_all(dir.join("in/old")).unwrap();
        (0..10).for_each(|n| put(dir, &format!("new/{n}"), b""));
        let begun = Instant::now();
        assert_eq!(reading.until(dir, 10, 11).await.len(), 10);
        println!(
            "forgotten after {:?}; {} bytes of checkpoints",
            begun.elapsed(),
            size()
        );
        reading.live.running.stop().await.unwrap();
    });
}

/// A state fed by a longer slide has an older version than the checkpoint's batch.
#[test]
fn an_idle_state_behind_a_longer_slide_is_not_written_again() {
    let dir = &Dir::missing();
    block_on(async {
        let mut config = small(1, 4, 8);
        config.checkpoint_every = 1;
        let mut program = Program::new(config);
        let (queue, words) = program.ctx.queue::<String>("words");
        let slide = INTERVAL * 4;
        let counts = words.keyed().window_agg(slide, slide, count()).unwrap();
        let totals = counts.pairs().by_key().running_agg("totals", sum::<i64>());
        totals.unwrap().changes().pairs().for_each_rdd(|_| ());
        program.ctx.persist_in(dir.path());
        let mut live = program.start().await;
        queue
            .push((0..500).map(|key| key.to_string()))
            .await
            .unwrap();
        let large = || {
            let states = states(dir.path()).into_iter();
            states
                .filter(|(_, bytes)| *bytes > 4000)
                .collect::<Vec<_>>()
        };
        // The window's first RDD is that of 400 ms; later ones have no keys.
        let first = checkpoint_of(&mut live, dir, 400).await;
        let whole = large();
        assert!(!whole.is_empty(), "{:?}", states(dir.path()));
        checkpoint_of(&mut live, dir, first + 1200).await;
        assert_eq!(
            large(),
            whole,
            "it was written again: {:?}",
            states(dir.path())
        );
        live.running.stop().await.unwrap();
    });
}

/// After a downtime each interval has its batch, as if the program had run all the time; waiting and stored batches
/// do not grow with the downtime, and a stop in the middle is not delayed by it.
#[test]
fn a_long_downtime_is_caught_up_with_gradually() {
    let dir = &Dir::missing();
    let intervals = 600u32;
    let program = |begun: Program| {
        let mut program = begun;
        let (queue, words) = program.ctx.queue::<String>("words");
        let window = INTERVAL * 20;
        let counts = words.keyed().window_agg(window, INTERVAL * 10, count());
        let (sender, batches) = std::sync::mpsc::channel();
        counts.unwrap().pairs().for_each_rdd(move |rdd| {
            let _ = sender.send((rdd.batch_time(), rdd.collect().unwrap()));
        });
        program.ctx.persist_in(dir.path());
        (program, queue, batches)
    };
    block_on(async {
        let config = || {
            let mut config = small(1, 4, 8);
            config.checkpoint_every = 10;
            config
        };
        let (first, queue, _batches) = program(Program::new(config()));
        let mut live = first.start().await;
        queue.push(["a".to_owned()]).await.unwrap();
        live.batch().await;
        live.running.abort().await.unwrap();

        // Stopped while it catches up: cut batches are done, the rest is for the next process.
        let (again, _queue, _seen) = program(Program::after(intervals, config()));
        let live = again.start().await;
        live.running.stop().await.unwrap();
        let found = dstreams::inspect(dir.path()).unwrap();
        assert!(found.journal.cut.len() < 60, "{found:?}");

        let (last, _queue, batches) = program(Program::after(intervals, config()));
        let mut live = last.start().await;
        let mut most = 0;
        loop {
            let batch = live.report().await.unwrap().batch;
            most = most.max(live.running.lineage().unwrap().batches.len());
            if batch.0 >= u64::from(intervals) * 100 {
                break;
            }
        }
        assert!(most < 100, "{most} batches are kept");
        live.running.stop().await.unwrap();
        let seen: Vec<(dstreams::BatchTime, Vec<(String, i64)>)> = batches.try_iter().collect();
        let times = seen.iter().map(|(batch, _)| batch.0 / 1000);
        let times: Vec<_> = times.collect();
        let from = times[0];
        assert!(from <= 7, "{times:?}");
        assert_eq!(times, (from..from + times.len() as u64).collect::<Vec<_>>());
        assert!(
            seen.iter()
                .all(|(batch, rows)| (batch.0 <= 2000) != rows.is_empty()),
            "{seen:?}"
        );
    });
}
