//! Slack, corrections, sessions and joins by event time agree with Apache Flink on late records.
//!
//! `tests/flink/vectors.py` wrote the input, in disorder, and what Flink's windows emitted, batch by batch: its watermark
//! after batch t is t less the slack, so both know the same about the past. Results and late records are equal, and are
//! emitted with the same batch. What differs on purpose is checked to differ in just that; the guide on event time lists
//! it:
//!
//! * Flink fires for each late record, here a batch corrects a result once, to the last of them;
//! * Flink fires where a late record changes nothing (a maximum), here that is no correction;
//! * with windows that overlap, Flink drops a record when its last window is dropped, here it is late for all of them
//!   once its own interval is final;
//! * Flink takes records of any time in the future, here they may be so much ahead;
//! * records exactly the gap apart are one session in Flink, and two here;
//! * Flink's interval join compares times and emits a pair at once, here lengths count intervals, and a pair is emitted
//!   when the slack is over.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use dstreams::agg::{Agg, count, max_of, sum_of};
use dstreams::testing::batches;
use dstreams::{
    Correction, DStream, Intervals, Keyed, RddReceiver, Record, Sessions, Slack, StreamContext,
    Within,
};
use serde::Deserialize;

use crate::program::{INTERVAL, Program, block_on, small};

/// A key, and its event time and a number.
type Reading = (String, (i64, i64));
/// The end of an interval, and a key.
type Key = (i64, String);
/// Count and sum.
type Totals = (i64, i64);

/// A line of `input.jsonl`.
#[derive(Deserialize)]
struct Arrival {
    batch: i64,
    readings: Vec<(String, i64, i64)>,
    visits: Vec<(String, i64, i64)>,
    views: Vec<(String, i64, i64)>,
    clicks: Vec<(String, i64, i64)>,
}

/// A line of `vectors.jsonl`; each event has some of these.
#[derive(Deserialize, Clone, Debug)]
struct Emitted {
    case: String,
    event: String,
    #[serde(default)]
    batch: i64,
    #[serde(default)]
    watermark: i64,
    #[serde(default)]
    end: i64,
    #[serde(default)]
    key: String,
    #[serde(default)]
    count: i64,
    #[serde(default)]
    sum: i64,
    #[serde(default)]
    max: i64,
    #[serde(default)]
    first: i64,
    #[serde(default)]
    last: i64,
    #[serde(default)]
    at: i64,
    #[serde(default)]
    n: i64,
    #[serde(default)]
    records: Vec<(String, i64, i64)>,
    #[serde(default)]
    pair: Vec<(i64, i64)>,
}

static INPUT: LazyLock<Vec<Arrival>> = LazyLock::new(|| {
    let lines = include_str!("../flink/input.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
});

/// What Flink emitted, without the first line, which has its version.
static FLINK: LazyLock<Vec<Emitted>> = LazyLock::new(|| {
    let lines = include_str!("../flink/vectors.jsonl").lines().skip(1);
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
});

/// What Flink emitted in a case, of one kind.
fn flink(case: &str, event: &str) -> Vec<Emitted> {
    let of = |line: &&Emitted| line.case == case && line.event == event;
    let found: Vec<Emitted> = FLINK.iter().filter(of).cloned().collect();
    assert!(!found.is_empty(), "Flink has no {event} of {case}");
    found
}

impl Emitted {
    fn key(&self) -> Key {
        (self.end, self.key.clone())
    }

    fn totals(&self) -> Totals {
        (self.count, self.sum)
    }

    fn reading(&self) -> Reading {
        (self.key.clone(), (self.at, self.n))
    }
}

fn reading((key, at, n): &(String, i64, i64)) -> Reading {
    (key.clone(), (*at, *n))
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms as u64)
}

/// No record of the input is so far ahead.
const ANY: Duration = Duration::from_secs(10);

/// The streams that a program reads.
struct Streams {
    readings: DStream<Reading>,
    visits: DStream<Reading>,
    views: DStream<Reading>,
    clicks: DStream<Reading>,
}

