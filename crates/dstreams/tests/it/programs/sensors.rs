//! The temperature of each sensor over a minute, one alert for each time that it becomes hot, another when a sensor
//! is silent, or was never heard of. Sensors send nulls.

use std::collections::{BTreeMap, BTreeSet};

use dstreams::agg::{avg_some, count_some, max_some};
use dstreams::testing::{TestProgram, batches, records, sorted};
use dstreams::{DStream, MapWithState, Record, Result, Track};

use super::{SECOND, ends, random, sql, table};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Reading {
    sensor: i64,
    celsius: Option<f64>,
}

#[derive(Record, Debug, Clone, PartialEq, PartialOrd)]
struct Hot {
    since_ms: i64,
    sensor: i64,
    mean: f64,
    highest: f64,
}

/// Of the minutes of a sensor: mean, highest and number of readings.
type Minute = (Option<f64>, Option<f64>, i64);
/// The state is whether the sensor is hot.
type Episodes = MapWithState<i64, (i64, Minute), bool, Hot>;

/// The alerts, and the silent sensors with their last temperature.
fn describe(readings: &DStream<Reading>) -> Result<(DStream<Hot>, DStream<(i64, Option<f64>)>)> {
    let readings = readings.key_by(|it| it.sensor).map_values(|it| it.celsius);
    let of_a_minute = (avg_some::<f64>(), max_some::<f64>(), count_some());
    let minutes = readings.window_agg(60 * SECOND, 10 * SECOND, of_a_minute)?;
    let episodes = Episodes::new(|sensor, minute, was_hot, out| {
        let Some((since_ms, (Some(mean), Some(highest), readings))) = minute else {
            return;
        };
        let is_hot = mean > 80.0 && readings >= 3;
        if is_hot && was_hot.get() != Some(&true) {
            out.push(Hot {
                since_ms,
                sensor,
                mean,
                highest,
            });
        }
        was_hot.set(is_hot);
    });
    // A sensor that is in no window for ten seconds is forgotten.
    let (hot, _) = minutes
        .with_time()
        .map_with_state("hot", episodes.timeout(20 * SECOND))?;

    let last = Track::<i64, Option<f64>, Option<f64>>::new(
        |_, celsius| celsius,
        |_, last: Option<f64>, celsius| Some(celsius.or(last)),
    );
    let last = last
        .timeout(120 * SECOND)
        .initial((0..6).map(|sensor| (sensor, None)));
    let silent = readings.track("last", last)?.timed_out().pairs();
    Ok((hot, silent))
}

#[test]
fn hot_and_silent_sensors() {
    block_on(async {
        let mut test = TestProgram::new(10 * SECOND).unwrap();
        let (queue, readings) = test.context().queue::<Reading>("readings");
        let (hot, silent) = describe(&readings).unwrap();
        let (mut hot, mut silent) = (hot.collect(), silent.collect());

        // Sensor 0 is never heard of; 1 falls silent at 100 s, 2 until 200 s; 3 sends nulls alone.
        let reading = |second: i64, sensor: i64| {
            let silent = match sensor {
                0 => true,
                1 => second > 100,
                2 => (100..200).contains(&second),
                _ => false,
            };
            let r = random((second * 10 + sensor) as u64);
            let warm = 60 + (second / 70 + sensor) % 3 * 20 + (r % 11) as i64;
            let celsius = (sensor != 3 && !r.is_multiple_of(7)).then_some(warm as f64);
            (!silent && r.is_multiple_of(3)).then_some(Reading { sensor, celsius })
        };
        let mut run = test.start().await.unwrap();
        let mut sent = Vec::new();
        for batch in 1..=50 {
            let seconds = (batch - 1) * 10..batch * 10;
            let of = |second| (0..6).filter_map(move |sensor| reading(second, sensor));
            let readings: Vec<Reading> = seconds.flat_map(of).collect();
            sent.extend(
                readings
                    .iter()
                    .map(|it| (batch * 10_000, (it.sensor, it.celsius))),
            );
            queue.push(readings).await.unwrap();
            run.end_interval().await.unwrap();
        }
        run.stop().await.unwrap();

        let tables = [("r", table(&sent)), ("ends", ends(10_000, 500_000))];
        let minutes = "
            select e.value as w, r.value_key, avg(r.value_value), max(r.value_value), count(r.value_value)
            from r join ends e on r.key <= e.value and r.key > e.value - 60000 group by 1, 2 order by 1, 2";
        let minutes: Vec<(i64, i64, Option<f64>, Option<f64>, i64)> = sql(&tables, minutes).await;
        let (mut wanted, mut were_hot) = (Vec::new(), BTreeSet::new());
        for end in (1..=50).map(|n| n * 10_000) {
            let mut are_hot = BTreeSet::new();
            for (_, sensor, mean, highest, readings) in minutes.iter().filter(|it| it.0 == end) {
                let Some((mean, highest)) = mean.zip(*highest) else {
                    continue;
                };
                if mean > 80.0 && *readings >= 3 {
                    are_hot.insert(*sensor);
                    if !were_hot.contains(sensor) {
                        wanted.push(Hot {
                            since_ms: end,
                            sensor: *sensor,
                            mean,
                            highest,
                        });
                    }
                }
            }
            were_hot = are_hot;
        }
        assert!(wanted.len() > 3, "{wanted:?}");
        let mut found = records(&mut hot).unwrap();
        found.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert_eq!(found, wanted);

        // The batch of the last reading, at first that before the program; and the last temperature.
        let mut heard: BTreeMap<i64, (i64, Option<f64>)> =
            (0..6).map(|it| (it, (0, None))).collect();
        let mut wanted = Vec::new();
        for end in (1..=50).map(|n| n * 10_000) {
            heard.retain(|sensor, (last, celsius)| {
                let silent = *last + 120_000 <= end;
                wanted.extend(silent.then_some((end as u64, *sensor, celsius.map(|it| it as i64))));
                !silent
            });
            for (_, (sensor, celsius)) in sent.iter().filter(|(batch, _)| *batch == end) {
                let (last, before) = heard.entry(*sensor).or_default();
                (*last, *before) = (end, celsius.or(*before));
            }
        }
        let found = batches(&mut silent)
            .unwrap()
            .into_iter()
            .flat_map(|(batch, silent)| {
                let rows = silent.into_iter();
                rows.map(move |(sensor, last)| (batch.millis(), sensor, last.map(|it| it as i64)))
            });
        assert_eq!(sorted(found.collect()), sorted(wanted));
    });
}
