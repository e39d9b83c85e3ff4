//! A state that takes in the changes of another one: when a partition is lost, the rows that it had of other partitions are
//! not there any more, so all of them are rebuilt.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dstreams::agg::{count, sum};
use dstreams::{Queue, StreamContext};
use dstreams_cluster::MasterOptions;

use crate::killed::new_dir;
use crate::process::{self, How, be_worker};
use crate::program::{block_on, soon, until};

/// Environment variable with the program's directory, for worker processes.
const PLACE: &str = "DSTREAMS_TEST_CHAINED_STATES";
const WORKERS: usize = 2;
/// Enough that each partition has some.
const KEYS: u64 = 20;
/// The second state has its rows by the count modulo this number.
const REST: i64 = 5;

type Rows = BTreeMap<i64, i64>;

/// Sums by key, and how often a sum had each rest.
fn program(dir: &Path, rests: &Arc<Mutex<Rows>>) -> (StreamContext, Queue<(u64, i64)>) {
    let mut ctx = StreamContext::new(Duration::from_millis(500)).unwrap();
    ctx.persist_in(dir.join("state"));
    let (queue, numbers) = ctx.queue::<(u64, i64)>("numbers");
    let sums = numbers.by_key().running_agg("sums", sum::<i64>()).unwrap();
    let rest = sums.changes().pairs().map(|(_, sum)| (sum % REST, ()));
    let counted = rest.by_key().running_agg("rests", count()).unwrap();
    let rests = Arc::clone(rests);
    counted.all().for_each_rdd(move |rdd| {
        *rests.lock().unwrap() = rdd.collect().unwrap().into_iter().collect();
    });
    (ctx, queue)
}

/// Not a test: a worker.
#[test]
#[ignore = "a worker process of other tests"]
fn a_worker() {
    let place = std::env::var(PLACE).unwrap_or_default();
    be_worker(|| program(Path::new(&place), &Arc::default()).0);
}

#[test]
fn all_partitions_are_rebuilt_when_a_state_reads_another() {
    block_on(async {
        dstreams_cluster::logs::to_stderr();
        let (dir, rests) = (new_dir(), Arc::<Mutex<Rows>>::default());
        let (ctx, queue) = program(&dir, &rests);
        let mut options = MasterOptions::default();
        options.partitions = Some(WORKERS);
        options.standbys = 0;
        let how = How {
            place: Some((PLACE, dir.display().to_string())),
            ..How::default()
        };
        let how = vec![how; WORKERS];
        let workers = ("chained_states::a_worker", &how[..]);
        let (running, mut workers, _) = process::start(ctx, options, workers).await;
        let mut wanted = Rows::new();
        for pushes in 1..=9 {
            if pushes == 6 {
                workers.pop();
            }
            let rows = (0..KEYS).map(|key| (key, 1));
            queue.push(rows).await.unwrap();
            *wanted.entry(pushes % REST).or_default() += KEYS as i64;
            until("the counts", || *rests.lock().unwrap() == wanted).await;
        }
        let status = running.status();
        assert_eq!(
            (status.rebuilds, status.rebuilt_partitions),
            (1, WORKERS as u64)
        );
        soon("the stop", running.running.stop()).await.unwrap();
        let _ = std::fs::remove_dir_all(&dir);
    });
}