/// Runs a program over all batches of the input; `rows` is the number of records of a task and of a block.
fn run<T>(
    (threads, rows): (usize, usize),
    build: impl FnOnce(&StreamContext, &Streams) -> T,
    take: impl FnOnce(T),
) {
    block_on(async {
        let mut program = Program::new(small(threads, rows, rows));
        let (to_readings, readings) = program.ctx.queue::<Reading>("readings");
        let (to_visits, visits) = program.ctx.queue::<Reading>("visits");
        let (to_views, views) = program.ctx.queue::<Reading>("views");
        let (to_clicks, clicks) = program.ctx.queue::<Reading>("clicks");
        let streams = Streams {
            readings,
            visits,
            views,
            clicks,
        };
        let outputs = build(&program.ctx, &streams);
        let mut live = program.start().await;
        for (at, batch) in (1..).zip(INPUT.iter()) {
            assert_eq!(batch.batch, at * INTERVAL.as_millis() as i64);
            for (queue, records) in [
                (&to_readings, &batch.readings),
                (&to_visits, &batch.visits),
                (&to_views, &batch.views),
                (&to_clicks, &batch.clicks),
            ] {
                for record in records {
                    queue.push([reading(record)]).await.unwrap();
                }
            }
            live.batch().await;
        }
        live.running.stop().await.unwrap();
        take(outputs);
    });
}

/// One task for a batch, and one for each record.
const CUTS: [(usize, usize); 2] = [(1, 1_000), (3, 1)];

/// The rows of an output with the batches that emitted them, sorted.
fn rows<T: Record + Ord>(output: &mut RddReceiver<T>) -> Vec<(i64, T)> {
    let all = batches(output).unwrap().into_iter();
    let all = all.flat_map(|(batch, rows)| rows.into_iter().map(move |row| (batch.0 as i64, row)));
    sorted(all.collect())
}

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

/// The batch of each late record, with the end of its interval of this length.
fn late(case: &str, every: i64) -> Vec<(i64, (i64, Reading))> {
    let late = flink(case, "late").into_iter();
    let late = late.map(|it| {
        let end = (it.at.div_euclid(every) + 1) * every;
        (it.batch, (end, it.reading()))
    });
    sorted(late.collect())
}

/// A tumbling window without allowed lateness has the records of an interval of event time, and its late records.
#[test]
fn slack_gives_the_records_of_flinks_windows() {
    let windows = flink("slack", "interval").into_iter();
    let windows: BTreeMap<i64, Vec<Reading>> = windows
        .map(|it| {
            assert_eq!((it.end + 200, it.end - 1), (it.batch, it.watermark));
            (it.batch, it.records.iter().map(reading).collect())
        })
        .collect();
    for cut in CUTS {
        let build = |_: &StreamContext, streams: &Streams| {
            let slack = Slack::of(ms(200)).ahead(ANY);
            let timed = streams
                .readings
                .by_time("readings", |(_, (at, _))| at, slack);
            let timed = timed.unwrap();
            (timed.records().collect(), timed.late().pairs().collect())
        };
        run(cut, build, |(mut records, mut too_late)| {
            let found = batches(&mut records).unwrap().into_iter();
            let mut found: BTreeMap<i64, Vec<Reading>> = found
                .map(|(batch, records)| (batch.0 as i64, records))
                .collect();
            // Flink has no windows without records.
            found.retain(|_, records| !records.is_empty());
            if cut.0 == 1 {
                // In order of arrival.
                assert_eq!(found, windows);
            }
            let by_key = |batches: &BTreeMap<i64, Vec<Reading>>| {
                let batches = batches.clone().into_iter();
                batches
                    .map(|(batch, records)| (batch, sorted(records)))
                    .collect::<Vec<_>>()
            };
            assert_eq!(by_key(&found), by_key(&windows));
            assert_eq!(rows(&mut too_late), late("slack", 100));
        });
    }
}

/// Results as they were emitted and corrected, each with its batch.
#[derive(Debug, PartialEq)]
struct History<O> {
    first: Vec<(i64, (Key, O))>,
    updates: Vec<(i64, (Key, (u32, O)))>,
    /// Version, value before, and value after.
    corrections: Vec<(i64, (Key, u32, Option<O>, O))>,
}

