//! Joins of two streams within an interval against nested loops over the batch, and against plain DataFusion.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use dstreams::agg::{count, sum};
use dstreams::arrow::array::RecordBatch;
use dstreams::record::{batch_of, records_of};
use dstreams::{Config, DStream, Error, Key, Keyed, Record, Result, StreamContext};
use proptest::prelude::*;

use crate::plain::plain;
use crate::program::{INTERVAL, Interval, Program, block_on, cases, intervals, settings, text};

/// The records of each partition of each batch.
pub type Parts<U> = Vec<Vec<Vec<U>>>;

/// What `build` makes of two streams; interval i of both is one batch.
pub fn run_two<T, S, U>(
    config: &Config,
    (first, second): (&[Interval<T>], &[Interval<S>]),
    build: impl FnOnce(&DStream<T>, &DStream<S>) -> Result<DStream<U>>,
) -> Parts<U>
where
    T: Record + Clone,
    S: Record + Clone,
    U: Record,
{
    let log: Arc<Mutex<Parts<U>>> = Arc::default();
    let logged = Arc::clone(&log);
    block_on(async {
        let mut program = Program::new(config.clone());
        let (one, first_stream) = program.ctx.queue::<T>("first");
        let (two, second_stream) = program.ctx.queue::<S>("second");
        let output = build(&first_stream, &second_stream).unwrap();
        output.for_each_rdd(move |rdd| {
            let records = |batches: &Vec<RecordBatch>| {
                let batches = batches.iter().map(|rows| records_of::<U>(rows).unwrap());
                batches.flatten().collect()
            };
            let parts = rdd.partitions().iter().map(records).collect();
            log.lock().unwrap().push(parts);
        });
        let mut live = program.start().await;
        for at in 0..first.len().max(second.len()) {
            for block in first.get(at).into_iter().flatten() {
                one.push(block.iter().cloned()).await.unwrap();
            }
            for block in second.get(at).into_iter().flatten() {
                two.push(block.iter().cloned()).await.unwrap();
            }
            live.batch().await;
        }
        live.running.abort().await.unwrap();
    });
    std::mem::take(&mut *logged.lock().unwrap())
}

/// Checks that each partition of a batch has the wanted rows of its keys, in their order, and that all are there.
pub fn check_order<K: Ord + Clone + Debug, U: PartialEq + Clone + Debug>(
    got: &[Vec<(K, U)>],
    wanted: &[(K, U)],
) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for part in got {
        let keys: BTreeSet<&K> = part.iter().map(|(key, _)| key).collect();
        let of_part = wanted.iter().filter(|(key, _)| keys.contains(key));
        let of_part: Vec<(K, U)> = of_part.cloned().collect();
        prop_assert_eq!(part, &of_part);
        for key in keys {
            prop_assert!(seen.insert(key.clone()), "{key:?} is in two partitions");
        }
    }
    prop_assert_eq!(got.iter().map(Vec::len).sum::<usize>(), wanted.len());
    Ok(())
}

/// The pairs of two lists, in the order of the first, partners in that of the second.
fn pairs<K: PartialEq + Clone, V: Clone, W: Clone>(
    first: &[(K, V)],
    second: &[(K, W)],
) -> Vec<(K, (V, W))> {
    let mut pairs = Vec::new();
    for (key, v) in first {
        for (other, w) in second {
            if key == other {
                pairs.push((key.clone(), (v.clone(), w.clone())));
            }
        }
    }
    pairs
}

pub fn at<T: Clone>(input: &[Interval<T>], batch: usize) -> Vec<T> {
    input
        .get(batch)
        .map(|blocks| blocks.concat())
        .unwrap_or_default()
}

/// Joins by keys of any type.
fn check_inner<K>(
    config: &Config,
    first: &[Interval<(K, i64)>],
    second: &[Interval<(K, String)>],
) -> Result<(), TestCaseError>
where
    K: Key + Ord + Clone + Debug,
    (K, i64): Record,
{
    let got = run_two(config, (first, second), |first, second| {
        Ok(first.by_key().join(&second.by_key())?.pairs())
    });
    for (batch, got) in got.iter().enumerate() {
        check_order(got, &pairs(&at(first, batch), &at(second, batch)))?;
    }
    Ok(())
}

