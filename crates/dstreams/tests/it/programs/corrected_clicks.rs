//! Clicks on each ad by ten seconds of event time: emitted at once, corrected when late clicks come, so that
//! a table outside is brought up to date, and a total with it.

use std::collections::BTreeMap;
use std::path::Path;

use dstreams::agg::{count, sum};
use dstreams::testing::{TestProgram, records};
use dstreams::{ByTime, Config, DStream, Intervals, Keyed, ManualClock, Record, Result};

use super::{SECOND, arrivals, end_of, random, sql, table};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Click {
    ad: i64,
    at_ms: i64,
}

fn describe(clicks: &DStream<Click>) -> Result<(ByTime<i64, Click, i64>, Keyed<i64, i64>)> {
    let tens = Intervals::every(10 * SECOND).correct_for(20 * SECOND);
    let by_ad = clicks.key_by(|click| click.ad);
    let counts = by_ad.agg_by_time("counts", |click| click.at_ms, tens, count())?;
    let changes = counts.changelog();
    let changes = changes.map(|(sign, ((_end, ad), clicks))| (ad, i64::from(sign) * clicks));
    let totals = changes.by_key().running_agg("totals", sum::<i64>())?;
    Ok((counts, totals.all()))
}

/// Rows by interval and ad: version and clicks.
type Outside = BTreeMap<(i64, i64), (u32, i64)>;

/// Puts updates into the table, as an output that may repeat them should.
fn update(outside: &mut Outside, updates: Vec<((i64, i64), (u32, i64))>) {
    for (key, (version, clicks)) in updates {
        let row = outside.entry(key).or_default();
        if version > row.0 {
            assert_eq!(version, row.0 + 1, "{key:?}");
            *row = (version, clicks);
        }
    }
}

async fn run(
    dir: &Path,
    clock: &ManualClock,
    seconds: &[Vec<Click>],
    outside: &mut Outside,
) -> Vec<(i64, i64)> {
    let mut config = Config::new(SECOND);
    config.checkpoint_every = 5;
    let mut test = TestProgram::in_dir(dir, config).unwrap().on_clock(clock);
    let (queue, clicks) = test.context().queue::<Click>("clicks");
    let (counts, totals) = describe(&clicks).unwrap();
    let mut updates = counts.updates().pairs().collect();
    let mut corrections = counts.corrections().collect();
    let mut totals = totals.top(10).collect();
    let mut run = test.start().await.unwrap();
    let mut last = Vec::new();
    for clicks in seconds {
        queue.push(clicks.iter().cloned()).await.unwrap();
        run.end_interval().await.unwrap();
        for it in records(&mut corrections).unwrap() {
            if let Some((version, clicks)) = outside.get(&(it.interval, it.key))
                && *version + 1 == it.version
            {
                assert_eq!(it.before, Some(*clicks), "{it:?}");
            }
        }
        update(outside, records(&mut updates).unwrap());
        last = records(&mut totals).unwrap();
    }
    run.abort().await.unwrap();
    last
}

/// The process is killed every eight seconds.
#[test]
fn a_table_outside_follows_corrections() {
    block_on(async {
        let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
        let click = |n: i64| {
            let (r, at_ms) = (random(n as u64), n * 61);
            let delay = if r.is_multiple_of(3) {
                r / 3 % 28_000
            } else {
                0
            };
            (
                at_ms + delay as i64,
                Click {
                    ad: (r / 10 % 5) as i64,
                    at_ms,
                },
            )
        };
        let sent: Vec<(i64, Click)> = (0..490).map(click).collect();
        let (mut outside, mut totals) = (Outside::new(), Vec::new());
        for seconds in arrivals(sent.clone(), 64).chunks(8) {
            totals = run(dir.path(), &clock, seconds, &mut outside).await;
        }

        let counts =
            |it: &&(i64, Click)| end_of(it.0, 1_000) <= end_of(it.1.at_ms, 10_000) + 20_000;
        let clicks: Vec<Click> = sent.iter().filter(counts).map(|it| it.1.clone()).collect();
        assert!(clicks.len() < sent.len(), "nothing is late");
        let tables = [("clicks", table(&clicks))];
        let wanted = "select at_ms / 10000 * 10000 + 10000 as i, ad, count(*)
                      from clicks group by 1, 2 order by 1, 2";
        let wanted: Vec<(i64, i64, i64)> = sql(&tables, wanted).await;
        let rows = outside
            .iter()
            .map(|((end, ad), (_, clicks))| (*end, *ad, *clicks));
        assert_eq!(rows.collect::<Vec<_>>(), wanted);
        assert!(outside.values().any(|(version, _)| *version > 5));
        let wanted = "select ad, count(*) as n from clicks group by 1 order by n desc, ad";
        let wanted: Vec<(i64, i64)> = sql(&tables, wanted).await;
        assert_eq!(totals, wanted);
    });
}