/// What firings come to, if a batch emits a result once, and only where it changes: with the version of each.
fn history<O: Ord + Clone>(
    firings: &[Emitted],
    slack: i64,
    of: impl Fn(&Emitted) -> O,
) -> History<O> {
    // The last firing of each batch, in order of batches.
    let mut last: BTreeMap<(i64, Key), O> = BTreeMap::new();
    for firing in firings {
        last.insert((firing.batch, firing.key()), of(firing));
    }
    let mut known: BTreeMap<Key, (u32, O)> = BTreeMap::new();
    let mut history = History {
        first: Vec::new(),
        updates: Vec::new(),
        corrections: Vec::new(),
    };
    for ((batch, key), result) in last {
        let before = known.get(&key).cloned();
        if before.as_ref().is_some_and(|(_, before)| *before == result) {
            continue;
        }
        let version = before.as_ref().map_or(1, |(version, _)| version + 1);
        known.insert(key.clone(), (version, result.clone()));
        let update = (key.clone(), (version, result.clone()));
        history.updates.push((batch, update));
        match batch == key.0 + slack {
            true => history.first.push((batch, (key, result))),
            false => {
                let before = before.map(|(_, before)| before);
                let correction = (key, version, before, result);
                history.corrections.push((batch, correction));
            }
        }
    }
    history
}

/// The streams of results by event time.
struct Results<O> {
    first: RddReceiver<(Key, O)>,
    updates: RddReceiver<(Key, (u32, O))>,
    corrections: RddReceiver<Correction<String, O>>,
    finals: RddReceiver<(Key, O)>,
    late: RddReceiver<(i64, Reading)>,
    ahead: RddReceiver<(i64, Reading)>,
}

impl<O: Record + Ord + Clone> Results<O> {
    fn of<A: Agg<(i64, i64), Out = O>>(
        readings: &DStream<Reading>,
        intervals: Intervals,
        agg: A,
    ) -> Self {
        let keyed: Keyed<String, (i64, i64)> = readings.by_key();
        let results = keyed
            .agg_by_time("results", |(at, _)| at, intervals, agg)
            .unwrap();
        Results {
            first: results.first().pairs().collect(),
            updates: results.updates().pairs().collect(),
            corrections: results.corrections().collect(),
            finals: results.finals().pairs().collect(),
            late: results.late().pairs().collect(),
            ahead: results.ahead().pairs().collect(),
        }
    }

    fn history(&mut self) -> History<O> {
        let corrections = batches(&mut self.corrections).unwrap().into_iter();
        let corrections = corrections.flat_map(|(batch, rows)| {
            let rows = rows.into_iter().map(|it| {
                let key = (it.interval, it.key);
                (key, it.version, it.before, it.after)
            });
            rows.map(move |row| (batch.0 as i64, row))
                .collect::<Vec<_>>()
        });
        History {
            first: rows(&mut self.first),
            updates: rows(&mut self.updates),
            corrections: sorted(corrections.collect()),
        }
    }
}

/// The results that Flink has when it drops a window, with the batch of that.
fn dropped<O: Ord>(case: &str, of: impl Fn(&Emitted) -> O) -> Vec<(i64, (Key, O))> {
    let dropped = flink(case, "dropped");
    sorted(
        dropped
            .iter()
            .map(|it| (it.batch, (it.key(), of(it))))
            .collect(),
    )
}

fn tumbling() -> Intervals {
    Intervals::every(ms(200))
        .slack(ms(100))
        .correct_for(ms(300))
        .ahead(ANY)
}

fn check_totals(case: &str, intervals: Intervals, slack: i64) {
    let firings = flink(case, "fired");
    let wanted = history(&firings, slack, Emitted::totals);
    assert!(wanted.first.len() > 30, "{} results", wanted.first.len());
    for cut in CUTS {
        let build = |_: &StreamContext, streams: &Streams| {
            let agg = (count(), sum_of::<i64>("value"));
            Results::of(&streams.readings, intervals, agg)
        };
        run(cut, build, |mut results| {
            assert_eq!(results.history(), wanted);
            let finals = rows(&mut results.finals);
            assert_eq!(finals, dropped(case, Emitted::totals));
            assert_eq!(rows(&mut results.late), late(case, 200));
            assert!(rows(&mut results.ahead).is_empty());
        });
    }
}

#[test]
fn results_and_corrections_are_those_of_allowed_lateness() {
    check_totals("tumbling", tumbling(), 100);
    let firings = flink("tumbling", "fired");
    let history = history(&firings, 100, Emitted::totals);
    // Some are corrected twice, some first emitted by a late record, and some batches have several late records of one.
    assert!(
        history
            .updates
            .iter()
            .any(|(_, (_, (version, _)))| *version > 2)
    );
    let by_late = |(_, (_, version, before, _)): &(i64, (Key, u32, Option<Totals>, Totals))| {
        *version == 1 && before.is_none()
    };
    assert!(history.corrections.iter().any(by_late));
    assert!(firings.len() > history.updates.len());
    // Flink's watermark is the end of the window at the first firing, and later in the batches that follow.
    let first = |it: &&Emitted| it.batch == it.end + 100;
    assert!(
        firings
            .iter()
            .filter(first)
            .all(|it| it.watermark == it.end - 1)
    );
}

