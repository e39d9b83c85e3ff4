//! Aggregates that pass over nulls are those of plain DataFusion.

use std::collections::BTreeMap;

use dstreams::agg::{
    Agg, avg_some, avg_some_of, count, count_some, count_some_of, max_some, max_some_of, min_some,
    min_some_of, sum, sum_some, sum_some_of,
};
use dstreams::record::batch_of;
use dstreams::{Config, DStream, Date, Keyed, Millis, Record, StreamContext};
use proptest::prelude::*;

use crate::plain::{check_last, plain};
use crate::program::{INTERVAL, Interval, cases, intervals, run, settings, small, sorted, text};

/// Records, values, sum, least, greatest, mean.
type Found<N, S> = (i64, i64, Option<S>, Option<N>, Option<N>, Option<f64>);
type Both = (Found<i64, i64>, Found<f32, f64>);
type Event = (String, (Option<i64>, Option<f32>));

/// Of numbers whose sums are exact in any order.
fn agg() -> impl Agg<(Option<i64>, Option<f32>), Out = Both> {
    (
        (
            count(),
            count_some_of("key"),
            sum_some_of::<i64>("key"),
            min_some_of::<i64>("key"),
            max_some_of::<i64>("key"),
            avg_some_of::<i64>("key"),
        ),
        (
            count(),
            count_some_of("value"),
            sum_some_of::<f32>("value"),
            min_some_of::<f32>("value"),
            max_some_of::<f32>("value"),
            avg_some_of::<f32>("value"),
        ),
    )
}

/// The same by plain DataFusion.
fn by_query(rows: Vec<Event>) -> BTreeMap<String, Both> {
    let all = |of: &str| {
        format!("count(*) as all_{of}, count({of}), sum({of}), min({of}), max({of}), avg({of})")
    };
    let query = format!(
        "select key, {}, {} from t group by key",
        all("value_key"),
        all("value_value")
    );
    let found = plain::<(String, Both)>(&[("t", batch_of(rows).unwrap())], &query);
    found.into_iter().collect()
}

fn event() -> impl Strategy<Value = Event> {
    let int = prop::option::of(-9..9i64);
    let float = prop::option::of((-40..40i8).prop_map(|n| f32::from(n) / 4.0));
    (text(), (int, float))
}

/// The results of `agg` for each batch, against plain DataFusion over its last `batches`.
fn compare(
    config: &Config,
    input: &[Interval<Event>],
    batches: usize,
    agg: impl FnOnce(Keyed<String, (Option<i64>, Option<f32>)>) -> Keyed<String, Both>,
) -> Result<(), TestCaseError> {
    let build = |events: &DStream<Event>| agg(events.by_key()).pairs();
    check_last(config, input, batches, build, |found, rows| {
        prop_assert_eq!(
            found.into_iter().collect::<BTreeMap<_, _>>(),
            by_query(rows)
        );
        Ok(())
    })
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn within_a_batch(config in settings(), input in intervals(event(), 3)) {
        compare(&config, &input, 1, |events| events.agg(agg()).unwrap())?;
    }

    #[test]
    fn over_all_batches(config in settings(), input in intervals(event(), 6)) {
        compare(&config, &input, usize::MAX, |events| {
            events.running_agg("some", agg()).unwrap().all()
        })?;
    }

    #[test]
    fn over_a_window(config in settings(), input in intervals(event(), 10), batches in 1..5usize) {
        compare(&config, &input, batches, |events| {
            events.window_agg(INTERVAL * batches as u32, INTERVAL, agg()).unwrap()
        })?;
    }

    /// Sums and counts alone are subtracted.
    #[test]
    fn over_a_window_that_subtracts(config in settings(), input in intervals((text(), prop::option::of(-9..9i64)), 10), batches in 1..5usize) {
        let agg = || (count_some(), sum_some::<i64>());
        let build = |events: &DStream<(String, Option<i64>)>| {
            events.by_key().window_agg(INTERVAL * batches as u32, INTERVAL, agg()).unwrap().pairs()
        };
        check_last(&config, &input, batches, build, |found, rows| {
            let mut wanted = BTreeMap::<String, (i64, Option<i64>)>::new();
            for (key, value) in rows {
                let (count, sum) = wanted.entry(key).or_default();
                *count += i64::from(value.is_some());
                *sum = match (*sum, value) {
                    (None, value) | (value, None) => value,
                    (Some(sum), Some(value)) => Some(sum + value),
                };
            }
            prop_assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), wanted);
            Ok(())
        })?;
    }
}

