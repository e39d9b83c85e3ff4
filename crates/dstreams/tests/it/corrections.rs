//! Aggregates by event time equal what is computed again from all records at each batch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use dstreams::agg::{count, max_of, sum_of};
use dstreams::{
    ByTime, Config, Correction, DStream, Intervals, Queue, RddReceiver, Record, StreamContext,
};
use proptest::prelude::*;

use crate::dir::Dir;
use crate::plain::plain;
use crate::program::{INTERVAL, Interval, Live, Program, block_on, cases, intervals, settings};
use crate::program::{small, text};

#[derive(Record, Debug, Clone, PartialEq)]
struct Reading {
    sensor: String,
    at_ms: i64,
    n: i64,
}

/// The greatest `n` and their sum: a reading of 0 usually changes neither.
type Result = (i64, i64);
/// The end of the interval, and the sensor.
type Key = (i64, String);

fn reading() -> impl Strategy<Value = Reading> {
    (text(), -300..1500i64, 0..3i64).prop_map(|(sensor, at_ms, n)| Reading { sensor, at_ms, n })
}

/// Lengths in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    every: i64,
    over: i64,
    slack: i64,
    correct: i64,
    ahead: i64,
}

fn lengths() -> impl Strategy<Value = Lengths> {
    let all = (1..4i64, 1..4i64, 0..4i64, 0..5i64, 0..4i64);
    all.prop_map(|(every, panes, slack, correct, ahead)| Lengths {
        every: 100 * every,
        over: 100 * every * panes,
        slack: 100 * slack,
        correct: 100 * correct,
        ahead: 100 * ahead,
    })
}

impl Lengths {
    fn intervals(&self) -> Intervals {
        let ms = |ms: i64| Duration::from_millis(ms as u64);
        Intervals::every(ms(self.every))
            .over(ms(self.over))
            .slack(ms(self.slack))
            .correct_for(ms(self.correct))
            .ahead(ms(self.ahead))
    }

    fn interval_of(&self, reading: &Reading) -> i64 {
        (reading.at_ms.div_euclid(self.every) + 1) * self.every
    }

    /// Batches after which all results are final.
    fn rest(&self) -> usize {
        ((self.every + self.over + self.slack + self.correct + self.ahead) / 100) as usize
    }
}

/// All streams of one batch, sorted.
#[derive(Debug, Clone, Default, PartialEq)]
struct Emitted {
    first: Vec<(Key, Result)>,
    updates: Vec<(Key, (u32, Result))>,
    changelog: Vec<(i8, (Key, Result))>,
    corrections: Vec<(Key, u32, Option<Result>, Result)>,
    finals: Vec<(Key, Result)>,
    all: Vec<(Key, (u32, Result))>,
    late: Vec<(i64, String)>,
    ahead: Vec<(i64, String)>,
}

fn result(of: &[i64]) -> Option<Result> {
    Some((of.iter().copied().max()?, of.iter().sum()))
}

/// Every batch computes every result again, from all readings.
fn by_hand(lengths: Lengths, input: &[Vec<Reading>]) -> Vec<Emitted> {
    // Interval, sensor, `n`.
    let mut known: Vec<(i64, String, i64)> = Vec::new();
    let mut versions: BTreeMap<Key, u32> = BTreeMap::new();
    let mut batches = Vec::new();
    for (batch, readings) in (1i64..).map(|n| 100 * n).zip(input) {
        let mut emitted = Emitted::default();
        let earlier = known.len();
        for reading in readings {
            let interval = lengths.interval_of(reading);
            let text = format!("{reading:?}");
            if interval + lengths.slack + lengths.correct < batch {
                emitted.late.push((interval, text));
            } else if interval > batch + lengths.ahead {
                emitted.ahead.push((interval, text));
            } else {
                known.push((interval, reading.sensor.clone(), reading.n));
            }
        }
        let results = known.iter().flat_map(|(interval, sensor, _)| {
            let ends = (*interval..interval + lengths.over).step_by(lengths.every as usize);
            ends.map(|end| (end, sensor.clone()))
        });
        for key in results.collect::<BTreeSet<Key>>() {
            let of = |known: &[(i64, String, i64)]| {
                let own = known.iter().filter(|(interval, sensor, _)| {
                    *sensor == key.1 && *interval <= key.0 && *interval > key.0 - lengths.over
                });
                result(&own.map(|(_, _, n)| *n).collect::<Vec<_>>())
            };
            let (before, after) = (of(&known[..earlier]), of(&known).unwrap());
            let told_at = key.0 + lengths.slack;
            let final_at = told_at + lengths.correct;
            if final_at < batch {
                continue;
            }
            let version = versions.entry(key.clone()).or_default();
            if told_at == batch {
                *version = 1;
                emitted.first.push((key.clone(), after));
                emitted.changelog.push((1, (key.clone(), after)));
                emitted.updates.push((key.clone(), (1, after)));
            } else if told_at < batch && before != Some(after) {
                *version += 1;
                emitted
                    .corrections
                    .push((key.clone(), *version, before, after));
                let before = before.map(|before| (-1, (key.clone(), before)));
                emitted.changelog.extend(before);
                emitted.changelog.push((1, (key.clone(), after)));
                emitted.updates.push((key.clone(), (*version, after)));
            }
            match final_at == batch {
                true => emitted.finals.push((key, after)),
                false => emitted.all.push((key, (*version, after))),
            }
        }
        batches.push(sorted(emitted));
    }
    batches
}

