//! Joins over time against nested loops over all records of all batches.

use std::time::Duration;

use dstreams::{Error, Slack, StreamContext, Within};
use proptest::prelude::*;

use crate::joins::{at, check_order, refused, run_two};
use crate::program::{
    INTERVAL, Interval, Program, block_on, cases, intervals, settings, small, text,
};

type First = (String, (i64, String));
type Second = (String, f64);

/// The records of a stream with their batches.
fn all<T: Clone>(input: &[Interval<T>]) -> Vec<(usize, T)> {
    let batches = (0..input.len()).flat_map(|batch| {
        let records = at(input, batch).into_iter();
        records.map(move |record| (batch, record))
    });
    batches.collect()
}

/// The pairs of each batch in their order: new first records with all partners, then new second ones with earlier ones.
fn pairs(
    (first, second): (&[Interval<First>], &[Interval<Second>]),
    (before, after): (usize, usize),
    batches: usize,
) -> Vec<Vec<(String, ((i64, String), f64))>> {
    let near = |v: usize, w: usize| v <= w + before && w <= v + after;
    let (first, second) = (all(first), all(second));
    let mut pairs = vec![Vec::new(); batches];
    for (now, pairs) in pairs.iter_mut().enumerate() {
        for (t, (key, v)) in first.iter().filter(|(t, _)| *t == now) {
            for (u, (other, w)) in second.iter().filter(|(u, _)| u <= t) {
                if key == other && near(*t, *u) {
                    pairs.push((key.clone(), (v.clone(), *w)));
                }
            }
        }
        for (u, (key, w)) in second.iter().filter(|(u, _)| *u == now) {
            for (t, (other, v)) in first.iter().filter(|(t, _)| t < u) {
                if key == other && near(*t, *u) {
                    pairs.push((key.clone(), (v.clone(), *w)));
                }
            }
        }
    }
    pairs
}

/// The records of each batch that leave with it and have no partner.
fn alone<T: Clone, S>(
    records: &[(usize, (String, T))],
    others: &[(usize, (String, S))],
    (earlier, later): (usize, usize),
    batches: usize,
) -> Vec<Vec<(String, T)>> {
    let mut alone = vec![Vec::new(); batches];
    for (t, (key, value)) in records {
        let mut partners = others.iter().filter(|(_, (other, _))| other == key);
        let near = |u: usize| u + earlier >= *t && u <= t + later;
        if !partners.any(|(u, _)| near(*u)) && t + later < batches {
            alone[t + later].push((key.clone(), value.clone()));
        }
    }
    alone
}

fn sorted<T: std::fmt::Debug>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort_by_cached_key(|row| format!("{row:?}"));
    rows
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn each_pair_is_there_once_in_its_batch_and_order(
        config in settings(),
        first in intervals((text(), (-3..4i64, text())), 7),
        second in intervals((text(), -1.0..1.0f64), 7),
        before in 0..4usize,
        after in 0..4usize,
    ) {
        let batches = first.len().max(second.len());
        let input = (&first[..], &second[..]);
        let within = Within::new(INTERVAL * before as u32, INTERVAL * after as u32);
        let got = run_two(&config, input, |first, second| {
            Ok(first.by_key().join_within("near", &second.by_key(), within)?.pairs().pairs())
        });
        let wanted = pairs(input, (before, after), batches);
        prop_assert_eq!(got.len(), batches);
        for (got, wanted) in got.iter().zip(&wanted) {
            check_order(got, wanted)?;
        }
        let left = run_two(&config, input, |first, second| {
            Ok(first.by_key().join_within("near", &second.by_key(), within)?.first_unmatched().pairs())
        });
        let wanted = alone(&all(&first), &all(&second), (before, after), batches);
        for (got, wanted) in left.into_iter().zip(wanted) {
            prop_assert_eq!(sorted(got.concat()), sorted(wanted));
        }
        let right = run_two(&config, input, |first, second| {
            Ok(first.by_key().join_within("near", &second.by_key(), within)?.second_unmatched().pairs())
        });
        let wanted = alone(&all(&second), &all(&first), (after, before), batches);
        for (got, wanted) in right.into_iter().zip(wanted) {
            prop_assert_eq!(sorted(got.concat()), sorted(wanted));
        }
    }
}

/// A key, and how many intervals before its batch the record happened.
type Late = (String, (i64, i64));

/// The same records with their event times.
fn with_times(input: &[Interval<Late>]) -> Vec<Interval<Late>> {
    let interval = INTERVAL.as_millis() as i64;
    let batches = (1..).zip(input.iter().cloned());
    let happened = |(batch, mut blocks): (i64, Interval<Late>)| {
        for (_, (late, _)) in blocks.iter_mut().flatten() {
            *late = (batch - *late) * interval - 1;
        }
        blocks
    };
    batches.map(happened).collect()
}