#[test]
fn results_without_corrections_are_those_without_lateness() {
    let intervals = Intervals::every(ms(200)).slack(ms(200)).ahead(ANY);
    check_totals("not_corrected", intervals, 200);
    let firings = flink("not_corrected", "fired");
    let history = history(&firings, 200, Emitted::totals);
    assert!(history.corrections.is_empty());
}

/// A late record that leaves the maximum as it is makes Flink fire again, and is no correction.
#[test]
fn results_that_stay_the_same_are_not_corrected() {
    let firings = flink("tumbling", "fired");
    let wanted = history(&firings, 100, |it| it.max);
    let all = history(&firings, 100, Emitted::totals);
    assert!(wanted.corrections.len() < all.corrections.len());
    for cut in CUTS {
        let build = |_: &StreamContext, streams: &Streams| {
            Results::of(&streams.readings, tumbling(), max_of::<i64>("value"))
        };
        run(cut, build, |mut results| {
            assert_eq!(results.history(), wanted);
            assert_eq!(rows(&mut results.finals), dropped("tumbling", |it| it.max));
        });
    }
}

/// Results less the records that only one of both counts.
fn without(
    results: Vec<(i64, (Key, Totals))>,
    records: &[(i64, Key, i64)],
) -> Vec<(i64, (Key, Totals))> {
    let less = results.into_iter().map(|(batch, (key, (count, sum)))| {
        let not_counted = records.iter().filter(|(_, of, _)| *of == key);
        let (fewer, less) = not_counted.fold((0, 0), |(n, sum), it| (n + 1, sum + it.2));
        (batch, (key, (count - fewer, sum - less)))
    });
    less.filter(|(_, (_, (count, _)))| *count > 0).collect()
}

/// A record of two windows that overlap is late here once the first of them is final; Flink counts it in the second.
#[test]
fn records_of_windows_that_overlap_are_late_with_their_own_interval() {
    let intervals = Intervals::every(ms(200))
        .over(ms(400))
        .slack(ms(100))
        .correct_for(ms(200))
        .ahead(ANY);
    let flink_late = late("hopping", 200);
    for cut in CUTS {
        let build = |_: &StreamContext, streams: &Streams| {
            let agg = (count(), sum_of::<i64>("value"));
            Results::of(&streams.readings, intervals, agg)
        };
        run(cut, build, |mut results| {
            let late = rows(&mut results.late);
            assert!(flink_late.iter().all(|record| late.contains(record)));
            // In Flink they are in the window that ends an interval later, which is final with that batch or later.
            let more = late.iter().filter(|record| !flink_late.contains(record));
            let more: Vec<(i64, Key, i64)> = more
                .map(|(batch, (end, (key, (_, n))))| {
                    assert!(end + 200 + 100 + 200 >= *batch);
                    (*batch, (end + 200, key.clone()), *n)
                })
                .collect();
            assert!(!more.is_empty());
            let wanted = without(dropped("hopping", Emitted::totals), &more);
            assert_eq!(rows(&mut results.finals), wanted);
            // Before the first of them, both emit the same.
            let until = more.iter().map(|(batch, ..)| *batch).min().unwrap();
            let wanted = history(&flink("hopping", "fired"), 100, Emitted::totals);
            let found = results.history();
            let early = |updates: &[(i64, (Key, (u32, Totals)))]| {
                let early = updates.iter().filter(|(batch, _)| *batch < until);
                early.cloned().collect::<Vec<_>>()
            };
            assert!(early(&found.updates).len() > 5);
            assert_eq!(early(&found.updates), early(&wanted.updates));
        });
    }
}

