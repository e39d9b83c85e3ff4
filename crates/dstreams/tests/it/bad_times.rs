//! Records whose event time is wrong: before 1970, in the year 300,000, hours ahead, or not there.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::files::{Files, Format};
use dstreams::testing::{TestProgram, batches, records, sorted};
use dstreams::{Intervals, ManualClock, Millis, RddReceiver, Record, Slack};

use crate::dir::Dir;
use crate::files_sink::visible;
use crate::files_source::put;
use crate::program::block_on;

const SECOND: Duration = Duration::from_secs(1);
/// A full minute on 2026-11-29.
const TODAY: i64 = 1_795_970_640_000;
/// 300,000-01-01.
const YEAR_300_000: i64 = 9_404_918_380_800_000;
const HOUR: i64 = 3_600_000;

fn program() -> TestProgram {
    let clock = ManualClock::new();
    clock.set(Duration::from_millis(TODAY as u64));
    TestProgram::new(SECOND).unwrap().on_clock(&clock)
}

fn all<T: Record>(output: &mut RddReceiver<T>) -> Vec<T> {
    records(output).unwrap()
}

/// Each is late or ahead, with the batch in which it comes; nothing is held, and times of any size are named.
#[test]
fn times_of_other_eras_are_late_or_ahead() {
    let times = [
        i64::MIN,
        i64::MIN + 1,
        -YEAR_300_000,
        -1_001,
        -1,
        0,
        YEAR_300_000,
        i64::MAX - 1,
        i64::MAX,
    ];
    // The end of the interval of a second; beyond the last one, the last time.
    let named = |time: i64| {
        let end = (i128::from(time).div_euclid(1_000) + 1) * 1_000;
        (i64::try_from(end).unwrap_or(i64::MAX), time)
    };
    let wanted: Vec<_> = times.into_iter().map(named).collect();
    for seconds in [1, 4] {
        block_on(async {
            let mut test = program();
            let (queue, stream) = test.context().queue::<Millis>("times");
            let slack = Slack::of(3 * SECOND);
            let timed = stream.by_time("by time", |at| at.0, slack).unwrap();
            let mut on_time = timed.records().collect();
            let strays = [timed.late(), timed.ahead()];
            let mut strays = strays.map(|it| it.map_values(|at| at.0).pairs().collect());
            let tens = Intervals::every(SECOND)
                .over(seconds * SECOND)
                .correct_for(3 * SECOND);
            let counts = stream
                .key_by(|_| 0i64)
                .agg_by_time("counts", |at| at.0, tens, count());
            let counts = counts.unwrap();
            let mut held = counts.all().pairs().collect();
            let mut finals = counts
                .finals()
                .pairs()
                .map(|((end, _), n)| (end, n))
                .collect();
            let of_counts = [counts.late(), counts.ahead()];
            let mut of_counts = of_counts.map(|it| it.map_values(|(_, at)| at.0).pairs().collect());
            let mut run = test.start().await.unwrap();
            queue.push(times.map(Millis)).await.unwrap();
            queue.push([Millis(TODAY)]).await.unwrap();
            run.end_interval().await.unwrap();
            for [late, ahead] in [&mut strays, &mut of_counts] {
                assert_eq!(sorted(all(late)), wanted[..6]);
                assert_eq!(sorted(all(ahead)), wanted[6..]);
            }
            // Only that of today.
            assert!(all(&mut held).len() as u32 <= seconds);
            for _ in 0..8 {
                run.end_interval().await.unwrap();
            }
            assert_eq!(all(&mut on_time), [Millis(TODAY)]);
            let wanted = (1..=i64::from(seconds)).map(|n| (TODAY + n * 1_000, 1));
            assert_eq!(all(&mut finals), wanted.collect::<Vec<_>>());
            let (_, held) = batches(&mut held).unwrap().pop().unwrap();
            assert_eq!(held, []);
            run.stop().await.unwrap();
        });
    }
}

