//! What a program keeps does not grow for ever: offsets, checkpoints, intervals that were missed.

use std::path::{Path, PathBuf};

use dstreams::agg::{count, sum};
use dstreams::{Clients, StreamContext};
use dstreams_client::{Client, Options};

use crate::program::{INTERVAL, Program, block_on, small, until};

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

/// The files of the newest checkpoint, whose batch is `batch` or later, with their bytes.
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
        until("a checkpoint of the last batch", || {
            checkpoint(&dir.0).is_some_and(|checkpoint| checkpoint.batch >= 900)
        })
        .await;
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
        let mut largest = Vec::new();
        for batch in 1..=16u64 {
            live.batch().await;
            until("a checkpoint of each batch", || {
                checkpoint(&dir.0).is_some_and(|checkpoint| checkpoint.batch >= batch * 100)
            })
            .await;
            let mut states = states(&dir.0);
            states.retain(|(name, _)| !name.ends_with("offsets"));
            largest.push(states.into_iter().map(|(_, bytes)| bytes).max());
        }
        // One checkpoint has the keys, and no other writes them again: its file stays as it is.
        let whole = largest.iter().flatten().max().unwrap();
        let first = largest
            .iter()
            .position(|largest| largest == &Some(*whole))
            .unwrap();
        assert!(*whole > 4000 && first >= 3, "{largest:?}");
        let found = states(&dir.0);
        let files = found.iter().filter(|(_, bytes)| bytes == whole);
        let number = format!("state-{:020}-0", first + 1);
        assert_eq!(
            files.map(|(name, _)| name).collect::<Vec<_>>(),
            [&number],
            "{found:?}"
        );
        live.running.stop(true, None).await.unwrap();
    });
}
