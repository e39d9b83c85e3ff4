//! Windows over random batches equal the aggregate of the last batches, computed from scratch each time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use dstreams::agg::{Agg, avg, avg_of, count, max, max_of, min, min_of, sum, sum_of};
use dstreams::{Config, Key, Record};
use proptest::prelude::*;

use crate::program::{
    Batches, INTERVAL, Interval, Program, block_on, cases, intervals, run, settings, small, sorted,
    text,
};

type Pair = (String, i64);

fn pair() -> impl Strategy<Value = Pair> {
    (text(), -9..10i64)
}

fn batches(n: usize) -> Duration {
    INTERVAL * n as u32
}

/// `f` of the values of each key in the last `len` batches, at every `slide`-th.
fn naive<K: Ord + Clone, V: Clone, R>(
    input: &[Interval<(K, V)>],
    (len, slide): (usize, usize),
    f: impl Fn(Vec<V>) -> R,
) -> Batches<(K, R)> {
    let at = |end: usize| {
        let mut groups = BTreeMap::<K, Vec<V>>::new();
        let rows = input[end.saturating_sub(len)..end]
            .iter()
            .flatten()
            .flatten();
        for (key, value) in rows.cloned() {
            groups.entry(key).or_default().push(value);
        }
        groups
            .into_iter()
            .map(|(key, values)| (key, f(values)))
            .collect()
    };
    let ends = (1..=input.len()).filter(|end| end % slide == 0);
    ends.map(|end| (end as u64 * 100, at(end))).collect()
}

/// The same window by the library.
fn windowed<K, V, A>(
    config: &Config,
    input: &[Interval<(K, V)>],
    (len, slide): (usize, usize),
    agg: A,
) -> Batches<(K, A::Out)>
where
    K: Key + Clone,
    V: Record + Clone,
    A: Agg<V>,
{
    run(config, input, |_, pairs| {
        pairs
            .by_key()
            .window_agg(batches(len), batches(slide), agg)
            .unwrap()
            .pairs()
    })
}

fn check<K, V, A>(
    config: &Config,
    input: &[Interval<(K, V)>],
    sizes: (usize, usize),
    agg: A,
    f: impl Fn(Vec<V>) -> A::Out,
) -> Result<(), TestCaseError>
where
    K: Key + Ord + Clone + Debug,
    V: Record + Clone,
    A: Agg<V, Out: Debug + PartialEq>,
{
    let got = sorted(windowed(config, input, sizes, agg));
    prop_assert_eq!(got, sorted(naive(input, sizes, f)));
    Ok(())
}

fn sizes() -> impl Strategy<Value = (usize, usize)> {
    (1..13usize, 1..5usize)
}

fn mean(values: &[i64]) -> f64 {
    values.iter().sum::<i64>() as f64 / values.len() as f64
}

fn least<T: Ord + Copy>(values: &[T]) -> T {
    *values.iter().min().unwrap()
}