proptest! {
    #![proptest_config(cases(16))]

    /// Streams by event time, of which no record is later than the slack: pairs are near in event time.
    #[test]
    fn streams_by_event_time_are_joined_by_it(
        config in settings(),
        first in intervals((text(), (0..3i64, 0..99i64)), 7),
        second in intervals((text(), (0..3i64, 0..99i64)), 7),
        before in 0..3usize,
        after in 0..3usize,
    ) {
        let (mut first, second) = (with_times(&first), with_times(&second));
        // All have been waited for.
        first.resize(10, Vec::new());
        let within = Within::new(INTERVAL * before as u32, INTERVAL * after as u32);
        let got = run_two(&config, (&first, &second), |first, second| {
            let slack = || Slack::of(INTERVAL * 2);
            let first = first.by_time("first", |(_, (time, _))| time, slack())?;
            let second = second.by_time("second", |(_, (time, _))| time, slack())?;
            let second = second.records().by_key();
            Ok(first.records().by_key().join_within("near", &second, within)?.pairs().pairs())
        });
        let interval = INTERVAL.as_millis() as i64;
        let (before, after) = (before as i64, after as i64);
        let mut wanted = Vec::new();
        for (key, v) in first.iter().flatten().flatten() {
            for (other, w) in second.iter().flatten().flatten() {
                let later = w.0.div_euclid(interval) - v.0.div_euclid(interval);
                if key == other && -before <= later && later <= after {
                    wanted.push((key.clone(), (*v, *w)));
                }
            }
        }
        prop_assert_eq!(sorted(got.concat().concat()), sorted(wanted));
    }
}

/// Batches since the checkpoint run again, and would join other records than they did.
#[test]
fn another_length_is_refused_at_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(2, 2, 3);
    let start = async |batches: u32, within: Within| {
        let mut program = Program::after(batches, config.clone());
        let (queue, first) = program.ctx.queue::<(i64, i64)>("first");
        let (_, second) = program.ctx.queue::<(i64, i64)>("second");
        let joined = first.by_key().join_within("near", &second.by_key(), within);
        joined.unwrap().first_unmatched().print(0);
        program.ctx.persist_in(dir.path());
        Ok::<_, Error>((queue, program.ctx.start().await?))
    };
    block_on(async {
        let near = Within::new(INTERVAL, INTERVAL);
        let (queue, running) = start(0, near).await.unwrap();
        queue.push([(1, 1)]).await.unwrap();
        running.stop().await.unwrap();
        for other in [
            Within::new(INTERVAL, INTERVAL * 2),
            Within::new(Duration::ZERO, INTERVAL),
            near.max_records(7),
        ] {
            let error = start(1, other).await.err().unwrap().to_string();
            assert!(
                error.contains("near were [100 ms before to 100 ms after"),
                "{error}"
            );
        }
        let (_, running) = start(1, near).await.unwrap();
        running.abort().await.unwrap();
    });
}

/// With two held of a key on each side, the third is refused until one of them leaves.
#[test]
fn what_is_beyond_the_most_is_refused() {
    block_on(async {
        let mut program = Program::new(small(2, 2, 3));
        let (one, first) = program.ctx.queue::<(i64, i64)>("first");
        let (two, second) = program.ctx.queue::<(i64, String)>("second");
        let within = Within::new(Duration::ZERO, INTERVAL).max_records(2);
        let joined = first
            .by_key()
            .join_within("few", &second.by_key(), within)
            .unwrap();
        let (mut pairs, mut refused) = (joined.pairs().collect(), joined.refused().collect());
        let mut alone = joined.second_unmatched().collect();
        let mut live = program.start().await;
        one.push([(1, 10), (1, 11), (1, 12), (2, 13)])
            .await
            .unwrap();
        live.batch().await;
        assert_eq!(pairs.recv().await.unwrap().num_rows(), 0);
        assert_eq!(
            refused.recv().await.unwrap().collect().unwrap(),
            [(1, (Some(12), None))]
        );
        assert_eq!(alone.recv().await.unwrap().num_rows(), 0);
        let texts = |texts: [&str; 3]| texts.map(|text| (1, text.to_owned()));
        two.push(texts(["a", "b", "c"])).await.unwrap();
        live.batch().await;
        let of = |n, text: &str| (1, (n, text.to_owned()));
        let wanted = [of(10, "a"), of(11, "a"), of(10, "b"), of(11, "b")];
        assert_eq!(pairs.recv().await.unwrap().collect().unwrap(), wanted);
        let wanted = [(1, (None, Some("c".to_owned())))];
        assert_eq!(refused.recv().await.unwrap().collect().unwrap(), wanted);
        assert_eq!(alone.recv().await.unwrap().num_rows(), 0);
        // All have left: there is room again, and nobody to meet.
        one.push([(1, 14)]).await.unwrap();
        live.batch().await;
        assert_eq!(pairs.recv().await.unwrap().num_rows(), 0);
        assert_eq!(refused.recv().await.unwrap().num_rows(), 0);
        live.running.abort().await.unwrap();
    });
}

#[test]
fn lengths_and_names_that_do_not_fit_are_refused() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let first = ctx.queue::<(i64, i64)>("first").1.by_key();
    let second = ctx.queue::<(i64, i64)>("second").1.by_key();
    let join = |within| first.join_within("near", &second, within).map(drop);
    let message = |error: Error| error.to_string();
    let odd = message(join(Within::new(Duration::ZERO, INTERVAL * 3 / 2)).unwrap_err());
    assert!(
        odd.contains("length after") && odd.contains("no multiple"),
        "{odd}"
    );
    join(Within::new(INTERVAL, Duration::ZERO)).unwrap();
    let twice = message(join(Within::new(INTERVAL, Duration::ZERO)).unwrap_err());
    assert!(twice.contains("`near`"), "{twice}");
    let mut other = StreamContext::new(INTERVAL).unwrap();
    let other = other.queue::<(i64, i64)>("other").1.by_key();
    let within = Within::new(INTERVAL, INTERVAL);
    refused(
        first.join_within("far", &other, within).map(drop),
        &["different stream contexts"],
    );
}
