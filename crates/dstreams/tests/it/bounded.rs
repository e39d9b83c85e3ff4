//! What a program keeps does not grow for ever: offsets, checkpoints, intervals that were missed.

use std::path::{Path, PathBuf};

use dstreams::agg::{count, sum};
use dstreams::{Clients, StreamContext};
use dstreams_client::{Client, Options};

use crate::program::{INTERVAL, Live, Program, block_on, small};

/// An empty directory, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("dstreams-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

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
    // Files of an older one may go while this reads.
    dstreams::inspect(dir).ok()?.checkpoint
}

/// Runs batches until there is a checkpoint of this one or a later one; returns of which.
async fn checkpoint_of(live: &mut Live, dir: &Dir, batch: u64) -> u64 {
    for _ in 0..1000 {
        live.batch().await;
        match checkpoint(&dir.0) {
            Some(checkpoint) if checkpoint.batch >= batch => return checkpoint.batch,
            _ => {}
        }
    }
    panic!("no checkpoint of {batch}");
}

/// Each `dstreams send` is a producer of its own.
#[test]
fn offsets_of_producers_are_as_many_as_the_bound() {
    let dir = &Dir::new("producers");
    block_on(async {
        let clients = Clients::listen("127.0.0.1:0");
        let mut config = small(1, 4, 8);
        (config.checkpoint_every, config.producers) = (1, 3);
        let mut program = Program::new(config);
        let lines = program.ctx.clients::<String>("lines", &clients);
        lines.for_each_rdd(|_| ());
        let app = program.ctx;
        program.ctx = StreamContext::restore_or_new(&dir.0, || Ok(app)).unwrap();
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
        assert_eq!(checkpoint(&dir.0).unwrap().producers, 3);
        assert_eq!(live.running.status().forgotten_producers, 6);
        live.running.stop(true, None).await.unwrap();
    });
}

/// A state that is fed by a longer slide has an older version than the batch of a checkpoint.
#[test]
fn an_idle_state_behind_a_longer_slide_is_not_written_again() {
    let dir = &Dir::new("idle");
    block_on(async {
        let mut config = small(1, 4, 8);
        config.checkpoint_every = 1;
        let mut program = Program::new(config);
        let (queue, words) = program.ctx.queue::<String>("words");
        let slide = INTERVAL * 4;
        let counts = words.keyed().window_agg(slide, slide, count()).unwrap();
        let totals = counts.pairs().by_key().running_agg("totals", sum::<i64>());
        totals.unwrap().changes().pairs().for_each_rdd(|_| ());
        let app = program.ctx;
        program.ctx = StreamContext::restore_or_new(&dir.0, || Ok(app)).unwrap();
        let mut live = program.start().await;
        queue
            .push((0..500).map(|key| key.to_string()))
            .await
            .unwrap();
        let large = || {
            let states = states(&dir.0).into_iter();
            states
                .filter(|(_, bytes)| *bytes > 4000)
                .collect::<Vec<_>>()
        };
        // The first RDD of the window is that of 400 ms, and the later ones are without keys.
        let first = checkpoint_of(&mut live, dir, 400).await;
        let whole = large();
        assert!(!whole.is_empty(), "{:?}", states(&dir.0));
        checkpoint_of(&mut live, dir, first + 1200).await;
        assert_eq!(large(), whole, "it was written again: {:?}", states(&dir.0));
        live.running.stop(true, None).await.unwrap();
    });
}

/// After a downtime each interval has its batch, as if the program had run all the time; what waits and what is kept of
/// that does not grow with the time away, and a stop in the middle is not held up by it.
#[test]
fn a_long_downtime_is_caught_up_with_bit_by_bit() {
    let dir = &Dir::new("downtime");
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
        let app = program.ctx;
        program.ctx = StreamContext::restore_or_new(&dir.0, || Ok(app)).unwrap();
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
        live.running.stop(false, None).await.unwrap();

        // Stopped while it catches up: what was cut is done, and the rest is for the next process.
        let (again, _queue, _seen) = program(Program::after(intervals, config()));
        let live = again.start().await;
        live.running.stop(true, None).await.unwrap();
        let found = dstreams::inspect(&dir.0).unwrap();
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
        live.running.stop(true, None).await.unwrap();
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
