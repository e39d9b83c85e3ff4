//! Joins that would have no bound, that do not fit, or that are of a stream with itself.

use std::time::Duration;

use dstreams::agg::count;
use dstreams::testing::{TestProgram, batches, records};
use dstreams::{AsOf, Error, Result, Slack, StreamContext, Within};

use crate::program::{INTERVAL, block_on};

/// A million records of one key: as many are held as the join allows, and the others are refused to a stream.
#[test]
fn a_key_with_a_million_records_is_bounded() {
    const RECORDS: i64 = 1_000_000;
    const MOST: i64 = 1_000;
    block_on(async {
        let mut test = TestProgram::new(INTERVAL).unwrap();
        let (one, first) = test.context().queue::<(i64, i64)>("first");
        let (two, second) = test.context().queue::<(i64, i64)>("second");
        let within = Within::new(Duration::ZERO, 10 * INTERVAL).max_records(MOST as usize);
        let joined = first
            .by_key()
            .join_within("near", &second.by_key(), within)
            .unwrap();
        let mut pairs = joined.pairs().pairs().count().unwrap().collect();
        let mut refused = joined.refused().pairs().count().unwrap().collect();
        let mut run = test.start().await.unwrap();
        let mut refusals = 0;
        for part in 0..4 {
            let from = part * RECORDS / 4;
            one.push((from..from + RECORDS / 4).map(|n| (7, n)))
                .await
                .unwrap();
            two.push([(7, part), (8, part)]).await.unwrap();
            run.end_interval().await.unwrap();
            assert_eq!(records(&mut pairs).unwrap(), [MOST]);
            refusals += records(&mut refused).unwrap()[0];
        }
        assert_eq!(refusals, RECORDS - MOST);
        run.stop().await.unwrap();
    });
}

/// Both are named, and what to do; and it helps.
#[test]
fn streams_that_are_late_by_different_times_are_refused() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<(i64, i64)>("events");
    let (_, others) = ctx.queue::<(i64, i64)>("others");
    let by = |name, wait| {
        let timed = events.by_time(name, |(_, at_ms)| at_ms, Slack::of(wait * INTERVAL));
        timed.unwrap().records().by_key()
    };
    let (two, three) = (by("two", 2), by("three", 3));
    let others = others.by_key();
    let state = others.running_agg("state", count()).unwrap();
    let refused = |result: Result<()>| match result.err() {
        Some(Error::Graph { operator, message }) => {
            for part in ["late by different times", "`delayed`", "300 ms"] {
                assert!(
                    message.contains(part),
                    "{operator}: `{part}` is not in: {message}"
                );
            }
            assert!(
                message.matches(".rs:").count() == 2,
                "does not name both: {message}"
            );
        }
        other => panic!("not refused: {other:?}"),
    };
    let within = Within::new(INTERVAL, INTERVAL);
    for other in [&two, &others] {
        refused(three.join(other).map(drop));
        refused(three.left_join(other).map(drop));
        refused(other.full_join(&three).map(drop));
        refused(three.cogroup(other).map(drop));
        refused(three.join_within("near", other, within).map(drop));
        refused(three.union(other).map(drop));
        let pairs = [three.pairs(), other.pairs()];
        let query = "select a.key from a join b on a.key = b.key";
        refused(
            ctx.sql::<i64>(&[("a", &pairs[0]), ("b", &pairs[1])], query)
                .map(drop),
        );
    }
    refused(three.with_state(&state, AsOf::After).map(drop));
    // As late as each other.
    let delayed = [
        two.delayed(INTERVAL).unwrap(),
        others.delayed(3 * INTERVAL).unwrap(),
    ];
    for other in &delayed {
        let _ = three.join(other).unwrap();
    }
    let state = delayed[1].running_agg("delayed", count()).unwrap();
    let _ = three.with_state(&state, AsOf::After).unwrap();
}

/// A slow stream beside a fast one is refused; its newest RDD at every interval is not.
#[test]
fn streams_with_different_slides_are_refused() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<(i64, i64)>("events");
    let events = events.by_key();
    let slow = events
        .window_agg(4 * INTERVAL, 2 * INTERVAL, count())
        .unwrap();
    let message = events.join(&slow).err().unwrap().to_string();
    for part in ["every 100 ms", "every 200 ms", "same slide", "`latest`"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    let _ = events.join(&slow.latest()).unwrap();
}

/// A stream joined with itself over time: a record meets itself, those before it and those after it, each pair once.
#[test]
fn a_stream_is_joined_with_itself_over_time() {
    block_on(async {
        let mut test = TestProgram::new(INTERVAL).unwrap();
        let (queue, logins) = test.context().queue::<(i64, i64)>("logins");
        let logins = logins.by_key();
        let within = Within::new(Duration::ZERO, 2 * INTERVAL);
        let again = logins.join_within("again", &logins, within).unwrap();
        let others = again.pairs().filter(|_, (first, second)| first != second);
        let (mut pairs, mut others) = (again.pairs().pairs().collect(), others.pairs().collect());
        let mut alone = again.first_unmatched().pairs().collect();
        let mut run = test.start().await.unwrap();
        let input: Vec<Vec<(i64, i64)>> = (0..12i64)
            .map(|batch| {
                (0..batch % 4)
                    .map(|n| (n * batch % 3, batch * 10 + n))
                    .collect()
            })
            .collect();
        for logins in &input {
            queue.push(logins.iter().copied()).await.unwrap();
            run.end_interval().await.unwrap();
        }
        let all = input.concat();
        let mut wanted = Vec::new();
        for (key, v) in &all {
            let later = all
                .iter()
                .filter(|(_, w)| (0..=2).contains(&(w / 10 - v / 10)));
            wanted.extend(
                later
                    .filter(|(other, _)| other == key)
                    .map(|(_, w)| (*key, (*v, *w))),
            );
        }
        wanted.sort();
        let found = batches(&mut pairs)
            .unwrap()
            .into_iter()
            .flat_map(|(_, pairs)| pairs);
        let mut found: Vec<_> = found.collect();
        found.sort();
        assert_eq!(found, wanted);
        wanted.retain(|(_, (v, w))| v != w);
        let mut found = records(&mut others).unwrap();
        found.sort();
        assert_eq!(found, wanted);
        // Each met itself.
        assert_eq!(records(&mut alone).unwrap(), []);
        run.stop().await.unwrap();
    });
}
