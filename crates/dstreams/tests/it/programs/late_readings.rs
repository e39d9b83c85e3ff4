//! The mean of each sensor for each ten seconds of event time, emitted once three seconds more are over; what
//! comes later is a stream of its own.
//!
//! Two ways, which differ in what is late. `agg_by_time` waits for the interval of the result: a reading of its first
//! second may come until three seconds after the last. `by_time` waits for the interval of the stream, here a second:
//! every reading has three seconds.

use dstreams::agg::{avg_of, count};
use dstreams::testing::{TestProgram, records, sorted};
use dstreams::{DStream, Intervals, Record, Result, Slack};

use super::{SECOND, arrivals, end_of, feed, random, sql, table};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Reading {
    sensor: i64,
    celsius: f64,
    at_ms: i64,
}

/// Mean and number.
type Mean = (f64, i64);
/// Sensors with the end of the interval, and late readings.
type Means = (DStream<((i64, i64), Mean)>, DStream<Reading>);

fn by_interval_of_result(readings: &DStream<Reading>) -> Result<Means> {
    let tens = Intervals::every(10 * SECOND).slack(3 * SECOND);
    let means = (avg_of::<f64>("celsius"), count());
    let by_sensor = readings.key_by(|it| it.sensor);
    let means = by_sensor.agg_by_time("means", |it| it.at_ms, tens, means)?;
    let late = means
        .late()
        .pairs()
        .map(|(_, (_, late))| Reading::own(late));
    Ok((means.finals().pairs(), late))
}

fn by_interval_of_stream(readings: &DStream<Reading>) -> Result<Means> {
    let readings = readings.by_time("readings", |it| it.at_ms, Slack::of(3 * SECOND))?;
    let means = (avg_of::<f64>("celsius"), count());
    let by_sensor = readings.records().key_by(|it| it.sensor);
    let means = by_sensor.window_agg(10 * SECOND, 10 * SECOND, means)?;
    let means = means.with_time().pairs();
    let means = means.map(|(sensor, (end, mean))| ((end, sensor), mean));
    let late = readings.late().pairs().map(|(_, late)| Reading::own(late));
    Ok((means, late))
}

#[test]
fn means_by_event_time_and_what_is_late() {
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (queue, readings) = test.context().queue::<Reading>("readings");
        let ways = [
            by_interval_of_result(&readings),
            by_interval_of_stream(&readings),
        ];
        let mut found = ways.map(|way| {
            let (means, late) = way.unwrap();
            (means.collect(), late.map(|it| it.at_ms).collect())
        });
        // Arrival, sensor, temperature, event time: one in four is up to twelve seconds late.
        let reading = |n: i64| {
            let (r, at_ms) = (random(n as u64), n * 83);
            let delay = if r.is_multiple_of(4) {
                r / 4 % 12_000
            } else {
                r / 4 % 500
            };
            let celsius = (r / 1_000_000 % 100) as f64;
            (
                at_ms + delay as i64,
                Reading {
                    sensor: (r / 100 % 4) as i64,
                    celsius,
                    at_ms,
                },
            )
        };
        let sent: Vec<(i64, Reading)> = (0..480).map(reading).collect();
        let mut run = test.start().await.unwrap();
        feed(&mut run, &queue, arrivals(sent.clone(), 54)).await;
        run.stop().await.unwrap();

        for (every, (means, late)) in [10_000, 1_000].into_iter().zip(&mut found) {
            let in_time =
                |it: &&(i64, Reading)| end_of(it.0, 1_000) <= end_of(it.1.at_ms, every) + 3_000;
            let readings: Vec<Reading> =
                sent.iter().filter(in_time).map(|it| it.1.clone()).collect();
            let tables = [("readings", table(&readings))];
            let wanted = "select at_ms / 10000 * 10000 + 10000 as i, sensor, avg(celsius), count(*)
                          from readings group by 1, 2 order by 1, 2";
            let wanted: Vec<(i64, i64, f64, i64)> = sql(&tables, wanted).await;
            let mut emitted: Vec<((i64, i64), Mean)> = records(means).unwrap();
            emitted.sort_by_key(|(key, _)| *key);
            let emitted = emitted
                .into_iter()
                .map(|((end, sensor), (mean, n))| (end, sensor, mean, n));
            assert_eq!(emitted.collect::<Vec<_>>(), wanted);
            let wanted = sent
                .iter()
                .filter(|it| !in_time(it))
                .map(|it| it.1.at_ms)
                .collect();
            let emitted: Vec<i64> = records(late).unwrap();
            assert!(emitted.len() > 10 && emitted.len() + readings.len() == sent.len());
            assert_eq!(sorted(emitted), sorted(wanted));
        }
    });
}