/// Flink has results of the far future when a clock is fast; here these records are in a stream of their own.
#[test]
fn records_of_a_fast_clock_are_ahead() {
    let intervals = tumbling().ahead(ms(200));
    for cut in CUTS {
        let build = |_: &StreamContext, streams: &Streams| {
            let agg = (count(), sum_of::<i64>("value"));
            Results::of(&streams.readings, intervals, agg)
        };
        run(cut, build, |mut results| {
            let ahead = rows(&mut results.ahead);
            assert_eq!(ahead.len(), 3);
            let fast = ahead.into_iter().map(|(batch, (end, (key, (_, n))))| {
                assert_eq!(key, "fast");
                (batch, (end, key), n)
            });
            let wanted = without(
                dropped("tumbling", Emitted::totals),
                &fast.collect::<Vec<_>>(),
            );
            assert_eq!(rows(&mut results.finals), wanted);
            assert_eq!(rows(&mut results.late), late("tumbling", 200));
        });
    }
}

/// First and last event time, count and sum of a session.
type Session = (String, ((i64, i64), Totals));

#[test]
fn sessions_are_those_of_flink_except_at_exactly_the_gap() {
    let firings = flink("sessions", "fired").into_iter();
    let firings = firings.map(|it| {
        (
            it.batch,
            (it.key.clone(), ((it.first, it.last), it.totals())),
        )
    });
    let (at_the_gap, wanted): (Vec<(i64, Session)>, _) =
        firings.partition(|(_, (key, _))| key == "gap");
    assert!(wanted.iter().any(|(_, (key, _))| key == "less"));
    let late = flink("sessions", "late").into_iter();
    let late: Vec<(i64, Reading)> = late.map(|it| (it.batch, it.reading())).collect();
    for cut in CUTS {
        let build = |_: &StreamContext, streams: &Streams| {
            let gap = Sessions::gap(ms(200)).slack(ms(100));
            let agg = (count(), sum_of::<i64>("value"));
            let visits = streams.visits.by_key();
            let sessions = visits
                .session_agg("visits", |(at, _)| at, gap, agg)
                .unwrap();
            let too_late = sessions.late().pairs().collect();
            (sessions.ended().pairs().collect(), too_late)
        };
        run(cut, build, |(mut ended, mut too_late)| {
            let ended = rows::<Session>(&mut ended).into_iter();
            let (two, ended): (Vec<_>, Vec<_>) = ended.partition(|(_, (key, _))| key == "gap");
            assert_eq!(ended, sorted(wanted.clone()));
            assert_eq!(rows(&mut too_late), sorted(late.clone()));
            let span = |(_, (_, (span, _))): &(i64, Session)| *span;
            let spans: Vec<_> = at_the_gap.iter().map(span).collect();
            assert_eq!(spans, [(1510, 1710)]);
            let spans: Vec<_> = two.iter().map(span).collect();
            assert_eq!(spans, [(1510, 1510), (1710, 1710)]);
        });
    }
}

/// The pairs of intervals that are near each other have those of Flink, and some whose times are not: a filter
/// compares the times. They come the slack after the later record's interval.
#[test]
fn joined_pairs_are_those_of_the_interval_join() {
    type Pair = (String, ((i64, i64), (i64, i64)));
    let pairs = flink("join", "pair").into_iter();
    let wanted: Vec<Pair> = sorted(pairs.map(|it| (it.key, (it.pair[0], it.pair[1]))).collect());
    assert!(wanted.len() > 20, "{} pairs", wanted.len());
    for cut in CUTS {
        let build = |_: &StreamContext, streams: &Streams| {
            let by_time = |stream: &DStream<Reading>, name: &str| {
                let slack = Slack::of(ms(200));
                let timed = stream.by_time(name, |(_, (at, _))| at, slack).unwrap();
                timed.records().by_key()
            };
            let views = by_time(&streams.views, "views");
            let clicks = by_time(&streams.clicks, "clicks");
            let within = Within::new(ms(100), ms(200));
            let joined = views.join_within("joined", &clicks, within).unwrap();
            joined.pairs().pairs().collect()
        };
        run(cut, build, |mut joined: RddReceiver<Pair>| {
            let all = rows(&mut joined);
            for (batch, (_, ((view, _), (click, _)))) in &all {
                let end = (view.max(click).div_euclid(100) + 1) * 100;
                assert_eq!(*batch, end + 200);
            }
            let near = |pair: &Pair| {
                let later = pair.1.1.0 - pair.1.0.0;
                (-100..=200).contains(&later)
            };
            let found = all.iter().map(|(_, pair)| pair.clone());
            let found: Vec<Pair> = sorted(found.filter(near).collect());
            assert_eq!(found, wanted);
            assert!(all.len() > wanted.len());
        });
    }
}
