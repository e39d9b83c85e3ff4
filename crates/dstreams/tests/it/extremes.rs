//! Least and greatest floating-point numbers: one total order, in which NaN is the greatest; for any order of rows,
//! number of tasks, split into batches, and kind of query.

use std::fmt::Debug;

use dstreams::agg::{Number, max, min};
use dstreams::datafusion::functions_aggregate::expr_fn;
use dstreams::datafusion::prelude::col;
use dstreams::{DStream, Record};
use proptest::prelude::*;

use crate::program::{Batches, INTERVAL, Interval, cases, run, small};

/// As `f64::total_cmp`, but ignores the sign of NaN.
fn order(one: &f64, other: &f64) -> std::cmp::Ordering {
    match (one.is_nan(), other.is_nan()) {
        (false, false) => one.total_cmp(other),
        (one, other) => one.cmp(&other),
    }
}

/// A number as text: equal for equal bits, and for all NaNs.
fn text(n: f64) -> String {
    format!("{n:?}")
}

fn number() -> impl Strategy<Value = f64> {
    let odd = [
        f64::NAN,
        -f64::NAN,
        f64::INFINITY,
        -f64::INFINITY,
        0.0,
        -0.0,
        f64::MIN,
        f64::MAX,
    ];
    prop_oneof![
        3 => proptest::sample::select(odd.to_vec()),
        1 => (-3..4i32).prop_map(f64::from),
    ]
}

/// For each key, its least and greatest value so far as text, from all queries that accumulate over batches; with
/// `within`, inside a batch.
type Found = Vec<(String, String, String)>;

fn last<R>(batches: Batches<R>, text: impl Fn(R) -> (String, String, String)) -> Found {
    let (_, rows) = batches.into_iter().last().unwrap();
    let mut rows: Vec<_> = rows.into_iter().map(text).collect();
    rows.sort();
    rows
}

/// All kinds of queries; those within a batch where there is one.
fn found<N>(threads: usize, input: &[Interval<(String, N)>]) -> Vec<(&'static str, Found)>
where
    N: Number + Record + Clone + Debug + Into<f64>,
{
    let config = small(threads, 1, 2);
    let row = |(key, (least, greatest)): (String, (N, N))| {
        (key, text(least.into()), text(greatest.into()))
    };
    let mut all = Vec::new();
    let both = || (min::<N>(), max::<N>());
    let many = input.len() as u32 + 1;
    let window = run(&config, input, |_, rows: &DStream<(String, N)>| {
        rows.by_key()
            .window_agg(many * INTERVAL, INTERVAL, both())
            .unwrap()
            .pairs()
    });
    all.push(("window_agg", last(window, row)));
    let running = run(&config, input, |_, rows: &DStream<(String, N)>| {
        rows.by_key()
            .running_agg("extremes", both())
            .unwrap()
            .all()
            .pairs()
    });
    all.push(("running_agg", last(running, row)));
    if input.len() > 1 {
        return all;
    }
    let agg = run(&config, input, |_, rows| {
        rows.by_key().agg(both()).unwrap().pairs()
    });
    all.push(("agg", last(agg, row)));
    type Flat<N> = (String, N, N);
    let flat = |(key, least, greatest): Flat<N>| (key, text(least.into()), text(greatest.into()));
    let sql = run(&config, input, |_, rows: &DStream<(String, N)>| {
        let query = "select key, min(value), max(value) from this group by key";
        rows.sql::<Flat<N>>(query).unwrap()
    });
    all.push(("sql", last(sql, flat)));
    let frame = run(&config, input, |_, rows: &DStream<(String, N)>| {
        let frame = |frame: dstreams::datafusion::dataframe::DataFrame| {
            let both = vec![expr_fn::min(col("value")), expr_fn::max(col("value"))];
            frame.aggregate(vec![col("key")], both)
        };
        rows.transform::<Flat<N>>(frame).unwrap()
    });
    all.push(("transform", last(frame, flat)));
    let over = run(&config, input, |_, rows: &DStream<(String, N)>| {
        // No `distinct`: grouping by a number removes the sign of a zero.
        let query = "select key, least, greatest from (select key, \
            row_number() over (partition by key order by value) as place, \
            min(value) over (partition by key order by value rows between unbounded preceding \
                and unbounded following) as least, \
            max(value) over (partition by key) as greatest from this) where place = 1";
        rows.sql::<(String, Option<N>, Option<N>)>(query).unwrap()
    });
    let some = |(key, a, b): (String, Option<N>, Option<N>)| {
        (key, text(a.unwrap().into()), text(b.unwrap().into()))
    };
    all.push(("sql over", last(over, some)));
    // Without a group: for one key.
    let single = run(&config, input, |_, rows: &DStream<(String, N)>| {
        let query = "select 'a' as a, min(value), max(value) from this where key = 'a' \
            union all select 'b' as a, min(value), max(value) from this where key = 'b'";
        rows.sql::<(String, Option<N>, Option<N>)>(query)
            .unwrap()
            .filter(|(_, n, _)| n.is_some())
    });
    all.push(("sql without a group", last(single, some)));
    all
}

fn check(rows: &[(String, f64)], cuts: &[usize]) -> Result<(), TestCaseError> {
    let mut wanted = Vec::new();
    for key in ["a", "b"] {
        let values = rows.iter().filter(|(of, _)| of == key).map(|(_, n)| *n);
        if let Some(least) = values.clone().min_by(order) {
            let greatest = values.max_by(order).unwrap();
            wanted.push((key.to_owned(), text(least), text(greatest)));
        }
    }
    let narrow: Vec<(String, f32)> = rows.iter().map(|(k, n)| (k.clone(), *n as f32)).collect();
    let wanted_narrow: Vec<_> = wanted
        .iter()
        .cloned()
        .map(|(key, a, b)| {
            let narrow = |n: String| text(f64::from(n.parse::<f64>().unwrap() as f32));
            (key, narrow(a), narrow(b))
        })
        .collect();
    for threads in [1, 4] {
        for (way, found) in found(threads, &cut(rows, cuts)) {
            prop_assert_eq!(found, wanted.clone(), "{} with {} thread(s)", way, threads);
        }
        for (way, found) in found(threads, &cut(&narrow, cuts)) {
            prop_assert_eq!(found, wanted_narrow.clone(), "{} of f32, {}", way, threads);
        }
    }
    Ok(())
}

/// Batches of one block each with so many rows.
fn cut<T: Clone>(rows: &[T], cuts: &[usize]) -> Vec<Interval<T>> {
    let mut rest = rows;
    let mut batches = Vec::new();
    for cut in cuts {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        batches.push(now.chunks(2).map(<[T]>::to_vec).collect());
        rest = later;
    }
    batches
}

proptest! {
    #![proptest_config(cases(5))]

    #[test]
    fn extremes_of_any_numbers_in_any_order(
        rows in prop::collection::vec((proptest::sample::select(vec!["a".to_owned(), "b".to_owned()]), number()), 1..12),
        first in 0..6usize,
    ) {
        check(&rows, &[rows.len()])?;
        check(&rows, &[first, 2, rows.len()])?;
    }
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let values = [1.0, f64::NAN, 0.5];
    for [a, b, c] in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut rows = [a, b, c].map(|at| ("a".to_owned(), values[at])).to_vec();
        rows.push(("b".to_owned(), f64::NEG_INFINITY));
        check(&rows, &[4]).unwrap();
        check(&rows, &[1, 1, 1, 1]).unwrap();
    }
}