fn most<T: Ord + Copy>(values: &[T]) -> T {
    *values.iter().max().unwrap()
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn count_alone(config in settings(), input in intervals((text(), -1..1i64), 20), sizes in sizes()) {
        check(&config, &input, sizes, count(), |all| all.len() as i64)?;
    }

    #[test]
    fn invertible(config in settings(), input in intervals(pair(), 20), sizes in sizes()) {
        // Without a count: keys whose sum is 0 must stay, keys without records go.
        check(&config, &input, sizes, sum::<i64>(), |all| all.iter().sum::<i64>())?;
        let agg = (avg::<i64>(), count(), sum::<i64>());
        check(&config, &input, sizes, agg, |all| {
            (mean(&all), all.len() as i64, all.iter().sum())
        })?;
    }

    #[test]
    fn associative_only(config in settings(), input in intervals(pair(), 40), sizes in sizes()) {
        check(&config, &input, sizes, max::<i64>(), |all| most(&all))?;
        check(&config, &input, sizes, (min::<i64>(), max::<i64>()), |all| (least(&all), most(&all)))?;
    }

    #[test]
    fn mixed(config in settings(), input in intervals(pair(), 40), sizes in sizes()) {
        let agg = (min::<i64>(), sum::<i64>(), max::<i64>(), avg::<i64>());
        check(&config, &input, sizes, agg, |all| {
            (least(&all), all.iter().sum(), most(&all), mean(&all))
        })?;
    }

    #[test]
    fn sums_of_floating_point_numbers(
        config in settings(),
        input in intervals((0..4u8, -1000..1000i32), 40),
        sizes in sizes(),
    ) {
        // Quarters add exactly in any order.
        let quarters = |(key, n): &(u8, i32)| (*key, f64::from(*n) / 4.0);
        let block = |block: &Vec<(u8, i32)>| block.iter().map(quarters).collect();
        let input: Vec<Interval<(u8, f64)>> =
            input.iter().map(|blocks| blocks.iter().map(block).collect()).collect();
        let agg = (sum::<f64>(), min::<f64>(), max::<f64>(), avg::<f64>());
        check(&config, &input, sizes, agg, |all| {
            let sum: f64 = all.iter().sum();
            let least = all.iter().copied().fold(f64::INFINITY, f64::min);
            let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (sum, least, most, sum / all.len() as f64)
        })?;
    }

    #[test]
    fn sums_of_any_floating_point_numbers_within_rounding(
        config in settings(),
        input in intervals((0..3u8, -1e9..1e9f64), 40),
        sizes in sizes(),
    ) {
        let got = sorted(windowed(&config, &input, sizes, (count(), sum::<f64>())));
        let wanted = sorted(naive(&input, sizes, |all| (all.len() as i64, all)));
        prop_assert_eq!(got.len(), wanted.len());
        for ((at, got), (wanted_at, wanted)) in got.into_iter().zip(wanted) {
            prop_assert_eq!(at, wanted_at);
            prop_assert_eq!(got.len(), wanted.len());
            for ((key, (n, sum)), (wanted_key, (wanted_n, all))) in got.into_iter().zip(wanted) {
                prop_assert_eq!((key, n), (wanted_key, wanted_n));
                let size: f64 = all.iter().map(|v| v.abs()).sum();
                let wanted: f64 = all.iter().sum();
                prop_assert!((sum - wanted).abs() <= 1e-12 * size, "{} is not {}", sum, wanted);
            }
        }
    }

    #[test]
    fn columns_of_every_width(
        config in settings(),
        input in intervals((any::<bool>(), (any::<u64>(), any::<i8>(), any::<u32>())), 12),
        sizes in sizes(),
    ) {
        let agg = (
            (sum_of::<u64>("_1"), max_of::<u64>("_1"), min_of::<u64>("_1")),
            (sum_of::<i8>("_2"), max_of::<i8>("_2"), min_of::<i8>("_2")),
            (sum_of::<u32>("_3"), avg_of::<u32>("_3")),
        );
        check(&config, &input, sizes, agg, |all| {
            let one: Vec<_> = all.iter().map(|v| v.0).collect();
            let two: Vec<_> = all.iter().map(|v| v.1).collect();
            let three: Vec<_> = all.iter().map(|v| u64::from(v.2)).collect();
            let three = three.iter().sum::<u64>();
            let wrapped = one.iter().fold(0u64, |sum, n| sum.wrapping_add(*n));
            (
                (wrapped, most(&one), least(&one)),
                (two.iter().map(|n| i64::from(*n)).sum(), most(&two), least(&two)),
                (three, three as f64 / all.len() as f64),
            )
        })?;
    }

    #[test]
    fn halves_of_32_bits(
        config in settings(),
        input in intervals((0..3i64, -99..99i16), 12),
        sizes in sizes(),
    ) {
        let half = |(key, n): &(i64, i16)| (*key, f32::from(*n) / 2.0);
        let block = |block: &Vec<(i64, i16)>| block.iter().map(half).collect();
        let input: Vec<Interval<(i64, f32)>> =
            input.iter().map(|blocks| blocks.iter().map(block).collect()).collect();
        let agg = (sum::<f32>(), min::<f32>(), max::<f32>());
        let wanted = |all: Vec<f32>| {
            let sum: f64 = all.iter().map(|n| f64::from(*n)).sum();
            let least = all.iter().copied().fold(f32::INFINITY, f32::min);
            (sum, least, all.into_iter().fold(f32::NEG_INFINITY, f32::max))
        };
        check(&config, &input, sizes, agg, wanted)?;
        let got = run(&config, &input, |_, pairs| {
            let agg = (sum::<f32>(), min::<f32>(), max::<f32>());
            pairs.by_key().agg(agg).unwrap().pairs()
        });
        prop_assert_eq!(sorted(got), sorted(naive(&input, (1, 1), wanted)));
    }

    #[test]
    fn composite_keys(
        config in settings(),
        input in intervals(((text(), prop::option::of(0..2i32)), -3..4i64), 14),
        sizes in sizes(),
    ) {
        check(&config, &input, sizes, (count(), min::<i64>()), |all| {
            (all.len() as i64, least(&all))
        })?;
    }

    #[test]
    fn windows_of_windows_and_of_aggregates(
        config in settings(),
        input in intervals((0..4u8, -9..9i64), 16),
        (len, slide) in (1..5usize, 1..3usize),
        (outer_len, outer_slide) in (1..4usize, 1..3usize),
    ) {
        let outer = (slide * outer_len, slide * outer_slide);
        let got = run(&config, &input, |_, pairs| {
            let inner = pairs.by_key().window_agg(batches(len), batches(slide), sum::<i64>()).unwrap();
            inner.window_agg(batches(outer.0), batches(outer.1), max::<i64>()).unwrap().pairs()
        });
        // The inner RDDs as a separate input.
        let inner = naive(&input, (len, slide), |all| all.iter().sum::<i64>());
        let inner: Vec<Interval<(u8, i64)>> = inner.into_iter().map(|(_, rows)| vec![rows]).collect();
        let wanted = naive(&inner, (outer_len, outer_slide), |all| most(&all));
        let wanted = wanted.into_iter().map(|(at, rows)| (at * slide as u64, rows)).collect();
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn keys_that_come_and_go(seed in any::<u64>(), sizes in (1..6usize, 1..3usize), threads in 1..3usize) {
        // Thousands of keys that exist in some batches only: slots die by the thousand, some keys return while
        // their slot is dead, some after its reuse.
        let mut random = seed | 1;
        let mut next = |bound: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % bound
        };
        let mut input = Vec::new();
        for _ in 0..14 {
            let (from, spread, rows) = (next(4) * 1500, 1 + next(2500), next(2500));
            let rows = (0..rows).map(|_| (from + next(spread), next(100) as i64 - 50));
            input.push(vec![rows.map(|(key, n)| (format!("key with number {key}"), n)).collect()]);
        }
        let config = small(threads, 500, 1000);
        check(&config, &input, sizes, (sum::<i64>(), min::<i64>(), count()), |all| {
            (all.iter().sum(), least(&all), all.len() as i64)
        })?;
    }
}

