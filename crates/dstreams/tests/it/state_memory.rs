//! State beyond the memory bound is in files, and gives the same results.

use std::collections::BTreeMap;
use std::path::Path;

use dstreams::agg::sum;
use dstreams::record::records_of;
use dstreams::{Config, Queue};

use crate::dir::Dir;
use crate::program::{Live, Program, block_on, small, until};
use crate::restart::Disk;

/// Keys of the state: enough for whole cold segments.
const KEYS: i64 = 60_000;

type Totals = BTreeMap<i64, i64>;

fn bounded(dir: &Path) -> Config {
    let mut config = small(2, 10_000, 4_096);
    config.block_bytes = 1 << 20;
    config.state_memory = Some(0);
    config.spill_dir = dir.to_owned();
    config
}

async fn start(config: &Config, kept: &Path, after: u32) -> (Live, Queue<(i64, i64)>) {
    let mut program = Program::after(after, config.clone());
    let (queue, pairs) = program.ctx.queue::<(i64, i64)>("pairs");
    let totals = pairs.by_key().running_agg("totals", sum::<i64>());
    totals.unwrap().changes().pairs().for_each_rdd(|_| {});
    program.ctx.persist_in(kept);
    (program.start().await, queue)
}

/// Sends some pairs, and counts them by hand.
async fn batch(
    live: &mut Live,
    queue: &Queue<(i64, i64)>,
    totals: &mut Totals,
    pairs: Vec<(i64, i64)>,
) {
    for (key, value) in &pairs {
        *totals.entry(*key).or_default() += value;
    }
    queue.push(pairs).await.unwrap();
    live.batch().await;
}

async fn held(live: &Live) -> Totals {
    let table = live.running.table("totals").await.unwrap();
    let rows = table.collect().await.unwrap();
    let rows = rows
        .iter()
        .flat_map(|rows| records_of::<(i64, i64)>(rows).unwrap());
    rows.collect()
}

/// Files of a directory that are deleted but still mapped by this process.
fn mapped(dir: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of = |line: &&str| line.contains(dir.to_str().unwrap());
    maps.lines().filter(of).count()
}

fn some(round: i64) -> Vec<(i64, i64)> {
    (0..500)
        .map(|n| (n * 7_919 * (round + 1) % KEYS, round))
        .collect()
}

#[test]
fn spilled_state_is_the_same_state() {
    let (kept, spill) = (Dir::new(), Dir::new());
    let config = bounded(spill.path());
    let mut totals = Totals::new();
    block_on(async {
        let (mut live, queue) = start(&config, kept.path(), 0).await;
        batch(
            &mut live,
            &queue,
            &mut totals,
            (0..KEYS).map(|key| (key, key)).collect(),
        )
        .await;
        for round in 0..11 {
            batch(&mut live, &queue, &mut totals, some(round)).await;
        }
        assert!(mapped(spill.path()) >= 4, "{} files", mapped(spill.path()));
        assert_eq!(held(&live).await, totals);
        live.running.abort().await.unwrap();
        drop((live, queue));
        // A task of the program may end after it.
        until("the files of the state", || mapped(spill.path()) == 0).await;

        // Restored from the checkpoint and the journal.
        let (mut live, queue) = start(&config, kept.path(), 12).await;
        batch(&mut live, &queue, &mut totals, some(12)).await;
        assert!(mapped(spill.path()) >= 4, "{} files", mapped(spill.path()));
        assert_eq!(held(&live).await, totals);
        live.running.abort().await.unwrap();
    });
}

#[test]
fn state_stays_in_memory_on_a_full_disk() {
    let (kept, place) = (Dir::new(), Dir::new());
    let Some(disk) = Disk::mount(place.path()) else {
        return println!("skipped: this user may not mount a file system");
    };
    let config = bounded(&disk.0);
    let mut totals = Totals::new();
    block_on(async {
        let (mut live, queue) = start(&config, kept.path(), 0).await;
        batch(
            &mut live,
            &queue,
            &mut totals,
            (0..KEYS).map(|key| (key, key)).collect(),
        )
        .await;
        for round in 0..3 {
            batch(&mut live, &queue, &mut totals, some(round)).await;
        }
        assert_eq!(mapped(&disk.0), 0);
        assert_eq!(held(&live).await, totals);
        disk.grow();
        batch(&mut live, &queue, &mut totals, some(3)).await;
        assert!(mapped(&disk.0) > 0);
        assert_eq!(held(&live).await, totals);
        live.running.abort().await.unwrap();
    });
}