fn sorted(mut emitted: Emitted) -> Emitted {
    emitted.first.sort();
    emitted.updates.sort();
    emitted.changelog.sort();
    emitted.corrections.sort();
    emitted.finals.sort();
    emitted.all.sort();
    emitted.late.sort();
    emitted.ahead.sort();
    emitted
}

/// The channels of all streams.
struct Outputs {
    first: RddReceiver<(Key, Result)>,
    updates: RddReceiver<(Key, (u32, Result))>,
    changelog: RddReceiver<(i8, (Key, Result))>,
    corrections: RddReceiver<Correction<String, Result>>,
    finals: RddReceiver<(Key, Result)>,
    all: RddReceiver<(Key, (u32, Result))>,
    late: RddReceiver<(i64, (String, Reading))>,
    ahead: RddReceiver<(i64, (String, Reading))>,
}

fn by_time(readings: &DStream<Reading>, lengths: Lengths) -> ByTime<String, Reading, Result> {
    let agg = (max_of::<i64>("n"), sum_of::<i64>("n"));
    let keyed = readings.key_by(|reading| reading.sensor.to_owned());
    let time = |reading: ReadingRef<'_>| reading.at_ms;
    keyed
        .agg_by_time("readings", time, lengths.intervals(), agg)
        .unwrap()
}

fn outputs(of: &ByTime<String, Reading, Result>) -> Outputs {
    Outputs {
        first: of.first().pairs().collect(),
        updates: of.updates().pairs().collect(),
        changelog: of.changelog().collect(),
        corrections: of.corrections().collect(),
        finals: of.finals().pairs().collect(),
        all: of.all().pairs().collect(),
        late: of.late().pairs().collect(),
        ahead: of.ahead().pairs().collect(),
    }
}

/// Adds what came since the last call; a batch comes once.
fn add<T: Record, U>(
    output: &mut RddReceiver<T>,
    batches: &mut BTreeMap<u64, Emitted>,
    as_row: impl Fn(T) -> U,
    rows_of: impl Fn(&mut Emitted) -> &mut Vec<U>,
) {
    for (batch, rows) in dstreams::testing::batches(output).unwrap() {
        let emitted = rows_of(batches.entry(batch.0).or_default());
        assert!(emitted.is_empty(), "batch {batch} comes twice");
        emitted.extend(rows.into_iter().map(&as_row));
    }
}

impl Outputs {
    fn add_to(&mut self, batches: &mut BTreeMap<u64, Emitted>) {
        fn same<T>(row: T) -> T {
            row
        }
        let text =
            |(interval, (_, reading)): (i64, (String, Reading))| (interval, format!("{reading:?}"));
        let correction = |it: Correction<String, Result>| {
            ((it.interval, it.key), it.version, it.before, it.after)
        };
        add(&mut self.first, batches, same, |emitted| &mut emitted.first);
        add(&mut self.updates, batches, same, |emitted| {
            &mut emitted.updates
        });
        add(&mut self.changelog, batches, same, |emitted| {
            &mut emitted.changelog
        });
        add(&mut self.corrections, batches, correction, |emitted| {
            &mut emitted.corrections
        });
        add(&mut self.finals, batches, same, |emitted| {
            &mut emitted.finals
        });
        add(&mut self.all, batches, same, |emitted| &mut emitted.all);
        add(&mut self.late, batches, text, |emitted| &mut emitted.late);
        add(&mut self.ahead, batches, text, |emitted| &mut emitted.ahead);
    }
}

async fn feed(live: &mut Live, queue: &Queue<Reading>, interval: &[Vec<Reading>]) {
    for block in interval {
        queue.push(block.iter().cloned()).await.unwrap();
    }
    live.batch().await;
}