/// The same records by other keys.
fn by<T: Clone, U>(input: &[Interval<T>], f: impl Fn(T) -> U) -> Vec<Interval<U>> {
    let block = |block: &Vec<T>| block.iter().cloned().map(&f).collect();
    let interval = |blocks: &Interval<T>| blocks.iter().map(block).collect();
    input.iter().map(interval).collect()
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn pairs_are_those_of_nested_loops(
        config in settings(),
        first in intervals((text(), -3..4i64), 4),
        second in intervals((text(), text()), 4),
    ) {
        check_inner(&config, &first, &second)?;
        let short = |text: &str| text.len() as i64 % 5;
        // Keys that are absent meet.
        let absent = |text: &str| (!text.len().is_multiple_of(3)).then_some(short(text));
        check_inner(&config, &by(&first, |t| (absent(&t.0), t.1)), &by(&second, |t| (absent(&t.0), t.1)))?;
        let two = |text: String| (short(&text) as u8, text.get(..1).map(str::to_owned));
        check_inner(&config, &by(&first, |t| (two(t.0), t.1)), &by(&second, |t| (two(t.0), t.1)))?;
    }

    #[test]
    fn pairs_are_those_of_plain_sql(
        config in settings(),
        first in intervals((text(), -3..4i64), 3),
        second in intervals((text(), -3..4i64), 3),
    ) {
        let got = run_two(&config, (&first, &second), |first, second| {
            Ok(first.by_key().join(&second.by_key())?.pairs())
        });
        for (batch, got) in got.into_iter().enumerate() {
            let query = "select a.key, a.value, b.value from a join b on a.key = b.key";
            let rows = plain_sql(query, &at(&first, batch), &at(&second, batch));
            let mut wanted: Vec<(String, (i64, i64))> = rows;
            let mut got = got.concat();
            got.sort();
            wanted.sort();
            prop_assert_eq!(got, wanted);
        }
    }

    #[test]
    fn a_stream_is_joined_with_itself(config in settings(), input in intervals((text(), -3..4i64), 3)) {
        let got = run_two(&config, (&input, &[] as &[Interval<i64>]), |input, _| {
            let keyed = input.by_key();
            Ok(keyed.join(&keyed.map_values(|n| n * 2))?.join(&keyed)?.pairs())
        });
        for (batch, got) in got.iter().enumerate() {
            let rows = at(&input, batch);
            let doubled: Vec<_> = rows.iter().map(|(key, n)| (key.clone(), n * 2)).collect();
            check_order(got, &pairs(&pairs(&rows, &doubled), &rows))?;
        }
    }

    #[test]
    fn windows_are_joined_at_each_slide(
        config in settings(),
        first in intervals((text(), -3..4i64), 6),
        second in intervals((text(), -3..4i64), 6),
    ) {
        let got = run_two(&config, (&first, &second), |first, second| {
            let first = first.by_key().window_agg(INTERVAL * 4, INTERVAL * 2, count())?;
            let second = second.by_key().window_agg(INTERVAL * 2, INTERVAL * 2, sum::<i64>())?;
            Ok(first.join(&second.map_values(|n| n + 1))?.pairs())
        });
        let batches = first.len().max(second.len());
        prop_assert_eq!(got.len(), batches / 2);
        for (slide, got) in got.into_iter().enumerate() {
            let end = slide * 2 + 2;
            let over = |input: &[Interval<(String, i64)>], len: usize| -> Vec<(String, i64)> {
                (end.saturating_sub(len)..end).flat_map(|batch| at(input, batch)).collect()
            };
            let (first, second) = (over(&first, 4), over(&second, 2));
            let keys: BTreeSet<&String> = first.iter().map(|(key, _)| key).collect();
            let wanted = keys.into_iter().filter_map(|key| {
                let of = |rows: &[(String, i64)]| -> Vec<i64> {
                    rows.iter().filter(|row| row.0 == *key).map(|row| row.1).collect()
                };
                let (ours, theirs) = (of(&first), of(&second));
                let both = (ours.len() as i64, theirs.iter().sum::<i64>() + 1);
                (!theirs.is_empty()).then(|| (key.clone(), both))
            });
            let mut got = got.concat();
            got.sort();
            prop_assert_eq!(got, wanted.collect::<Vec<_>>());
        }
    }
}

