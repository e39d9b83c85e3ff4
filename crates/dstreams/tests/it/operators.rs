//! Operators over random batches equal a naive reference, interval by interval.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dstreams::agg::{avg, count, max, max_of, min, min_of, sum, sum_of};
use dstreams::{Key, Record};
use proptest::prelude::*;

use crate::program::{Program, block_on, cases, each, intervals, run, settings, sorted, text};

type Pair = (String, i64);

fn pair() -> impl Strategy<Value = Pair> {
    (
        text(),
        prop_oneof![-3..4i64, any::<i64>().prop_map(|n| n >> 4)],
    )
}

/// Values by key, in order of arrival.
fn groups<K: Ord, V>(pairs: Vec<(K, V)>) -> BTreeMap<K, Vec<V>> {
    let mut groups = BTreeMap::<K, Vec<V>>::new();
    for (key, value) in pairs {
        groups.entry(key).or_default().push(value);
    }
    groups
}

/// `f` of the values of each key.
fn by_key<K: Ord, V, R>(pairs: Vec<(K, V)>, f: impl Fn(Vec<V>) -> R) -> Vec<(K, R)> {
    groups(pairs)
        .into_iter()
        .map(|(key, values)| (key, f(values)))
        .collect()
}

fn mean(values: &[i64]) -> f64 {
    values.iter().sum::<i64>() as f64 / values.len() as f64
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn map_filter_and_flat_map_keep_the_order(config in settings(), input in intervals(pair(), 5)) {
        let got = run(&config, &input, |_, pairs| {
            pairs
                .filter(|(_, n)| n % 3 != 0)
                .map(|(text, n)| (n / 2, text.to_uppercase()))
                .flat_map::<(String, i64)>(|(n, text), out| {
                    for part in text.split('B') {
                        out.push((part, n));
                    }
                })
        });
        let wanted = each(&input, |rows| {
            let kept = rows.into_iter().filter(|(_, n)| n % 3 != 0);
            let mapped = kept.map(|(text, n)| (n / 2, text.to_uppercase()));
            let parts = |(n, text): (i64, String)| -> Vec<_> {
                text.split('B').map(|part| (part.to_owned(), n)).collect()
            };
            mapped.flat_map(parts).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn filters_that_keep_all_or_nothing(config in settings(), input in intervals(pair(), 3)) {
        let all = run(&config, &input, |_, pairs| pairs.filter(|_| true));
        prop_assert_eq!(all, each(&input, |rows| rows));
        let none = run(&config, &input, |_, pairs| pairs.filter(|_| false));
        prop_assert_eq!(none, each(&input, |_| vec![]));
    }

    #[test]
    fn key_by_and_map_values(config in settings(), input in intervals(pair(), 4)) {
        let got = run(&config, &input, |_, pairs| {
            pairs
                .key_by_into::<String>(|(text, _), key| key.push(text))
                .map_values(|(text, n)| format!("{text} and its number {n}"))
                .pairs()
        });
        let wanted = each(&input, |rows| {
            let one = |(text, n): Pair| (text.clone(), format!("{text} and its number {n}"));
            rows.into_iter().map(one).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn keys_are_returned_or_pushed(config in settings(), input in intervals(pair(), 4)) {
        let returned = run(&config, &input, |_, pairs| pairs.key_by(|(text, _)| text.to_owned()).pairs());
        let pushed = run(&config, &input, |_, pairs| {
            pairs.key_by_into::<String>(|(text, _), key| key.push(text)).pairs()
        });
        let wanted = each(&input, |rows| {
            rows.into_iter().map(|(text, n)| (text.clone(), (text, n))).collect()
        });
        prop_assert_eq!(&returned, &wanted);
        prop_assert_eq!(pushed, wanted);
    }

    #[test]
    fn records_that_become_many_get_their_keys(config in settings(), input in intervals(pair(), 4)) {
        // More rows than one Arrow batch should have: the next closures take them in pieces.
        let got = run(&config, &input, |_, pairs| {
            let many = pairs.flat_map::<Pair>(|(text, n), out| {
                (0..n.rem_euclid(23)).for_each(|copy| out.push((text, copy)));
            });
            let keyed = many.key_by(|(_, n)| n * 2);
            keyed.map_values(|(text, n)| (n, text.len() as u64)).pairs()
        });
        let wanted = each(&input, |rows| {
            let copies = |(text, n): Pair| {
                let len = text.len() as u64;
                (0..n.rem_euclid(23)).map(move |copy| (copy * 2, (copy, len)))
            };
            rows.into_iter().flat_map(copies).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn agg_of_integers(config in settings(), input in intervals(pair(), 4)) {
        let agg = (count(), sum::<i64>(), min::<i64>(), max::<i64>(), avg::<i64>());
        let got = run(&config, &input, |_, pairs| pairs.by_key().agg(agg).unwrap().pairs());
        let wanted = each(&input, |rows| by_key(rows, |all| {
            let (least, most) = (*all.iter().min().unwrap(), *all.iter().max().unwrap());
            (all.len() as i64, all.iter().sum::<i64>(), least, most, mean(&all))
        }));
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn agg_of_unsigned_small_and_floating_point_numbers(
        config in settings(),
        input in intervals((0..3u8, (any::<u64>().prop_map(|n| n >> 8), -9..9i8, -900..900i32)), 4),
    ) {
        // Quarters add exactly in any order.
        let got = run(&config, &input, |_, rows| {
            rows.map(|(key, (big, small, quarters))| (key, (big, small, f64::from(quarters) / 4.0)))
                .by_key()
                .agg((
                    (sum_of::<u64>("_1"), min_of::<u64>("_1"), max_of::<u64>("_1")),
                    (sum_of::<i8>("_2"), min_of::<i8>("_2"), max_of::<i8>("_2")),
                    (sum_of::<f64>("_3"), min_of::<f64>("_3"), max_of::<f64>("_3")),
                ))
                .unwrap()
                .pairs()
        });
        let wanted = each(&input, |rows| by_key(rows, |all| {
            let big = || all.iter().map(|v| v.0);
            let small = || all.iter().map(|v| v.1);
            let float = || all.iter().map(|v| f64::from(v.2) / 4.0);
            (
                (big().sum::<u64>(), big().min().unwrap(), big().max().unwrap()),
                (small().map(i64::from).sum::<i64>(), small().min().unwrap(), small().max().unwrap()),
                (
                    float().sum::<f64>(),
                    float().fold(f64::INFINITY, f64::min),
                    float().fold(f64::NEG_INFINITY, f64::max),
                ),
            )
        }));
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn agg_of_texts(config in settings(), input in intervals((-2..3i32, text()), 4)) {
        let got = run(&config, &input, |_, pairs| {
            pairs.by_key().agg((min::<String>(), max::<String>())).unwrap().pairs()
        });
        let wanted = each(&input, |rows| by_key(rows, |all| {
            (all.iter().min().unwrap().clone(), all.iter().max().unwrap().clone())
        }));
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn counting_keys_without_values(config in settings(), input in intervals(text(), 4)) {
        let got = run(&config, &input, |_, words| words.keyed().agg(count()).unwrap().pairs());
        let wanted = each(&input, |rows| {
            by_key(rows.into_iter().map(|word| (word, ())).collect(), |all| all.len() as i64)
        });
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn reduce_sees_values_in_order_of_arrival(
        config in settings(),
        input in intervals((text(), text()), 4),
    ) {
        let got = run(&config, &input, |_, pairs| {
            pairs.by_key().reduce(|before, after| before + "/" + &after).pairs()
        });
        let wanted = each(&input, |rows| by_key(rows, |all| all.join("/")));
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn union_has_the_first_stream_first(config in settings(), input in intervals(pair(), 4)) {
        let got = run(&config, &input, |_, pairs| {
            let odd = pairs.filter(|(_, n)| n % 2 != 0);
            let even = pairs.filter(|(_, n)| n % 2 == 0).map(|(text, n)| (text.to_owned(), n + 1));
            odd.union(&even).unwrap().union(pairs).unwrap()
        });
        let wanted = each(&input, |rows| {
            let (odd, even): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(|(_, n)| n % 2 != 0);
            let even = even.into_iter().map(|(text, n)| (text, n + 1));
            odd.into_iter().chain(even).chain(rows).collect()
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn union_of_a_stream_with_itself(config in settings(), input in intervals(pair(), 3)) {
        let got = run(&config, &input, |_, pairs| {
            let mapped = pairs.map(|(text, n)| (text.to_owned(), n));
            mapped.union(&mapped).unwrap().by_key().agg(count()).unwrap().pairs()
        });
        let wanted = each(&input, |rows| by_key(rows, |all| 2 * all.len() as i64));
        prop_assert_eq!(sorted(got), sorted(wanted));
    }

    #[test]
    fn count_is_one_record_for_empty_batches_too(config in settings(), input in intervals(pair(), 5)) {
        let got = run(&config, &input, |_, pairs| pairs.count().unwrap());
        prop_assert_eq!(got, each(&input, |rows| vec![rows.len() as i64]));
    }

    #[test]
    fn top_is_ordered_by_value_then_key(
        config in settings(),
        input in intervals((text(), -2..3i64), 4),
        limit in 0..12usize,
    ) {
        let got = run(&config, &input, |_, pairs| pairs.by_key().top(limit));
        let wanted = each(&input, |mut rows| {
            rows.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
            rows.truncate(limit);
            rows
        });
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn aggregates_of_aggregates(config in settings(), input in intervals(pair(), 4)) {
        // How many keys have how many records.
        let got = run(&config, &input, |_, pairs| {
            let counts = pairs.by_key().agg(count()).unwrap().pairs();
            counts.map(|(_, n)| n).keyed().agg(count()).unwrap().pairs()
        });
        let wanted = each(&input, |rows| {
            let counts = by_key(rows, |all| all.len() as i64);
            by_key(counts.into_iter().map(|(_, n)| (n, ())).collect(), |all| all.len() as i64)
        });
        prop_assert_eq!(sorted(got), sorted(wanted));
    }
}

fn check_keys<K: Key + Ord + Clone + Debug>(input: &[Vec<Vec<K>>]) -> Result<(), TestCaseError> {
    let config = crate::program::small(3, 2, 3);
    let got = run(&config, input, |_, keys| {
        keys.keyed().agg(count()).unwrap().pairs()
    });
    let wanted = each(input, |rows| {
        by_key(rows.into_iter().map(|key| (key, ())).collect(), |all| {
            all.len() as i64
        })
    });
    prop_assert_eq!(sorted(got), sorted(wanted));
    Ok(())
}

/// A composite key.
#[derive(Record, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[record(key)]
struct Place {
    shop: String,
    shelf: Option<i32>,
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn keys_of_every_kind(
        input in intervals((text(), -2..3i64, any::<bool>(), prop::option::of(-1..2i32)), 3),
    ) {
        fn keys<T: Clone, K>(input: &[Vec<Vec<T>>], f: impl Fn(T) -> K) -> Vec<Vec<Vec<K>>> {
            let block = |block: &Vec<T>| block.iter().cloned().map(&f).collect();
            input.iter().map(|blocks| blocks.iter().map(block).collect()).collect()
        }
        check_keys(&keys(&input, |t| t.1 as i8))?;
        check_keys(&keys(&input, |t| t.1 as u64))?;
        check_keys(&keys(&input, |t| (t.1 + 5) as u16))?;
        check_keys(&keys(&input, |t| t.2))?;
        check_keys(&keys(&input, |t| t.3))?;
        check_keys(&keys(&input, |t| t.3.map(|_| t.0)))?;
        check_keys(&keys(&input, |t| (t.2, t.1)))?;
        check_keys(&keys(&input, |t| (t.0, t.1, t.2)))?;
        check_keys(&keys(&input, |t| (t.2, (t.3, t.1 as u8))))?;
        check_keys(&keys(&input, |t| Place { shop: t.0, shelf: t.3 }))?;
    }
}

#[test]
fn many_outputs_of_one_program_agree() {
    let config = crate::program::small(3, 1, 2);
    block_on(async {
        let mut program = Program::new(config);
        let (queue, pairs) = program.ctx.queue::<Pair>("in");
        let keyed = pairs.by_key();
        let mut raw = pairs.collect();
        let mut again = pairs.collect();
        let mut counts = keyed.agg(count()).unwrap().collect();
        let mut sums = keyed.agg(sum::<i64>()).unwrap().collect();
        let mut total = keyed
            .agg(sum::<i64>())
            .unwrap()
            .pairs()
            .count()
            .unwrap()
            .collect();
        let mut live = program.start().await;
        let rows: Vec<Pair> = (0..40).map(|n| (format!("key {}", n % 7), n)).collect();
        queue.push(rows.clone()).await.unwrap();
        live.batch().await;
        let rdd = raw.recv().await.unwrap();
        assert_eq!(rdd.collect().unwrap(), rows);
        assert_eq!((rdd.num_rows(), rdd.partitions().len()), (40, 3));
        for limit in [0, 1, 39, 99] {
            assert_eq!(rdd.take(limit).unwrap(), rows[..limit.min(40)]);
        }
        assert_eq!(rdd.dataframe().unwrap().count().await.unwrap(), 40);
        assert_eq!(again.recv().await.unwrap().collect().unwrap(), rows);
        let mut got = counts.recv().await.unwrap().collect().unwrap();
        got.sort();
        assert_eq!(got, by_key(rows.clone(), |all| all.len() as i64));
        let mut got = sums.recv().await.unwrap().collect().unwrap();
        got.sort();
        assert_eq!(got, by_key(rows, |all| all.iter().sum::<i64>()));
        assert_eq!(total.recv().await.unwrap().collect().unwrap(), [7]);
    });
}