/// A stream by event time has its records in their intervals: nothing puts them there once more.
#[test]
fn event_times_behind_event_time_are_refused() {
    let mut test = program();
    let (_queue, stream) = test.context().queue::<Millis>("times");
    let slack = Slack::of(3 * SECOND);
    let timed = stream.by_time("by time", |at| at.0, slack).unwrap();
    let late = [timed.records(), stream.delayed(2 * SECOND).unwrap()];
    for (stream, by) in late.iter().zip([3_000, 2_000]) {
        let message = format!("late by {by} ms already, by `by_time` or `delayed`");
        let again = stream.by_time("again", |at| at.0, slack).map(|_| ());
        let keyed = stream.key_by(|_| 0i64);
        let counts = keyed.agg_by_time("counts", |at| at.0, Intervals::every(SECOND), count());
        for (refused, remedy) in [
            (again, "once, before"),
            (counts.map(|_| ()), "`window_agg`"),
        ] {
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains(&message) && refused.contains(remedy),
                "{refused}"
            );
        }
    }
}

/// Such times cross queries as what they are, and are written to files as what they are.
#[test]
fn times_of_other_eras_are_read_and_written() {
    let times = [-YEAR_300_000, -1, 0, TODAY, YEAR_300_000, i64::MAX].map(|at| (1i64, Millis(at)));
    let texts = [
        "-296060-01-02T00:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00Z",
        "2026-11-29T16:44:00Z",
        "+300000-01-01T00:00:00Z",
        "+292278994-08-17T07:12:55.807Z",
    ];
    for format in [Format::JsonLines, Format::Csv] {
        let (found, written) = block_on(async {
            let dir = Dir::new();
            let mut test = program();
            let (queue, stream) = test.context().queue::<(i64, Millis)>("times");
            let later = stream.sql::<(i64, Millis)>("select key, value from this where key = 1");
            let later = later.unwrap();
            later.write_files(dir.path(), format).unwrap();
            let mut read = later.collect();
            let mut run = test.start().await.unwrap();
            queue.push(times).await.unwrap();
            run.end_interval().await.unwrap();
            run.stop().await.unwrap();
            // As any other program reads them.
            (all(&mut read), visible::<(i64, String)>(dir.path(), format))
        });
        assert_eq!(found, times);
        let written = written.into_values().flatten().map(|(_, text)| text);
        assert_eq!(written.collect::<Vec<_>>(), texts, "{format:?}");
    }
}

#[derive(Record, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Reading {
    producer: i64,
    at: Millis,
}

/// A producer whose clock is two hours ahead: its records are not held until then, and those of others do not wait for it.
#[test]
fn a_fast_clock_holds_up_nothing() {
    block_on(async {
        let mut test = program();
        let (queue, stream) = test.context().queue::<Reading>("readings");
        let slack = Slack::of(2 * SECOND);
        let timed = stream.by_time("by time", |it| it.at.0, slack).unwrap();
        let mut on_time = timed.records().collect();
        let mut ahead = timed.ahead().pairs().collect();
        let intervals = Intervals::every(SECOND).slack(2 * SECOND);
        let by_producer = stream.key_by(|it| it.producer);
        let counts = by_producer
            .agg_by_time("counts", |it| it.at.0, intervals, count())
            .unwrap();
        let mut finals = counts
            .finals()
            .pairs()
            .map(|((_, producer), n)| (producer, n))
            .collect();
        let mut most = counts.all().pairs().count().unwrap().collect();
        let mut run = test.start().await.unwrap();
        let mut sent = Vec::new();
        for batch in 0..20 {
            let now = TODAY + 1_000 * batch;
            let readings = [(1, now), (2, now + 2 * HOUR), (3, now + 999)];
            let readings = readings.map(|(producer, at)| Reading {
                producer,
                at: Millis(at),
            });
            sent.extend(readings.clone());
            queue.push(readings).await.unwrap();
            run.end_interval().await.unwrap();
            let wrong = all(&mut ahead);
            let end = now + 2 * HOUR + 1_000;
            assert_eq!(wrong.iter().map(|(end, _)| *end).collect::<Vec<_>>(), [end]);
            assert_eq!(wrong[0].1.producer, 2);
            // Two producers in three intervals.
            assert!(all(&mut most)[0] <= 6);
            let wanted: &[Reading] = match batch {
                0 | 1 => &[],
                _ => &sent[3 * (batch as usize - 2)..][..3],
            };
            let right = wanted.iter().filter(|it| it.producer != 2).cloned();
            assert_eq!(
                sorted(all(&mut on_time)),
                right.collect::<Vec<_>>(),
                "{batch}"
            );
            let emitted = sorted(all(&mut finals));
            assert_eq!(
                emitted,
                if batch < 2 {
                    vec![]
                } else {
                    vec![(1, 1), (3, 1)]
                }
            );
        }
        // Nothing reads the ones of the counts.
        assert_eq!(run.running().status().rejected.values().sum::<u64>(), 20);
        run.stop().await.unwrap();
    });
}