fn emitted(config: &Config, lengths: Lengths, input: &[Interval<Reading>]) -> Vec<Emitted> {
    block_on(async {
        let mut program = Program::new(config.clone());
        let (queue, readings) = program.ctx.queue::<Reading>("readings");
        let mut outputs = outputs(&by_time(&readings, lengths));
        let mut live = program.start().await;
        for interval in input {
            feed(&mut live, &queue, interval).await;
        }
        let mut batches = BTreeMap::new();
        outputs.add_to(&mut batches);
        live.running.abort().await.unwrap();
        batches.into_values().map(sorted).collect()
    })
}

/// Empty intervals at the end, until everything is final.
fn until_final(lengths: Lengths, mut input: Vec<Interval<Reading>>) -> Vec<Interval<Reading>> {
    input.resize(input.len() + lengths.rest(), Vec::new());
    input
}

fn concat(input: &[Interval<Reading>]) -> Vec<Vec<Reading>> {
    input.iter().map(|interval| interval.concat()).collect()
}

fn equal<T: PartialEq + Debug>(
    found: &[T],
    wanted: &[T],
) -> std::result::Result<(), TestCaseError> {
    for (batch, (found, wanted)) in (1..).zip(found.iter().zip(wanted)) {
        prop_assert_eq!(found, wanted, "batch {}", 100 * batch);
    }
    prop_assert_eq!(found.len(), wanted.len());
    Ok(())
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn every_stream_equals_what_is_computed_again(
        config in settings(),
        lengths in lengths(),
        input in intervals(reading(), 12),
    ) {
        let input = until_final(lengths, input);
        let found = emitted(&config, lengths, &input);
        equal(&found, &by_hand(lengths, &concat(&input)))?;
        // Each reading is in time, late or ahead; all that is in time is final at the end.
        let mut totals: BTreeMap<Key, i64> = BTreeMap::new();
        let mut versions: BTreeMap<Key, u32> = BTreeMap::new();
        for batch in &found {
            for (sign, (key, (_, sum))) in &batch.changelog {
                *totals.entry(key.clone()).or_default() += i64::from(*sign) * sum;
            }
            for (key, (version, _)) in &batch.updates {
                let before = versions.insert(key.clone(), *version).unwrap_or(0);
                prop_assert_eq!(*version, before + 1, "{:?}", key);
            }
        }
        let finals = found.iter().flat_map(|batch| batch.finals.clone());
        let finals: BTreeMap<Key, i64> = finals.map(|(key, (_, sum))| (key, sum)).collect();
        prop_assert_eq!(totals, finals);
        prop_assert!(found.last().unwrap().all.is_empty());
    }

    /// The program is killed between batches, and restored with any number of batches since its last checkpoint.
    #[test]
    fn restarts_change_nothing(
        mut config in settings(),
        every in 1..6u32,
        lengths in lengths(),
        input in intervals(reading(), 12),
        kills in prop::collection::vec(any::<bool>(), 40),
    ) {
        config.checkpoint_every = every;
        let input = until_final(lengths, input);
        let dir = Dir::missing();
        let mut batches = BTreeMap::new();
        let mut kills = kills.into_iter().cycle();
        let mut rest = &input[..];
        while !rest.is_empty() {
            let run = 1 + (0..rest.len() - 1).take_while(|_| kills.next() == Some(false)).count();
            let (now, later) = rest.split_at(run);
            let past = (input.len() - rest.len()) as u32;
            run_in(&dir, past, &config, lengths, now, &mut batches);
            rest = later;
        }
        let found: Vec<_> = batches.into_values().map(sorted).collect();
        equal(&found, &by_hand(lengths, &concat(&input)))?;
    }
}

/// Runs the program for some intervals, and kills it.
fn run_in(
    dir: &Dir,
    past: u32,
    config: &Config,
    lengths: Lengths,
    input: &[Interval<Reading>],
    batches: &mut BTreeMap<u64, Emitted>,
) {
    block_on(async {
        let mut program = Program::after(past, config.clone());
        let (queue, readings) = program.ctx.queue::<Reading>("readings");
        let mut outputs = outputs(&by_time(&readings, lengths));
        program.ctx.persist_in(dir.path());
        let mut live = program.start().await;
        for interval in input {
            feed(&mut live, &queue, interval).await;
        }
        outputs.add_to(batches);
        live.running.abort().await.unwrap();
    });
}

