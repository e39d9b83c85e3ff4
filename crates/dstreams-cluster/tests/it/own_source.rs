//! Sources that run on one worker resume at their offset, on another worker and after a restart.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::record::batch_of;
use dstreams::{BoxError, Generator, Ingest, Record, Source, StopSignal, StreamContext};
use dstreams_cluster::RunningCluster;

use crate::killed::new_dir;
use crate::process::{self, How, Process, be_worker, master_options};
use crate::program::{block_on, soon, until};

/// Environment variable with the program's directory, for worker processes.
const PLACE: &str = "DSTREAMS_TEST_OWN_SOURCE";
const WORKERS: usize = 2;

/// All numbers, without end.
struct Numbers;

#[dstreams::async_trait]
impl Source for Numbers {
    fn schema(&self) -> dstreams::arrow::datatypes::SchemaRef {
        u64::schema()
    }
    async fn run(self: Box<Self>, ingest: Ingest, closing: StopSignal) -> Result<(), BoxError> {
        let mut next = ingest.offsets().get("numbers").copied().unwrap_or(0);
        while !closing.is_requested() {
            ingest
                .push_at(batch_of([next])?, "numbers", next + 1)
                .await?;
            next += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// The results of both sources.
type Found = Arc<Mutex<[Vec<u64>; 2]>>;

fn program(found: &Found) -> StreamContext {
    let mut ctx = StreamContext::new(Duration::from_millis(200)).unwrap();
    let numbers = ctx.source::<u64>("numbers", Numbers).unwrap();
    let made = ctx.generator("made", Generator::new(500, |n| n));
    for (at, stream) in [numbers, made].into_iter().enumerate() {
        let found = Arc::clone(found);
        stream.for_each_rdd(move |rdd| {
            found.lock().unwrap()[at].extend(rdd.collect().unwrap());
        });
    }
    ctx
}

fn kept(dir: &Path, found: &Found) -> StreamContext {
    let mut ctx = program(found);
    ctx.persist_in(dir);
    ctx
}

/// Not a test: a worker.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    let place = std::env::var(PLACE).unwrap_or_default();
    be_worker(|| kept(Path::new(&place), &Found::default()));
}

const WORKER: &str = "own_source::a_worker";

fn how(dir: &Path) -> How {
    How {
        place: Some((PLACE, dir.display().to_string())),
        ..How::default()
    }
}

async fn start(dir: &Path, found: &Found) -> (RunningCluster, Vec<Process>, String) {
    let mut options = master_options();
    options.partitions = Some(2);
    let how = vec![how(dir); WORKERS];
    process::start(kept(dir, found), options, (WORKER, &how)).await
}

/// Waits until `more` further records of both are in batches.
async fn more(found: &Found, more: usize) {
    let now = || found.lock().unwrap().each_ref().map(Vec::len);
    let wanted = now().map(|count| count + more);
    let are_there = || {
        now()
            .into_iter()
            .zip(wanted)
            .all(|(now, wanted)| now >= wanted)
    };
    until("records", are_there).await;
}

#[test]
fn sources_resume_on_another_worker_and_after_a_restart() {
    let (dir, found) = (new_dir(), Found::default());
    block_on(async {
        let (cluster, mut workers, address) = start(&dir, &found).await;
        // One after the other, so that the worker of each source is killed.
        for one in &mut workers {
            more(&found, 100).await;
            one.kill();
            until("its loss", || cluster.status().workers.len() < WORKERS).await;
            *one = Process::start(WORKER, &address, &how(&dir));
            until("the other", || cluster.status().workers.len() == WORKERS).await;
        }
        more(&found, 100).await;
        let stop = soon("the stop", cluster.running.stop()).await;
        stop.unwrap();
        drop((cluster, workers));
        let (cluster, _workers, _) = start(&dir, &found).await;
        more(&found, 100).await;
        let stop = soon("the stop", cluster.running.stop()).await;
        stop.unwrap();
    });
    for numbers in std::mem::take(&mut *found.lock().unwrap()) {
        let wanted: Vec<u64> = (0..numbers.len() as u64).collect();
        assert_eq!(numbers, wanted, "each once, in order");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
