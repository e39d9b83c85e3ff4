//! A batch that fails permanently on a cluster is set aside with its records, and the program continues as if they had
//! never arrived, no matter which state they had changed on which worker.

use std::path::Path;

use dstreams::{BatchTime, Clients, Config, OnFailure, StreamContext};
use dstreams_client::{Client, Options};
use dstreams_cluster::RunningCluster;

use crate::bad_words::{Bad, INPUT, Pairs, Rows, build, drain, without_them};
use crate::dir::Dir;
use crate::program::{Live, Program, block_on, small};
use crate::workers::{Workers, cluster};

const PARTITIONS: usize = 3;

fn on_workers(mut ctx: StreamContext, dir: &Path, bad: Bad) -> (StreamContext, Pairs, Pairs) {
    let clients = Clients::listen("127.0.0.1:0");
    let (totals, counts) = build(&ctx.clients::<String>("words", &clients), bad);
    ctx.persist_in(dir);
    (ctx, totals, counts)
}

fn config(every: u32) -> Config {
    let mut config = small(2, 2, 4);
    config.checkpoint_every = every;
    config.on_failure = OnFailure::SetAside;
    config.attempts = 2;
    config
}

struct Running {
    live: Live<(RunningCluster, Workers)>,
    totals: Pairs,
    counts: Pairs,
}

impl Running {
    async fn start(dir: &Path, after: u32, every: u32, bad: Bad) -> Self {
        let mut program = Program::after(after, config(every));
        let (ctx, totals, counts) = on_workers(program.ctx, dir, bad);
        program.ctx = ctx;
        let dir = dir.to_owned();
        let build = move || {
            let ctx = StreamContext::with_config(config(every)).unwrap();
            on_workers(ctx, &dir, bad).0
        };
        let start = async |ctx| cluster(ctx, PARTITIONS, &[1, 1, 1], build).await;
        let live = program.start_by(start).await;
        Running {
            live,
            totals,
            counts,
        }
    }

    /// Sends one word to each worker in turn, so that a batch has blocks of several workers.
    async fn send(&self, words: &str) {
        let workers = self.live.running.0.status().workers;
        for (word, worker) in words.split_whitespace().zip(workers.iter().cycle()) {
            let client = Client::connect(worker.ingest.clone(), Options::default());
            let client = client.await.unwrap();
            let mut lines = client.lines("words").await.unwrap();
            lines.send(word).await.unwrap();
            lines.finish().await.unwrap();
        }
    }

    async fn stop(self, graceful: bool) -> (dstreams::Summary, [Rows; 2]) {
        let (cluster, workers) = self.live.running;
        let summary = match graceful {
            true => cluster.running.stop().await.unwrap(),
            false => cluster.running.abort().await.unwrap(),
        };
        drop(cluster);
        let joined = tokio::task::spawn_blocking(|| workers.join());
        joined.await.unwrap();
        let outputs = [self.totals, self.counts].map(|mut output| {
            let mut batches = drain(&mut output);
            batches.truncate(INPUT.len());
            batches
        });
        (summary, outputs)
    }
}

fn results_are_those_without_the_bad_batch(every: u32, bad: Bad) {
    block_on(async {
        let dir = Dir::missing();
        let mut running = Running::start(dir.path(), 0, every, bad).await;
        let mut reports = Vec::new();
        for words in INPUT {
            running.send(words).await;
            reports.push(running.live.batch().await);
        }
        let (records, aside): (Vec<_>, Vec<_>) =
            reports.iter().map(|it| (it.records, it.set_aside)).unzip();
        assert_eq!(records, [2, 1, 0, 1, 0, 2]);
        assert_eq!(aside, [0, 0, 3, 0, 0, 0]);
        let (summary, found) = running.stop(true).await;
        assert_eq!((summary.records, summary.set_aside), (6, 3));
        assert_eq!(found, without_them(2).await);
        assert_eq!(dstreams::inspect(dir.path()).unwrap().set_aside, [300]);
        let reason = std::fs::read_to_string(dir.join("failed/batch=300/error.txt")).unwrap();
        assert!(reason.contains("a bad word"), "{reason}");
        // One process is enough to replay the batch.
        let replay = |bad| {
            let ctx = StreamContext::with_config(config(every)).unwrap();
            let (ctx, _, counts) = on_workers(ctx, dir.path(), bad);
            (ctx.replay(dir.path(), BatchTime(300)), counts)
        };
        let (replayed, mut counts) = replay(Bad::Never);
        assert_eq!(replayed.await.unwrap(), 3);
        let of = ["a", "bad", "c"].map(|word| (word.to_owned(), 1));
        assert_eq!(drain(&mut counts), [(300, of.to_vec())]);
    });
}

#[test]
fn a_batch_is_set_aside_before_any_state_has_changed() {
    results_are_those_without_the_bad_batch(100, Bad::Early);
}

#[test]
fn a_batch_is_set_aside_with_some_states_changed_and_no_checkpoint() {
    results_are_those_without_the_bad_batch(100, Bad::Late);
}

#[test]
fn a_batch_is_set_aside_with_some_states_changed_and_checkpoints() {
    results_are_those_without_the_bad_batch(1, Bad::Late);
}

#[test]
fn a_batch_is_set_aside_with_all_states_and_standbys_changed() {
    results_are_those_without_the_bad_batch(2, Bad::Sink);
}

/// Without a later checkpoint, the next process replays the batch, again without its records.
#[test]
fn a_batch_stays_set_aside_after_a_restart() {
    block_on(async {
        let dir = Dir::missing();
        let mut found = [Vec::new(), Vec::new()];
        for part in [0..3, 3..6] {
            let mut running = Running::start(dir.path(), part.start as u32, 100, Bad::Late).await;
            for words in &INPUT[part] {
                running.send(words).await;
                running.live.batch().await;
            }
            // Without a checkpoint; a graceful stop would add a batch.
            let (_, outputs) = running.stop(false).await;
            for (all, output) in found.iter_mut().zip(outputs) {
                all.extend(output);
            }
        }
        assert_eq!(found, without_them(2).await);
    });
}

#[test]
fn setting_aside_requires_a_state_directory() {
    block_on(async {
        let mut ctx = StreamContext::with_config(config(1)).unwrap();
        let (_queue, words) = ctx.queue::<String>("words");
        let _outputs = build(&words, Bad::Late);
        let master = dstreams_cluster::Master::listen(ctx, Default::default());
        let error = master.await.err().unwrap();
        assert!(error.to_string().contains("persist_in"), "{error}");
    });
}