#[derive(Record, Debug, Clone, PartialEq)]
struct Visit {
    who: String,
    at: Option<Millis>,
}

/// A null in a column of times: the program says what becomes of the record, before it is put into an interval.
#[test]
fn a_record_without_a_time_is_rejected_by_the_program() {
    block_on(async {
        let mut test = program();
        let (queue, visits) = test.context().queue::<Visit>("visits");
        let timed = visits.try_map(|visit| match visit.at {
            Some(at) => Ok((visit.who.to_owned(), at)),
            None => Err("a visit without a time"),
        });
        let mut without = timed.rejected().collect();
        let by_time = timed
            .ok()
            .by_time("visits", |(_, at)| at.0, Slack::of(SECOND))
            .unwrap();
        let mut on_time = by_time.records().map(|(who, _)| who.to_owned()).collect();
        let mut run = test.start().await.unwrap();
        let visit = |who: &str, at| Visit {
            who: who.to_owned(),
            at,
        };
        queue
            .push([visit("ada", Some(Millis(TODAY))), visit("bob", None)])
            .await
            .unwrap();
        run.end_interval().await.unwrap();
        run.end_interval().await.unwrap();
        assert_eq!(all(&mut on_time), ["ada"]);
        assert_eq!(
            all(&mut without),
            [("a visit without a time".to_owned(), visit("bob", None))]
        );
        run.stop().await.unwrap();
    });
}

/// Where a record must have a time, input without one is a dead letter, and no record.
#[test]
fn input_without_a_time_is_a_dead_letter() {
    block_on(async {
        let dir = Dir::new();
        let lines = [
            r#"{"key":1,"value":1795970640500}"#,
            r#"{"key":2,"value":null}"#,
            r#"{"key":3}"#,
            r#"{"key":4,"value":"soon"}"#,
        ];
        put(&dir, "clicks.jsonl", lines.join("\n"));
        let mut test = program();
        let ctx = test.context();
        let files = || Files::dir(dir.path(), Format::JsonLines).once();
        let times = ctx.files::<(i64, Millis)>("times", files()).unwrap();
        let mut times = times.collect();
        let clicks = ctx.files::<(i64, i64)>("clicks", files()).unwrap();
        ctx.stop_when_sources_end();
        let mut letters = ctx.dead_letters().map(|it| it.reason.to_owned()).collect();
        let mut clicks = clicks.collect();
        let run = test.start().await.unwrap();
        run.ended().await.unwrap();
        assert_eq!(all(&mut clicks), [(1, TODAY + 500)]);
        assert_eq!(all(&mut times), [(1, Millis(TODAY + 500))]);
        let letters = all(&mut letters);
        assert!(
            letters.len() == 6 && letters.iter().all(|why| why.contains("`value`")),
            "{letters:?}"
        );
    });
}