/// The limits of the types are values as any others, and so are `NaN` and `-0.0`.
#[test]
fn values_that_stand_for_nulls_elsewhere() {
    fn check<N, S>(values: &[Option<N>], agg: impl Agg<Option<N>, Out = S> + Clone, wanted: S)
    where
        N: Record + Clone,
        S: Record + std::fmt::Debug,
    {
        let rows = values.iter().map(|value| (1i64, value.clone()));
        let input = vec![vec![rows.collect()]];
        let (running, window) = (agg.clone(), agg.clone());
        let found = run(&small(2, 1, 1), &input, |_, rows| {
            rows.by_key().agg(agg).unwrap().pairs()
        });
        let wanted = format!("{:?}", [(1i64, wanted)]);
        assert_eq!(format!("{:?}", found[0].1), wanted);
        let found = run(&small(2, 1, 1), &input, |_, rows| {
            rows.by_key()
                .running_agg("all", running)
                .unwrap()
                .all()
                .pairs()
        });
        assert_eq!(format!("{:?}", found[0].1), wanted);
        let found = run(&small(2, 1, 1), &input, |_, rows| {
            rows.by_key()
                .window_agg(INTERVAL * 2, INTERVAL, window)
                .unwrap()
                .pairs()
        });
        assert_eq!(format!("{:?}", found[0].1), wanted);
    }
    #[derive(Clone)]
    struct Ends<N>(std::marker::PhantomData<fn() -> N>);
    impl<N: dstreams::record::Leaf> Agg<Option<N>> for Ends<N> {
        type Out = (Option<N>, Option<N>);
        fn add_to(&self, parts: &mut dstreams::agg::AggParts<'_>) {
            Agg::<Option<N>>::add_to(&(min_some::<N>(), max_some::<N>()), parts);
        }
    }
    fn ends<N>() -> Ends<N> {
        Ends(std::marker::PhantomData)
    }
    check(
        &[None, Some(i64::MAX)],
        ends(),
        (Some(i64::MAX), Some(i64::MAX)),
    );
    check(
        &[None, Some(i64::MIN)],
        ends(),
        (Some(i64::MIN), Some(i64::MIN)),
    );
    check(&[None, Some(u8::MIN)], ends(), (Some(0), Some(0)));
    check(
        &[None, Some(f64::NAN)],
        ends(),
        (Some(f64::NAN), Some(f64::NAN)),
    );
    let low = f64::NEG_INFINITY;
    check(&[Some(low), None, None], ends(), (Some(low), Some(low)));
    check(&[None, Some(-0.0f32)], ends(), (Some(-0.0), Some(-0.0)));
    check::<f64, (Option<f64>, Option<f64>)>(&[None, None], ends(), (None, None));
    let day = Some(Date(-3));
    check(&[None, day], ends(), (day, day));
    let time = Some(Millis(i64::MAX));
    check(&[time, None], ends(), (time, time));
}

#[test]
fn texts_within_a_batch() {
    let row = |key: i64, text: Option<&str>| (key, text.map(str::to_owned));
    let input = vec![vec![vec![
        row(1, Some("b")),
        row(1, None),
        row(2, None),
        row(1, Some("a")),
    ]]];
    let found = run(&small(2, 1, 1), &input, |_, rows| {
        let ends = (count_some(), min_some::<String>(), max_some::<String>());
        rows.by_key().agg(ends).unwrap().pairs()
    });
    let text = |text: &str| Some(text.to_owned());
    let wanted = vec![(1, (2, text("a"), text("b"))), (2, (0, None, None))];
    assert_eq!(sorted(found)[0].1, wanted);
}

#[test]
fn columns_with_nulls_are_refused_with_the_way_out() {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, rows) = ctx.queue::<(String, Option<i64>)>("rows");
    let error = rows.by_key().agg(sum::<i64>()).err().unwrap().to_string();
    assert!(error.contains("sum_some"), "{error}");
    let error = rows
        .by_key()
        .agg(sum_some::<u8>())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("Int64, not UInt8"), "{error}");
    // A column without nulls is one too.
    let _ = rows.by_key().agg(avg_some::<i64>()).unwrap();
}
