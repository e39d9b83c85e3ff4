//! Variances within batches, over all batches and over windows are those of plain DataFusion over all values.

use std::collections::BTreeMap;

use dstreams::agg::{
    Agg, avg, by_name, count, max, min, stddev_pop, stddev_samp, sum, var_pop, var_samp,
};
use dstreams::record::batch_of;
use dstreams::{Config, DStream, Keyed, Record, StreamContext};
use proptest::prelude::*;

use crate::plain::{check_last, plain};
use crate::program::{INTERVAL, Interval, cases, intervals, run, settings, small, text};

type Event = (String, f64);
/// Count, mean, and the four.
type Spread = (i64, f64, (Option<f64>, f64, Option<f64>, f64));

fn spread() -> impl Agg<f64, Out = Spread> {
    let four = (
        var_samp::<f64>(),
        var_pop::<f64>(),
        stddev_samp::<f64>(),
        stddev_pop::<f64>(),
    );
    (count(), avg::<f64>(), four)
}

/// Values far from zero and close together: their squares have no digit of the variance.
fn event() -> impl Strategy<Value = Event> {
    (text(), -50..50i32).prop_map(|(key, n)| (key, 1e9 + f64::from(n) / 16.0))
}

/// The same by plain DataFusion.
fn by_query(rows: Vec<Event>) -> BTreeMap<String, Spread> {
    let query = "select key, count(*), avg(value), var_samp(value), var_pop(value), stddev_samp(value), \
                 stddev_pop(value) from t group by key";
    let found = plain::<(String, Spread)>(&[("t", batch_of(rows).unwrap())], query);
    found.into_iter().collect()
}

/// Both errors are at most some `n * eps * sqrt(1 + mean² / variance)` of a variance (Chan, Golub, LeVeque 1983),
/// so the two differ by twice that at most; where the variance is 0, by the rounding of the mean.
fn check(
    found: Vec<(String, Spread)>,
    wanted: BTreeMap<String, Spread>,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), wanted.len());
    for (key, (n, mean, (a, b, c, d))) in found {
        let (wanted_n, wanted_mean, (wa, wb, wc, wd)) = wanted[&key];
        prop_assert_eq!(n, wanted_n);
        let eps = f64::EPSILON;
        prop_assert!((mean - wanted_mean).abs() <= n as f64 * eps * wanted_mean.abs());
        let rounding = n as f64 * (eps * mean) * (eps * mean);
        let close = |found: f64, wanted: f64| {
            let digits = (1.0 + mean * mean / wanted.max(rounding)).sqrt();
            (found - wanted).abs()
                <= 2.0 * n as f64 * eps * digits * wanted + 4.0 * rounding.max(eps * eps)
        };
        prop_assert!(close(b, wb), "{key}: var_pop {b}, not {wb}, of {n}");
        prop_assert!(
            close(d * d, wd * wd),
            "{key}: stddev_pop {d}, not {wd}, of {n}"
        );
        prop_assert_eq!((a.is_none(), c.is_none()), (n == 1, n == 1));
        prop_assert_eq!((wa.is_none(), wc.is_none()), (n == 1, n == 1));
        if let (Some(a), Some(wa), Some(c), Some(wc)) = (a, wa, c, wc) {
            prop_assert!(close(a, wa), "{key}: var_samp {a}, not {wa}, of {n}");
            prop_assert!(
                close(c * c, wc * wc),
                "{key}: stddev_samp {c}, not {wc}, of {n}"
            );
        }
    }
    Ok(())
}

/// The results of `agg` for each batch, against plain DataFusion over its last `batches`.
fn compare(
    config: &Config,
    input: &[Interval<Event>],
    batches: usize,
    agg: impl FnOnce(Keyed<String, f64>) -> Keyed<String, Spread>,
) -> Result<(), TestCaseError> {
    let build = |events: &DStream<Event>| agg(events.by_key()).pairs();
    check_last(config, input, batches, build, |found, rows| {
        check(found, by_query(rows))
    })
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn within_a_batch(config in settings(), input in intervals(event(), 3)) {
        compare(&config, &input, 1, |events| events.agg(spread()).unwrap())?;
    }

    #[test]
    fn over_all_batches(config in settings(), input in intervals(event(), 8)) {
        compare(&config, &input, usize::MAX, |events| {
            events.running_agg("spread", spread()).unwrap().all()
        })?;
    }

    #[test]
    fn over_a_window(config in settings(), input in intervals(event(), 12), batches in 1..6usize) {
        compare(&config, &input, batches, |events| {
            events.window_agg(INTERVAL * batches as u32, INTERVAL, spread()).unwrap()
        })?;
    }

    /// A function chosen by name is the function.
    #[test]
    fn by_name_is_the_same(config in settings(), input in intervals((text(), -9..9i64), 6)) {
        type All = ((i64, i64, f64), (i64, i64), (Option<f64>, f64, Option<f64>, f64));
        let typed = (
            (count(), sum::<i64>(), avg::<i64>()),
            (min::<i64>(), max::<i64>()),
            (var_samp::<i64>(), var_pop::<i64>(), stddev_samp::<i64>(), stddev_pop::<i64>()),
        );
        let named = (
            (by_name::<i64>("COUNT", ""), by_name::<i64>("sum", ""), by_name::<f64>("mean", "")),
            (by_name::<i64>("min", ""), by_name::<i64>(" max ", "")),
            (
                by_name::<Option<f64>>("var", ""),
                by_name::<f64>("var_population", ""),
                by_name::<Option<f64>>("stddev", ""),
                by_name::<f64>("stddev_pop", ""),
            ),
        );
        fn all<A: Agg<i64, Out = All>>(config: &Config, input: &[Interval<(String, i64)>], agg: A) -> Vec<(u64, Vec<(String, All)>)> {
            run(config, input, |_, events| events.by_key().running_agg("all", agg).unwrap().all().pairs())
        }
        prop_assert_eq!(all(&config, &input, named), all(&config, &input, typed));
    }
}