/// The records of the first list with each partner, or with none; and those of the second without one.
type Full<K, V, W> = Vec<(K, (Option<V>, Option<W>))>;

fn full<K: PartialEq + Clone, V: Clone, W: Clone>(
    first: &[(K, V)],
    second: &[(K, W)],
) -> (Full<K, V, W>, Full<K, V, W>) {
    let mut firsts = Vec::new();
    for (key, v) in first {
        let partners = second.iter().filter(|(other, _)| other == key);
        let mut partners: Vec<Option<W>> = partners.map(|(_, w)| Some(w.clone())).collect();
        if partners.is_empty() {
            partners.push(None);
        }
        let pairs = partners.into_iter();
        firsts.extend(pairs.map(|w| (key.clone(), (Some(v.clone()), w))));
    }
    let alone = second
        .iter()
        .filter(|(key, _)| first.iter().all(|(other, _)| other != key));
    let alone = alone.map(|(key, w)| (key.clone(), (None, Some(w.clone()))));
    (firsts, alone.collect())
}

/// For each key, its values in both lists; keys in the order in which they come.
fn groups<K: PartialEq + Clone, V: Clone, W: Clone>(
    first: &[(K, V)],
    second: &[(K, W)],
) -> Vec<(K, (Vec<V>, Vec<W>))> {
    let mut groups: Vec<(K, (Vec<V>, Vec<W>))> = Vec::new();
    let keys = first.iter().map(|(key, _)| key);
    for key in keys.chain(second.iter().map(|(key, _)| key)) {
        if groups.iter().all(|(other, _)| other != key) {
            let ours = first.iter().filter(|(other, _)| other == key);
            let theirs = second.iter().filter(|(other, _)| other == key);
            let ours = ours.map(|(_, v)| v.clone()).collect();
            groups.push((
                key.clone(),
                (ours, theirs.map(|(_, w)| w.clone()).collect()),
            ));
        }
    }
    groups
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn outer_joins_are_those_of_nested_loops(
        config in settings(),
        first in intervals((text(), (-3..4i64, text())), 4),
        second in intervals((text(), text()), 4),
    ) {
        let input = (&first[..], &second[..]);
        let left = run_two(&config, input, |first, second| {
            Ok(first.by_key().left_join(&second.by_key())?.pairs())
        });
        let right = run_two(&config, input, |first, second| {
            Ok(first.by_key().right_join(&second.by_key())?.pairs())
        });
        let both = run_two(&config, input, |first, second| {
            Ok(first.by_key().full_join(&second.by_key())?.pairs())
        });
        for batch in 0..first.len().max(second.len()) {
            let (firsts, alone) = full(&at(&first, batch), &at(&second, batch));
            let rows = firsts.iter().cloned();
            let wanted = rows.clone().map(|(key, (v, w))| (key, (v.unwrap(), w)));
            check_order(&left[batch], &wanted.collect::<Vec<_>>())?;
            let pairs = rows.clone().filter(|(_, (_, w))| w.is_some());
            let wanted = pairs.chain(alone.iter().cloned());
            let wanted = wanted.map(|(key, (v, w))| (key, (v, w.unwrap())));
            check_order(&right[batch], &wanted.collect::<Vec<_>>())?;
            let wanted: Vec<_> = rows.chain(alone.iter().cloned()).collect();
            check_order(&both[batch], &wanted)?;
        }
    }

    #[test]
    fn full_joins_are_those_of_plain_sql(
        config in settings(),
        first in intervals((text(), -3..4i64), 3),
        second in intervals((text(), -3..4i64), 3),
    ) {
        let got = run_two(&config, (&first, &second), |first, second| {
            Ok(first.by_key().full_join(&second.by_key())?.pairs())
        });
        for (batch, got) in got.into_iter().enumerate() {
            let query = "select coalesce(a.key, b.key), a.value, b.value from a full join b on a.key = b.key";
            let mut wanted = plain_sql(query, &at(&first, batch), &at(&second, batch));
            let mut got: Full<String, i64, i64> = got.concat();
            got.sort();
            wanted.sort();
            prop_assert_eq!(got, wanted);
        }
    }

    #[test]
    fn groups_have_all_records_of_a_key_in_order(
        config in settings(),
        first in intervals((text(), (-3..4i64, text())), 4),
        second in intervals((text(), text()), 4),
    ) {
        let input = (&first[..], &second[..]);
        let both = run_two(&config, input, |first, second| {
            Ok(first.by_key().cogroup(&second.by_key())?.pairs())
        });
        let one = run_two(&config, input, |first, _| Ok(first.by_key().group_by_key().pairs()));
        for batch in 0..first.len().max(second.len()) {
            let (first, second) = (at(&first, batch), at(&second, batch));
            check_order(&both[batch], &groups(&first, &second))?;
            let wanted = groups::<_, _, ()>(&first, &[]).into_iter();
            let wanted: Vec<_> = wanted.map(|(key, (values, _))| (key, values)).collect();
            check_order(&one[batch], &wanted)?;
        }
    }
}

