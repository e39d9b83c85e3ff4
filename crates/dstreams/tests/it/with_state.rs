//! Records with the state of their keys, against a map that follows the batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use dstreams::agg::avg;
use dstreams::{AsOf, Config, Error, State, StreamContext, Track};
use proptest::prelude::*;

use crate::program::{INTERVAL, Interval, Program, block_on, cases, intervals, settings, text};

type Pair = (String, i64);
/// A value, and the state of its key.
type Row = (String, (i64, Option<i64>));

/// For each batch, what the records of one stream see of a state made from the other: before and after.
fn run(
    config: &Config,
    (changes, asked): (&[Interval<Pair>], &[Interval<Pair>]),
    build: impl FnOnce(&dstreams::Keyed<String, i64>) -> State<String, i64>,
) -> Vec<[Vec<Row>; 2]> {
    let log: Arc<Mutex<[Vec<Vec<Row>>; 2]>> = Arc::default();
    block_on(async {
        let mut program = Program::new(config.clone());
        let (changing, change_stream) = program.ctx.queue::<Pair>("changes");
        let (asking, ask_stream) = program.ctx.queue::<Pair>("asked");
        let state = build(&change_stream.by_key());
        for (at, as_of) in [AsOf::Before, AsOf::After].into_iter().enumerate() {
            let seen = ask_stream.by_key().with_state(&state, as_of).unwrap();
            let log = Arc::clone(&log);
            seen.pairs()
                .for_each_rdd(move |rdd| log.lock().unwrap()[at].push(rdd.collect().unwrap()));
        }
        let mut live = program.start().await;
        for batch in 0..changes.len().max(asked.len()) {
            for block in changes.get(batch).into_iter().flatten() {
                changing.push(block.iter().cloned()).await.unwrap();
            }
            for block in asked.get(batch).into_iter().flatten() {
                asking.push(block.iter().cloned()).await.unwrap();
            }
            live.batch().await;
        }
        live.running.abort().await.unwrap();
    });
    let [before, after] = std::mem::take(&mut *log.lock().unwrap());
    before.into_iter().zip(after).map(|(a, b)| [a, b]).collect()
}

/// Checks that each asked record is there with the value of its key, those of a key in their order.
fn check(got: &[Row], asked: &[Pair], held: &BTreeMap<String, i64>) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.len(), asked.len());
    let keys: BTreeSet<&String> = asked.iter().map(|(key, _)| key).collect();
    for key in keys {
        let asked = asked.iter().filter(|(of, _)| of == key);
        let wanted: Vec<_> = asked.map(|(_, n)| (*n, held.get(key).copied())).collect();
        let got = got.iter().filter(|(of, _)| of == key);
        prop_assert_eq!(got.map(|(_, seen)| *seen).collect::<Vec<_>>(), wanted);
    }
    Ok(())
}

fn at(input: &[Interval<Pair>], batch: usize) -> Vec<Pair> {
    input
        .get(batch)
        .map(|blocks| blocks.concat())
        .unwrap_or_default()
}

proptest! {
    #![proptest_config(cases(12))]

    /// Sums; a negative event drops its key, and two silent batches do.
    #[test]
    fn records_see_the_state_of_their_key(
        config in settings(),
        changes in intervals((text(), -3..9i64), 6),
        asked in intervals((text(), -3..9i64), 6),
    ) {
        let begin = ["a", "ab", "c"].map(|key| (key.to_owned(), 100));
        let got = run(&config, (&changes, &asked), |changes| {
            let track = Track::new(|_: &str, n: i64| n, |_: &str, sum: i64, n: i64| (n >= 0).then_some(sum + n));
            changes.track("sums", track.timeout(INTERVAL * 2).initial(begin.clone())).unwrap()
        });
        let mut held: BTreeMap<String, (i64, usize)> =
            begin.iter().map(|(key, n)| (key.clone(), (*n, 0))).collect();
        let values = |held: &BTreeMap<String, (i64, usize)>| -> BTreeMap<String, i64> {
            held.iter().map(|(key, (sum, _))| (key.clone(), *sum)).collect()
        };
        for (batch, [before, after]) in (1..).zip(&got) {
            let asked = at(&asked, batch - 1);
            check(before, &asked, &values(&held))?;
            held.retain(|_, (_, last)| *last + 2 > batch);
            for (key, n) in at(&changes, batch - 1) {
                match held.get(&key).copied() {
                    None => drop(held.insert(key, (n, batch))),
                    Some(_) if n < 0 => drop(held.remove(&key)),
                    Some((sum, _)) => drop(held.insert(key, (sum + n, batch))),
                }
            }
            check(after, &asked, &values(&held))?;
        }
    }
}

/// What a program reads of a running mean is the mean, and not the sums that are stored.
#[test]
fn records_see_the_results_of_a_running_aggregate() {
    block_on(async {
        let mut program = Program::new(crate::program::small(3, 2, 3));
        let (queue, pairs) = program.ctx.queue::<Pair>("pairs");
        let means = pairs.by_key().running_agg("means", avg::<i64>()).unwrap();
        let seen = pairs.by_key().with_state(&means, AsOf::Before).unwrap();
        let mut seen = seen.collect();
        let mut live = program.start().await;
        let mut got = Vec::new();
        for rows in [
            vec![("a", 1), ("b", 2), ("a", 2)],
            vec![("a", 6), ("c", 1)],
            vec![("a", 0)],
        ] {
            queue
                .push(rows.into_iter().map(|(key, n)| (key.to_owned(), n)))
                .await
                .unwrap();
            live.batch().await;
            let mut rows = seen.recv().await.unwrap().collect().unwrap();
            rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
            got.push(
                rows.into_iter()
                    .map(|(key, (_, mean))| (key, mean))
                    .collect::<Vec<_>>(),
            );
        }
        let row = |key: &str, mean| (key.to_owned(), mean);
        assert_eq!(got[0], [row("a", None), row("a", None), row("b", None)]);
        assert_eq!(got[1], [row("a", Some(1.5)), row("c", None)]);
        assert_eq!(got[2], [row("a", Some(3.0))]);
        live.running.abort().await.unwrap();
    });
}

#[test]
fn a_state_at_other_times_is_refused() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let pairs = ctx.queue::<Pair>("pairs").1.by_key();
    let slow = pairs
        .window_agg(INTERVAL * 2, INTERVAL * 2, avg::<i64>())
        .unwrap();
    let slow = slow.running_agg("slow", avg::<f64>()).unwrap();
    let refused = |result: dstreams::Result<_>, part: &str| match result.err() {
        Some(Error::Graph { operator, message }) => {
            assert_eq!(operator.name, "with_state");
            assert!(message.contains(part), "{message}");
        }
        other => panic!("not refused: {other:?}"),
    };
    refused(
        pairs.with_state(&slow, AsOf::After).map(drop),
        "different times",
    );
    let mut other = StreamContext::new(INTERVAL).unwrap();
    let other = other.queue::<Pair>("pairs").1.by_key();
    refused(
        other.with_state(&slow, AsOf::After).map(drop),
        "different stream contexts",
    );
}
