//! Operators of pairs, distinct records and unions of many streams equal a naive reference.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dstreams::{BatchTime, BoxError, Guarantee, Prepared, Sink, arrow::array::RecordBatch};
use proptest::prelude::*;

use crate::program::{
    Program, block_on, cases, each, intervals, run, settings, small, sorted, text,
};

type Pair = (String, i64);

fn pair() -> impl Strategy<Value = Pair> {
    (text(), -2..3i64)
}

/// How often each is there.
fn counts<T: Ord>(all: impl IntoIterator<Item = T>) -> Vec<(T, i64)> {
    let mut counts = BTreeMap::new();
    all.into_iter()
        .for_each(|one| *counts.entry(one).or_default() += 1);
    counts.into_iter().collect()
}

fn first<A, B>(pairs: Vec<(A, B)>) -> Vec<A> {
    pairs.into_iter().map(|(one, _)| one).collect()
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn pairs_are_filtered_by_key_and_value(config in settings(), input in intervals(pair(), 4)) {
        let got = run(&config, &input, |_, pairs| {
            pairs.by_key().filter(|key, n| key.len() > 1 && n != 0).pairs()
        });
        let wanted = each(&input, |rows| {
            rows.into_iter().filter(|(key, n)| key.len() > 1 && *n != 0).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn values_are_those_of_all_pairs(config in settings(), input in intervals((0..3i64, (text(), 0..9i64)), 4)) {
        let got = run(&config, &input, |_, pairs| pairs.by_key().values());
        let wanted = each(&input, |rows| rows.into_iter().map(|(_, value)| value).collect());
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn values_become_many_under_their_key(
        config in settings(),
        input in intervals((text(), text()), 4),
    ) {
        let got = run(&config, &input, |_, pairs| {
            let parts = pairs.by_key().flat_map_values::<String>(|value, out| {
                value.split('b').for_each(|part| out.push(part));
            });
            // Nothing for some, which is as many as are in the middle of a batch.
            let none = parts.flat_map_values::<(String, i64)>(|part, out| {
                if !part.is_empty() {
                    out.push((part, part.len() as i64));
                }
            });
            none.pairs()
        });
        let wanted = each(&input, |rows| {
            let parts = |(key, value): (String, String)| -> Vec<_> {
                let parts = value.split('b').filter(|part| !part.is_empty());
                parts.map(|part| (key.clone(), (part.to_owned(), part.len() as i64))).collect()
            };
            rows.into_iter().flat_map(parts).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn queries_and_frames_of_pairs(config in settings(), input in intervals(pair(), 3)) {
        let query = "select key, sum(value) from this group by key";
        let sums = run(&config, &input, |_, pairs| pairs.by_key().sql::<Pair>(query).unwrap());
        let frames = run(&config, &input, |_, pairs| {
            use dstreams::datafusion::{functions_aggregate::sum::sum, prelude::col};
            let keyed = pairs.by_key();
            let sums = keyed.transform::<Pair>(|frame| {
                frame.aggregate(vec![col("key")], vec![sum(col("value"))])
            });
            sums.unwrap()
        });
        let wanted = each(&input, |rows| {
            let mut sums = BTreeMap::new();
            rows.into_iter().for_each(|(key, n)| *sums.entry(key).or_default() += n);
            sums.into_iter().collect()
        });
        prop_assert_eq!(&sorted(sums), &sorted(wanted.clone()));
        prop_assert_eq!(sorted(frames), sorted(wanted));
    }

    #[test]
    fn distinct_records_and_their_counts(config in settings(), input in intervals(pair(), 4)) {
        let distinct = run(&config, &input, |_, pairs| pairs.distinct());
        prop_assert_eq!(sorted(distinct), sorted(each(&input, |rows| first(counts(rows)))));
        let of_pairs = run(&config, &input, |_, pairs| pairs.by_key().distinct().pairs());
        prop_assert_eq!(sorted(of_pairs), sorted(each(&input, |rows| first(counts(rows)))));
        let words = run(&config, &input, |_, pairs| pairs.map(|(key, _)| key.to_owned()).distinct());
        prop_assert_eq!(sorted(words), sorted(each(&input, |rows| first(counts(first(rows))))));
        let values = run(&config, &input, |_, pairs| pairs.count_by_value().pairs());
        prop_assert_eq!(sorted(values), sorted(each(&input, counts)));
        let keys = run(&config, &input, |_, pairs| pairs.by_key().count_by_key().pairs());
        prop_assert_eq!(sorted(keys), sorted(each(&input, |rows| counts(first(rows)))));
    }

    #[test]
    fn unions_have_their_streams_in_order(config in settings(), input in intervals(pair(), 4)) {
        let got = run(&config, &input, |ctx, pairs| {
            let parts = [-2, -1, 0, 1, 2].map(|wanted| pairs.filter(move |(_, n)| n == wanted));
            ctx.union(&parts).unwrap()
        });
        let in_order = |mut rows: Vec<Pair>| {
            rows.sort_by_key(|(_, n)| *n);
            rows
        };
        prop_assert_eq!(got, each(&input, in_order));
        let one = run(&config, &input, |ctx, pairs| ctx.union([pairs]).unwrap());
        prop_assert_eq!(one, each(&input, |rows| rows));
        let keyed = run(&config, &input, |_, pairs| {
            let (pairs, even) = (pairs.by_key(), pairs.by_key().filter(|_, n| n % 2 == 0));
            even.union(&pairs).unwrap().pairs()
        });
        let twice = each(&input, |rows| {
            let even = rows.clone().into_iter().filter(|(_, n)| n % 2 == 0);
            even.chain(rows).collect()
        });
        prop_assert_eq!(keyed, twice);
    }
}

#[test]
fn unions_of_nothing_and_of_two_programs_are_refused() {
    let (mut one, mut other) = (Program::new(small(1, 1, 1)), Program::new(small(1, 1, 1)));
    let none = one.ctx.union::<i64>([]).err().unwrap().to_string();
    assert!(
        none.contains("no streams") && none.contains("pairs.rs"),
        "{none}"
    );
    let (_, ours) = one.ctx.queue::<i64>("in");
    let (_, theirs) = other.ctx.queue::<i64>("in");
    for of_two in [one.ctx.union([&ours, &theirs]), other.ctx.union([&ours])] {
        let refused = of_two.err().unwrap().to_string();
        assert!(refused.contains("different stream contexts"), "{refused}");
    }
}

/// Records the rows that are committed.
#[derive(Clone, Default)]
struct Rows(Arc<Mutex<Vec<usize>>>);

#[dstreams::async_trait]
impl Sink for Rows {
    async fn open(&self) -> Result<Option<BatchTime>, BoxError> {
        Ok(None)
    }
    async fn prepare(
        &self,
        _: BatchTime,
        _: usize,
        rows: &[RecordBatch],
    ) -> Result<Prepared, BoxError> {
        let rows: usize = rows.iter().map(RecordBatch::num_rows).sum();
        Ok(Prepared(vec![rows as u8]))
    }
    async fn commit(&self, _: BatchTime, parts: Vec<Prepared>) -> Result<(), BoxError> {
        let rows = parts.iter().map(|part| usize::from(part.0[0])).sum();
        self.0.lock().unwrap().push(rows);
        Ok(())
    }
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }
}

#[test]
fn pairs_go_to_a_sink() {
    let rows = Rows::default();
    block_on(async {
        let mut program = Program::new(small(2, 1, 2));
        let (queue, pairs) = program.ctx.queue::<Pair>("in");
        pairs.by_key().sink("rows", rows.clone());
        let mut live = program.start().await;
        let three = ["a", "b", "a"].map(|key| (key.to_owned(), 1));
        queue.push(three).await.unwrap();
        live.batch().await;
        live.batch().await;
        live.running.abort().await.unwrap();
    });
    assert_eq!(*rows.0.lock().unwrap(), [3, 0]);
}