/// A mean that is large beside the differences, over many batches: the digits survive.
#[test]
fn digits_are_kept_over_many_batches() {
    let input: Vec<Interval<Event>> = (0..400)
        .map(|n| {
            vec![
                (0..4)
                    .map(|k| ("a".to_owned(), 1e9 + f64::from((n * 7 + k) % 3)))
                    .collect(),
            ]
        })
        .collect();
    let found = run(&small(2, 2, 4), &input, |_, events: &DStream<Event>| {
        events
            .by_key()
            .running_agg("spread", var_pop::<f64>())
            .unwrap()
            .all()
            .pairs()
    });
    let last = found.last().unwrap().1[0].1;
    let values: Vec<f64> = input
        .concat()
        .concat()
        .into_iter()
        .map(|(_, x)| x - 1e9)
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let truth = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / values.len() as f64;
    assert!((last - truth).abs() < 1e-6 * truth, "{last}, not {truth}");
}

#[test]
fn unbounded_aggregates_are_refused_by_name() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, events) = ctx.queue::<(String, (i64, String))>("events");
    let events = events.by_key();
    fn refused<O: Record>(
        events: &Keyed<String, (i64, String)>,
        function: &str,
        column: &str,
        parts: &[&str],
    ) {
        let agg = || by_name::<O>(function, column);
        for (operator, error) in [
            ("running_agg", events.running_agg("state", agg()).err()),
            (
                "window_agg",
                events.window_agg(INTERVAL, INTERVAL, agg()).err(),
            ),
            ("agg", events.agg(agg()).err()),
        ]
        .map(|(operator, error)| (operator, error.unwrap().to_string()))
        {
            for part in [operator].iter().chain(parts) {
                assert!(error.contains(part), "{function} {column}: {error}");
            }
        }
    }
    for function in [
        "median",
        "Array_Agg",
        "count(distinct value)",
        "string_agg",
        "percentile_cont",
    ] {
        let name = format!("`{}`", function.to_lowercase());
        refused::<f64>(&events, function, "key", &[&name, "unbounded", "`sql`"]);
    }
    refused::<f64>(
        &events,
        "medain",
        "key",
        &["no aggregate `medain`", "stddev_pop"],
    );
    refused::<f64>(
        &events,
        "sum",
        "key",
        &["the result of sum is Int64", "not Float64"],
    );
    refused::<f64>(&events, "var_samp", "key", &["Float64 with nulls"]);
    refused::<i64>(&events, "sum", "value", &["Utf8View, not a number"]);
    refused::<i64>(&events, "min", "nothing", &["no such column"]);
}

/// So many keys that their first aggregation gives up on grouping. The last one must not: some keys come again at the
/// end, and each has one variance.
#[test]
fn of_keys_that_are_almost_all_different() {
    let (keys, again) = (260_000u32, 1_000);
    let rows: Vec<(u32, f64)> = (0..keys).chain(0..again).map(|n| (n, n.into())).collect();
    for threads in [1, 2] {
        let mut config = Config::new(INTERVAL);
        config.threads = threads;
        let input = [vec![rows.clone()]];
        let found = run(&config, &input, |_, events| {
            let spread = (count(), var_pop::<f64>());
            events.by_key().agg(spread).unwrap().pairs()
        });
        let (_, found) = &found[0];
        assert_eq!(found.len(), keys as usize, "with {threads} threads");
        for (key, result) in found {
            let count = if *key < again { 2 } else { 1 };
            assert_eq!(*result, (count, 0.0), "{key} with {threads} threads");
        }
    }
}
