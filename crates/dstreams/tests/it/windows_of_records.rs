//! Windows of records have the records of the last batches, as a list of all batches says.

use std::collections::BTreeMap;
use std::time::Duration;

use dstreams::agg::{count, sum};
use dstreams::{Config, StreamContext};
use proptest::prelude::*;

use crate::program::{
    Batches, INTERVAL, Interval, cases, intervals, run, settings, small, sorted, text,
};

type Pair = (String, i64);

fn batches(n: usize) -> Duration {
    INTERVAL * n as u32
}

fn sizes() -> impl Strategy<Value = (usize, usize)> {
    (1..9usize, 1..5usize)
}

/// The records of the last `len` intervals at every `slide`-th, in order of arrival.
fn naive<T: Clone>(input: &[Interval<T>], (len, slide): (usize, usize)) -> Batches<T> {
    let ends = (1..=input.len()).filter(|end| end % slide == 0);
    let at = |end: usize| {
        input[end.saturating_sub(len)..end]
            .iter()
            .flatten()
            .flatten()
    };
    ends.map(|end| (end as u64 * 100, at(end).cloned().collect()))
        .collect()
}

fn windowed(
    config: &Config,
    input: &[Interval<Pair>],
    (len, slide): (usize, usize),
) -> Batches<Pair> {
    run(config, input, |_, pairs| {
        pairs.window(batches(len), batches(slide)).unwrap()
    })
}

fn of_key(records: &[Pair], key: &str) -> Vec<i64> {
    let of_key = records.iter().filter(|(of, _)| of == key);
    of_key.map(|(_, n)| *n).collect()
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn records_of_the_last_batches(
        config in settings(),
        input in intervals((text(), -9..10i64), 16),
        sizes in sizes(),
    ) {
        prop_assert_eq!(sorted(windowed(&config, &input, sizes)), sorted(naive(&input, sizes)));
        // In one partition they are in order of arrival.
        let mut one = config.clone();
        one.threads = 1;
        prop_assert_eq!(windowed(&one, &input, sizes), naive(&input, sizes));
    }

    #[test]
    fn pairs_of_a_key_are_in_order_of_arrival(
        config in settings(),
        input in intervals((text(), -9..10i64), 16),
        sizes in sizes(),
    ) {
        let got = run(&config, &input, |_, pairs| {
            pairs.by_key().window(batches(sizes.0), batches(sizes.1)).unwrap().pairs()
        });
        let wanted = naive(&input, sizes);
        prop_assert_eq!(sorted(got.clone()), sorted(wanted.clone()));
        for ((_, got), (_, wanted)) in got.iter().zip(&wanted) {
            for (key, _) in wanted {
                prop_assert_eq!(of_key(got, key), of_key(wanted, key));
            }
        }
    }

    #[test]
    fn any_operator_works_on_a_window(
        config in settings(),
        input in intervals((text(), -9..10i64), 12),
        sizes in sizes(),
    ) {
        let got = run(&config, &input, |_, pairs| {
            let window = pairs.filter(|(_, n)| n != 0).window(batches(sizes.0), batches(sizes.1)).unwrap();
            window.sql::<Pair>("select key, value from this where value > 3").unwrap()
        });
        let wanted = naive(&input, sizes).into_iter();
        let wanted = wanted.map(|(at, all)| (at, all.into_iter().filter(|(_, n)| *n > 3).collect()));
        prop_assert_eq!(sorted(got), sorted(wanted.collect()));

        let got = run(&config, &input, |_, pairs| {
            let window = pairs.window(batches(sizes.0), batches(sizes.1)).unwrap();
            window.map(|(key, n)| (key.to_owned(), 2 * n)).by_key().agg((count(), sum::<i64>())).unwrap().pairs()
        });
        let wanted = naive(&input, sizes).into_iter().map(|(at, all)| {
            let mut sums = BTreeMap::<String, (i64, i64)>::new();
            for (key, n) in all {
                let sum = sums.entry(key).or_default();
                *sum = (sum.0 + 1, sum.1 + 2 * n);
            }
            (at, sums.into_iter().collect())
        });
        prop_assert_eq!(sorted(got), sorted(wanted.collect()));
    }

    #[test]
    fn windows_of_windows(
        config in settings(),
        input in intervals(-99..99i64, 14),
        (len, slide) in (1..5usize, 1..3usize),
        (outer_len, outer_slide) in (1..4usize, 1..3usize),
    ) {
        let got = run(&config, &input, |_, numbers| {
            let inner = numbers.window(batches(len), batches(slide)).unwrap();
            inner.window(batches(slide * outer_len), batches(slide * outer_slide)).unwrap()
        });
        let inner = naive(&input, (len, slide)).into_iter().map(|(_, rows)| vec![rows]);
        let inner: Vec<Interval<i64>> = inner.collect();
        let wanted = naive(&inner, (outer_len, outer_slide)).into_iter();
        let wanted = wanted.map(|(at, rows)| (at * slide as u64, rows)).collect();
        prop_assert_eq!(sorted(got), sorted(wanted));
    }
}

/// Two windows meet at the slide that they share.
#[test]
fn windows_are_joined_by_sql() {
    let input: Vec<Interval<Pair>> = (0..6i64)
        .map(|n| vec![vec![("a".to_owned(), n), (format!("only {n}"), n)]])
        .collect();
    let got = run(&small(3, 1, 2), &input, |ctx, pairs| {
        let short = pairs.window(batches(2), batches(2)).unwrap();
        let long = pairs.window(batches(4), batches(2)).unwrap();
        let query = "select s.key, s.value * 10 + l.value as value from s join l on s.key = l.key \
                     where s.key = 'a'";
        ctx.sql::<Pair>(&[("s", &short), ("l", &long)], query)
            .unwrap()
    });
    let pairs = |at: i64| {
        let short = at - 2..at;
        short.flat_map(move |s| (0i64.max(at - 4)..at).map(move |l| ("a".to_owned(), 10 * s + l)))
    };
    let wanted = [2, 4, 6].map(|at| (100 * at as u64, pairs(at).collect()));
    assert_eq!(sorted(got), sorted(wanted.to_vec()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let ms = Duration::from_millis;
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, numbers) = ctx.queue::<i64>("in");
    let refused = numbers.window(ms(250), ms(100)).unwrap_err().to_string();
    assert!(refused.contains("200 ms and 300 ms"), "{refused}");
    let refused = numbers.window(ms(300), ms(0)).unwrap_err().to_string();
    assert!(refused.contains("slide"), "{refused}");
    let window = numbers.named_window("w", ms(400), ms(200)).unwrap();
    let refused = numbers.named_window("w", ms(400), ms(200)).unwrap_err();
    assert!(refused.to_string().contains("called `w`"), "{refused}");
    let refused = window.window(ms(300), ms(200)).unwrap_err().to_string();
    assert!(refused.contains("no multiple of 200 ms"), "{refused}");
    let refused = window.union(&numbers).unwrap_err().to_string();
    assert!(refused.contains("same slide"), "{refused}");
}