/// Readings that come in any order, each within slack and corrections, have the finals of one query over all.
#[test]
fn finals_equal_sql_in_any_order_of_arrival() {
    let lengths = Lengths {
        every: 200,
        over: 200,
        slack: 200,
        correct: 600,
        ahead: 200,
    };
    let readings: Vec<Reading> = (0..600i64)
        .map(|n| Reading {
            sensor: format!("sensor {}", n * n % 7),
            at_ms: n * 3 % 1200,
            n: n % 11 - 5,
        })
        .collect();
    let query = "select at_ms / 200 * 200 + 200 as i, sensor, max(n) as m, sum(n) as s \
                 from readings group by 1, 2 order by 1, 2";
    let rows = dstreams::record::batch_of(readings.clone()).unwrap();
    let wanted = plain::<(i64, String, i64, i64)>(&[("readings", rows)], query).into_iter();
    let wanted: Vec<(Key, Result)> = wanted
        .map(|(i, sensor, m, s)| ((i, sensor), (m, s)))
        .collect();
    for seed in [1i64, 5, 11] {
        let mut input = vec![vec![Vec::new()]; 24];
        for (at, reading) in readings.iter().enumerate() {
            // Up to 100 ms before it happened, and up to 700 ms after.
            let delay = (at as i64 * 37 * seed).rem_euclid(9) - 1;
            let batch = (reading.at_ms / 100 + delay).max(0) as usize;
            input[batch][0].push(reading.clone());
        }
        let found = emitted(&small(2, 7, 5), lengths, &input);
        assert!(
            found
                .iter()
                .all(|batch| batch.late.is_empty() && batch.ahead.is_empty())
        );
        let mut finals: Vec<_> = found
            .iter()
            .flat_map(|batch| batch.finals.clone())
            .collect();
        finals.sort();
        assert_eq!(finals, wanted, "seed {seed}");
    }
}

/// An interval at a time, by hand: the example of the guide.
#[test]
fn an_interval_is_told_corrected_and_final() {
    let lengths = Lengths {
        every: 100,
        over: 100,
        slack: 100,
        correct: 200,
        ahead: 0,
    };
    let at = |at_ms, n| Reading {
        sensor: "s".into(),
        at_ms,
        n,
    };
    let input = [
        vec![at(10, 1)],
        vec![at(20, 2), at(110, 1)],
        vec![at(30, 0)],
        vec![at(40, 5)],
        vec![at(50, 1), at(900, 1)],
    ];
    let input: Vec<_> = input.into_iter().map(|interval| vec![interval]).collect();
    let found = emitted(&small(1, 4, 4), lengths, &input);
    let key = |end| (end, "s".to_owned());
    assert_eq!(found[0].updates, []);
    // 100 + 100: the slack is over.
    assert_eq!(found[1].first, [(key(100), (2, 3))]);
    // A reading that changes nothing.
    assert_eq!(found[2].updates, [(key(200), (1, (1, 1)))]);
    // 100 + 100 + 200: final, with a last correction.
    assert_eq!(found[3].updates, [(key(100), (2, (5, 8)))]);
    assert_eq!(
        found[3].changelog,
        [(-1, (key(100), (2, 3))), (1, (key(100), (5, 8)))]
    );
    assert_eq!(found[3].finals, [(key(100), (5, 8))]);
    assert_eq!(found[4].late.len(), 1);
    assert_eq!(found[4].ahead.len(), 1);
    assert_eq!(found[4].finals, [(key(200), (1, 1))]);
}

/// What nothing reads is counted.
#[test]
fn unread_late_records_are_counted() {
    block_on(async {
        let mut program = Program::new(small(2, 2, 4));
        let (queue, readings) = program.ctx.queue::<Reading>("readings");
        let keyed = readings.key_by(|reading| reading.n);
        let intervals = Intervals::every(INTERVAL);
        let counts = keyed.agg_by_time("counts", |reading| reading.at_ms, intervals, count());
        counts.unwrap().finals().pairs().for_each_rdd(|_| ());
        let mut live = program.start().await;
        let at = |at_ms| Reading {
            sensor: "s".into(),
            at_ms,
            n: 1,
        };
        feed(&mut live, &queue, &[vec![at(50)]]).await;
        feed(&mut live, &queue, &[vec![at(50), at(60), at(999)]]).await;
        let rejected = live.running.status().rejected;
        let of = |what: &str| {
            let of = rejected
                .iter()
                .filter(|(operator, _)| operator.starts_with(what));
            of.map(|(_, count)| *count).collect::<Vec<_>>()
        };
        assert_eq!(
            (of("late records"), of("records ahead")),
            (vec![2], vec![1]),
            "{rejected:?}"
        );
        live.running.stop().await.unwrap();
    });
}