/// Batches with nearly all different keys: DataFusion then stops grouping partial results.
#[test]
fn a_flood_of_different_keys() {
    let first: Vec<(i64, i64)> = (0..130_000).map(|n| (n, n % 7)).collect();
    // The last keys come in pairs, new to the window.
    let pairs = |n: i64| if n < 105_000 { -n } else { -(n | 1) };
    let second: Vec<(i64, i64)> = (0..130_000i64).map(|n| (pairs(n), n % 5)).collect();
    let input = [vec![first], vec![second], vec![], vec![vec![(1, 1)]]];
    let mut config = small(1, 1 << 20, 8192);
    config.block_bytes = 1 << 20;
    let sizes = (2, 1);
    let agg = (count(), sum::<i64>(), max::<i64>());
    let got = windowed(&config, &input, sizes, agg);
    let wanted = naive(&input, sizes, |all| {
        (all.len() as i64, all.iter().sum::<i64>(), most(&all))
    });
    assert_eq!(got.len(), 4);
    for ((at, mut got), (wanted_at, wanted)) in got.into_iter().zip(wanted) {
        got.sort();
        assert_eq!(at, wanted_at);
        assert!(
            got == wanted,
            "batch {at}: {} rows, {} wanted",
            got.len(),
            wanted.len()
        );
    }
}

/// A key whose last record has expired is gone, and its text with it.
#[test]
fn a_key_leaves_with_its_last_record() {
    let row = |key: &str, n: i64| (key.to_owned(), n);
    let input = [
        vec![vec![row("a", 1), row("b", -1)]],
        vec![vec![row("a", -1)]],
        vec![],
        vec![],
    ];
    let got = windowed(&small(1, 1, 8), &input, (2, 1), sum::<i64>());
    let keys = |rows: &Vec<Pair>| {
        rows.iter()
            .map(|(key, _)| key.clone())
            .collect::<BTreeSet<_>>()
    };
    let keys: Vec<_> = got.iter().map(|(_, rows)| keys(rows)).collect();
    let set = |keys: &[&str]| {
        keys.iter()
            .map(|k| (*k).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        keys,
        [set(&["a", "b"]), set(&["a", "b"]), set(&["a"]), set(&[])]
    );
    let sum_of_a = got[1].1.iter().find(|(key, _)| key == "a").unwrap().1;
    assert_eq!(sum_of_a, 0, "a sum of 0 is no reason to leave");
}

/// Windows of the same stream with other lengths and slides, and one that no output reads.
#[test]
fn several_windows_over_one_stream() {
    let input: Vec<Interval<Pair>> = (0..12i64)
        .map(|batch| {
            vec![
                (0..5)
                    .map(|n| (format!("k{}", (n + batch) % 6), n * batch))
                    .collect(),
            ]
        })
        .collect();
    let all_sizes = [(3, 1), (6, 2), (1, 1), (12, 4), (2, 3)];
    let outputs = block_on(async {
        let mut program = Program::new(small(2, 1, 2));
        let (queue, pairs) = program.ctx.queue::<Pair>("in");
        let keyed = pairs.by_key();
        let mut outputs = Vec::new();
        for (len, slide) in all_sizes {
            let window = keyed
                .window_agg(batches(len), batches(slide), (sum::<i64>(), count()))
                .unwrap();
            outputs.push(window.collect());
        }
        let _ = keyed
            .window_agg(batches(5), batches(5), min::<i64>())
            .unwrap();
        let mut live = program.start().await;
        for interval in &input {
            queue.push(interval.concat()).await.unwrap();
            live.batch().await;
        }
        live.running.stop().await.unwrap();
        outputs
    });
    for (mut output, sizes) in outputs.into_iter().zip(all_sizes) {
        let mut got = Vec::new();
        while let Some(rdd) = output.try_recv() {
            got.push((rdd.batch_time().0, rdd.collect().unwrap()));
        }
        let wanted = naive(&input, sizes, |all| {
            (all.iter().sum::<i64>(), all.len() as i64)
        });
        // The graceful stop makes one more, empty batch, which only some slides read.
        got.retain(|(at, _)| *at <= 1200);
        assert_eq!(sorted(got), sorted(wanted), "{sizes:?}");
    }
}