/// The rows of a query over two tables, without any code of this library but that of records.
fn plain_sql<T: Record + Clone, S: Record + Clone, U: Record>(
    query: &str,
    first: &[T],
    second: &[S],
) -> Vec<U> {
    let first = batch_of(first.iter().cloned()).unwrap();
    let second = batch_of(second.iter().cloned()).unwrap();
    plain(&[("a", first), ("b", second)], query)
}

/// More pairs than an Arrow batch has rows are made in several.
#[test]
fn a_frequent_key_gives_all_its_pairs() {
    let mut config = Config::new(INTERVAL);
    config.rows_per_batch = 64;
    let ours: Vec<(i64, i64)> = (0..300).map(|n| (n % 3, n)).collect();
    let theirs: Vec<(i64, i64)> = (0..200).map(|n| (n % 2, n)).collect();
    let input = (&[vec![ours.clone()]][..], &[vec![theirs.clone()]][..]);
    let got = run_two(&config, input, |first, second| {
        Ok(first.by_key().join(&second.by_key())?.pairs())
    });
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].concat(), pairs(&ours, &theirs));
    assert_eq!(got[0].concat().len(), 20_000);
}

pub fn refused<T>(result: Result<T>, parts: &[&str]) {
    match result.err() {
        Some(Error::Graph { operator, message }) => {
            assert!(operator.at.contains("join"), "{operator}");
            for part in parts {
                assert!(message.contains(part), "`{part}` is not in: {message}");
            }
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn streams_that_do_not_fit_are_refused() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let pairs = ctx.queue::<(String, i64)>("pairs").1.by_key();
    let slow: Keyed<String, i64> = pairs
        .window_agg(INTERVAL * 4, INTERVAL * 2, count())
        .unwrap();
    let wanted = [
        "different times",
        "queue",
        "every 100 ms",
        "window_agg",
        "every 200 ms",
        "same slide",
    ];
    refused(pairs.join(&slow), &wanted);
    refused(slow.join(&pairs), &wanted);
    let mut other = StreamContext::new(INTERVAL).unwrap();
    let other = other.queue::<(String, i64)>("pairs").1.by_key();
    refused(pairs.join(&other), &["different stream contexts"]);
}

/// A record without columns has a partner or none, too.
#[test]
fn keys_without_values_are_joined() {
    let config = crate::program::small(3, 2, 3);
    let words = |words: &[&str]| vec![words.iter().map(|word| word.to_string()).collect()];
    let ours: Vec<Interval<String>> = vec![words(&["a", "b", "c", "a", "d"])];
    let theirs: Vec<Interval<String>> = vec![words(&["a", "c", "e", "a"])];
    let got = run_two(&config, (&ours, &theirs), |first, second| {
        let full = first.keyed().full_join(&second.keyed())?;
        let there = full.map_values(|(ours, theirs)| (ours.is_some(), theirs.is_some()));
        let groups = first.keyed().cogroup(&second.keyed())?;
        let counts = groups.map_values(|(ours, theirs)| (ours.len() == 2, theirs.len() == 2));
        there.pairs().union(&counts.pairs())
    });
    let mut got = got[0].concat();
    got.sort();
    let row = |key: &str, ours, theirs| (key.to_owned(), (ours, theirs));
    let mut wanted = vec![row("a", true, true); 5];
    wanted.extend([row("b", false, false), row("b", true, false)]);
    wanted.extend([row("c", false, false), row("c", true, true)]);
    wanted.extend([row("d", false, false), row("d", true, false)]);
    wanted.extend([row("e", false, false), row("e", false, true)]);
    assert_eq!(got, wanted);
}
