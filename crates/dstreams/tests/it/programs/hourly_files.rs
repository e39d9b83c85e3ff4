//! Exactly once into files, those of each hour of the sales' event time in one directory: here an hour has ten seconds.

use std::collections::BTreeMap;
use std::path::Path;

use dstreams::files::Format;
use dstreams::testing::TestProgram;
use dstreams::{Config, DStream, ManualClock, Queue, Record, Result, Slack};

use super::{SECOND, arrivals, random};
use crate::dir::Dir;
use crate::files_sink::visible;
use crate::program::block_on;

#[derive(Record, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sale {
    shop: i64,
    cents: i64,
    at_ms: i64,
}

fn describe(sales: &DStream<Sale>, files: &Path) -> Result<()> {
    let hour = 10 * SECOND;
    let sales = sales.by_time("sales", |sale| sale.at_ms, Slack::of(3 * SECOND))?;
    let by_hour = sales.records().named_window("hours", hour, hour)?;
    by_hour.write_files(files, Format::JsonLines)
}

fn program(dir: &Path, files: &Path, clock: &ManualClock) -> (TestProgram, Queue<Sale>) {
    let mut config = Config::new(SECOND);
    config.checkpoint_every = 4;
    let mut test = TestProgram::in_dir(dir, config).unwrap().on_clock(clock);
    let (queue, sales) = test.context().queue::<Sale>("sales");
    describe(&sales, files).unwrap();
    (test, queue)
}

/// The process is killed every seven seconds.
#[test]
fn sales_of_each_hour_are_in_one_directory() {
    block_on(async {
        let (dir, files, clock) = (Dir::new(), Dir::new(), ManualClock::new());
        let sale = |n: u64| {
            let (r, at_ms) = (random(n), n as i64 * 101);
            let sale = Sale {
                shop: (r % 3) as i64,
                cents: (r / 10 % 1_000) as i64,
                at_ms,
            };
            (at_ms + (r / 10_000 % 2_900) as i64, sale)
        };
        let sales: Vec<(i64, Sale)> = (0..297).map(sale).collect();
        let mut wanted = BTreeMap::<i64, Vec<Sale>>::new();
        for (_, sale) in &sales {
            wanted
                .entry(sale.at_ms / 10_000)
                .or_default()
                .push(sale.clone());
        }
        for run_of in arrivals(sales, 35).chunks(7) {
            let (test, queue) = program(dir.path(), files.path(), &clock);
            let mut run = test.start().await.unwrap();
            for sales in run_of {
                queue.push(sales.iter().cloned()).await.unwrap();
                run.end_interval().await.unwrap();
            }
            run.abort().await.unwrap();
        }
        // The batch of an hour is three seconds after its end.
        let found = visible::<Sale>(files.path(), Format::JsonLines).into_iter();
        let found = found.map(|(batch, mut sales)| {
            sales.sort_by_key(|sale| sale.at_ms);
            ((batch.millis() as i64 - 3_000) / 10_000 - 1, sales)
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), wanted);
    });
}