#[test]
fn durations_are_multiples_of_the_interval() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, readings) = ctx.queue::<Reading>("readings");
    let refused = |intervals: Intervals| {
        let keyed = readings.key_by(|reading| reading.n);
        let counts = keyed.agg_by_time("counts", |reading| reading.at_ms, intervals, count());
        counts.err().unwrap().to_string()
    };
    let half = INTERVAL / 2;
    for (what, intervals) in [
        ("length", Intervals::every(half)),
        ("length", Intervals::every(Duration::ZERO)),
        (
            "time covered",
            Intervals::every(2 * INTERVAL).over(3 * INTERVAL),
        ),
        ("slack", Intervals::every(INTERVAL).slack(half)),
        ("corrections", Intervals::every(INTERVAL).correct_for(half)),
        ("ahead", Intervals::every(INTERVAL).ahead(half)),
    ] {
        let refused = refused(intervals);
        assert!(
            refused.contains(what) && refused.contains("00 ms"),
            "{refused}"
        );
    }
}

/// Batches since the checkpoint run again, and would emit and end results at other times than they did.
#[test]
fn another_slack_or_time_for_corrections_is_refused_at_a_restart() {
    let lengths = Lengths {
        every: 100,
        over: 100,
        slack: 200,
        correct: 300,
        ahead: 0,
    };
    let dir = Dir::missing();
    let start = |past: u32, every: u32, lengths: Lengths| {
        let mut config = small(2, 2, 4);
        config.checkpoint_every = every;
        let mut program = Program::after(past, config);
        let (queue, readings) = program.ctx.queue::<Reading>("readings");
        by_time(&readings, lengths).finals().pairs().print(0);
        program.ctx.persist_in(dir.path());
        (program, queue)
    };
    let reading = Reading {
        sensor: "s".into(),
        at_ms: 50,
        n: 7,
    };
    let refused = async |past: u32, remedy: &str| {
        for (slack, correct) in [(200, 200), (200, 400), (100, 400), (300, 200)] {
            let changed = Lengths {
                slack,
                correct,
                ..lengths
            };
            let (program, _) = start(past, 1, changed);
            let refused = program.ctx.start().await.err().unwrap().to_string();
            let now = format!("are [slack {slack} ms, final after {} ms]", slack + correct);
            let then = "[slack 200 ms, final after 500 ms]";
            for part in [then, &now, remedy] {
                assert!(refused.contains(part), "{refused}");
            }
        }
    };
    block_on(async {
        let (program, queue) = start(0, 1_000, lengths);
        let mut live = program.start().await;
        feed(&mut live, &queue, &[vec![reading]]).await;
        live.running.abort().await.unwrap();
        refused(1, "a directory of its own").await;
        let live = start(1, 1, lengths).0.start().await;
        live.running.stop().await.unwrap();
        refused(2, "drop_state").await;
    });
}

/// The state holds the intervals that are not final, and no others: a thousand batches here, ten thousand in the
/// test of one partition.
#[test]
fn the_state_is_bounded() {
    let lengths = Lengths {
        every: 100,
        over: 100,
        slack: 200,
        correct: 500,
        ahead: 200,
    };
    block_on(async {
        let mut program = Program::new(small(2, 64, 64));
        let (queue, readings) = program.ctx.queue::<Reading>("readings");
        let of = by_time(&readings, lengths);
        let mut all = of.all().pairs().count().unwrap().collect();
        let mut finals = of.finals().pairs().count().unwrap().collect();
        let mut live = program.start().await;
        let (mut most, mut ended, mut random) = (0, 0, 1u64);
        for batch in 1..=1_000i64 {
            let mut readings = Vec::new();
            for n in 0..3 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at_ms = 100 * batch + (random % 3000) as i64 - 1500;
                let sensor = format!("{}", random % 5);
                readings.push(Reading { sensor, at_ms, n });
            }
            feed(&mut live, &queue, &[readings]).await;
            let counts = |output: &mut RddReceiver<i64>| -> i64 {
                dstreams::testing::records(output)
                    .unwrap()
                    .into_iter()
                    .sum()
            };
            most = most.max(counts(&mut all));
            ended += counts(&mut finals);
        }
        // Ten intervals and five sensors.
        assert!((8..=50).contains(&most), "{most} rows");
        assert!(ended > 300, "{ended} results");
        live.running.stop().await.unwrap();
    });
}
