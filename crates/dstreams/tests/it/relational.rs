//! SQL and DataFrames over random batches equal the same query in plain DataFusion.

use std::sync::Arc;

use dstreams::datafusion::datasource::MemTable;
use dstreams::datafusion::prelude::{col, lit};
use dstreams::record::batch_of;
use dstreams::{Config, DStream, agg::count};
use proptest::prelude::*;

use crate::plain::plain;
use crate::program::{
    Batches, Interval, Program, block_on, cases, each, intervals, run, run_all, settings, small,
    sorted, text,
};

type Pair = (String, i64);

fn pair() -> impl Strategy<Value = Pair> {
    (text(), -3..4i64)
}

/// Queries for a text and a number; the flag: whether their order is fixed.
const QUERIES: &[(&str, bool)] = &[
    ("select key, value from this", false),
    (
        "select key, value * 2 + 1 as value from this where value > 0",
        false,
    ),
    (
        "select key, sum(value) as value from this group by key",
        false,
    ),
    (
        "select key, count(*) as value from this group by key having count(*) > 1",
        false,
    ),
    ("select 'all' as key, count(*) as value from this", false),
    (
        "select key, value from this order by value desc, key limit 4",
        true,
    ),
    (
        "select key, value from this order by key, value limit 3 offset 2",
        true,
    ),
    ("select distinct key, value from this", false),
    (
        "select key, row_number() over (partition by key order by value) as v, value from this",
        false,
    ),
    (
        "select t.key, u.value from this t join this u on t.value = u.value",
        false,
    ),
    (
        "select t.key, count(u.key) as n from this t left join (select * from this where value > 1) u \
      on t.key = u.key group by t.key",
        false,
    ),
    (
        "select key, value from this where value in (select max(value) from this)",
        false,
    ),
    (
        "select key, value from this where value > (select avg(value) from this)",
        false,
    ),
    (
        "select key, sum(value) as value from this where value > (select avg(value) from this) \
      group by key",
        false,
    ),
    (
        "select key, (select max(value) from this) + sum(value) as value from this group by key",
        false,
    ),
    (
        "select key, value from this union all select key, -value from this",
        false,
    ),
    (
        "select key, sum(value) as value from this group by key \
         union all select key, max(value) as value from this group by key",
        false,
    ),
    (
        "select key, value from this t where not exists \
      (select 1 from this u where u.value = t.value + 1)",
        false,
    ),
    (
        "select a.key, b.value from this a cross join (select max(value) as value from this) b",
        false,
    ),
    (
        "select case when value > 0 then 'more' else 'less' end as key, min(value) as value from this \
      group by 1",
        false,
    ),
    (
        "select a.key, b.value from this a join this b on a.value < b.value",
        false,
    ),
    (
        "select coalesce(a.key, b.key) as key, coalesce(b.value, 99) as value from this a full join \
      (select key, value from this where value > 0) b on a.key = b.key and a.value = b.value",
        false,
    ),
];

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn queries_over_one_stream(config in settings(), input in intervals(pair(), 3)) {
        let got = all_queries(&config, &input);
        for ((query, ordered), got) in QUERIES.iter().zip(got) {
            let columns = if query.contains("row_number") { 3 } else { 2 };
            let query = match columns {
                2 => (*query).to_owned(),
                _ => format!("select key, cast(v as bigint) * 100 + value as value from ({query})"),
            };
            let wanted = each(&input, |rows| plain::<Pair>(&[("this", batch_of(rows).unwrap())], &query));
            if *ordered {
                prop_assert_eq!(got, wanted, "{}", query);
            } else {
                prop_assert_eq!(sorted(got), sorted(wanted), "{}", query);
            }
        }
    }

    #[test]
    fn queries_over_two_streams(
        config in settings(),
        left in intervals((0..4i64, text()), 3),
        right in intervals((0..4i64, -9..9i64), 3),
    ) {
        for kind in ["join", "left join", "right join", "full join"] {
            let query = format!(
                "select coalesce(a.key, b.key) as _1, coalesce(a.value, 'none') as _2, \
                 coalesce(b.value, 77) as _3 from a {kind} b on a.key = b.key"
            );
            let got = joined(&config, &left, &right, &query);
            for (n, (at, got)) in got.into_iter().enumerate() {
                prop_assert_eq!(at, (n as u64 + 1) * 100);
                let rows = |n: usize| -> Vec<(i64, String)> { left.get(n).cloned().unwrap_or_default().concat() };
                let others: Vec<(i64, i64)> = right.get(n).cloned().unwrap_or_default().concat();
                let tables = [("a", batch_of(rows(n)).unwrap()), ("b", batch_of(others).unwrap())];
                let wanted = plain::<(i64, String, i64)>(&tables, &query);
                prop_assert_eq!(sorted(vec![(at, got)]), sorted(vec![(at, wanted)]), "{}", query);
            }
        }
    }

    #[test]
    fn transforms_of_frames_equal_queries(config in settings(), input in intervals(pair(), 3)) {
        let got = run(&config, &input, |_, pairs| {
            let f = |frame: dstreams::datafusion::dataframe::DataFrame| {
                frame.filter(col("value").gt(lit(0i64)))?.select(vec![col("value"), col("key")])
            };
            // By name: the order of the columns does not matter.
            pairs.transform::<Pair>(f).unwrap()
        });
        let wanted = each(&input, |rows| rows.into_iter().filter(|(_, n)| *n > 0).collect());
        prop_assert_eq!(got, wanted);
    }
}

fn all_queries(config: &Config, input: &[Interval<Pair>]) -> Vec<Batches<Pair>> {
    let stream = |pairs: &DStream<Pair>, query: &str| {
        if query.contains("row_number") {
            let wide =
                format!("select key as _1, cast(v as bigint) as _2, value as _3 from ({query})");
            let wide = pairs.sql::<(String, i64, i64)>(&wide).unwrap();
            return wide.map(|(key, v, value)| (key.to_owned(), v * 100 + value));
        }
        pairs.sql::<Pair>(query).unwrap()
    };
    run_all(config, input, |_, pairs| {
        let queries = QUERIES.iter();
        queries.map(|(query, _)| stream(pairs, query)).collect()
    })
}

fn joined(
    config: &Config,
    left: &[Interval<(i64, String)>],
    right: &[Interval<(i64, i64)>],
    query: &str,
) -> Batches<(i64, String, i64)> {
    block_on(async {
        let mut program = Program::new(config.clone());
        let (queue_a, a) = program.ctx.queue::<(i64, String)>("a");
        let (queue_b, b) = program.ctx.queue::<(i64, i64)>("b");
        let both = program
            .ctx
            .sql::<(i64, String, i64)>(&[("a", &a), ("b", &b)], query)
            .unwrap();
        let mut output = both.collect();
        let mut live = program.start().await;
        for n in 0..left.len().max(right.len()) {
            for block in left.get(n).into_iter().flatten() {
                queue_a.push(block.iter().cloned()).await.unwrap();
            }
            for block in right.get(n).into_iter().flatten() {
                queue_b.push(block.iter().copied()).await.unwrap();
            }
            live.batch().await;
        }
        let mut batches = Vec::new();
        while let Some(rdd) = output.try_recv() {
            batches.push((rdd.batch_time().0, rdd.collect().unwrap()));
        }
        live.running.stop().await.unwrap();
        batches
    })
}

#[test]
fn tables_and_functions_of_the_context() {
    let shops: Vec<(i64, String)> = (0..5).map(|n| (n, format!("shop number {n}"))).collect();
    let shops = batch_of(shops).unwrap();
    let input: Vec<Interval<(i64, i64)>> = (0..3)
        .map(|batch| vec![(0..20).map(|n| (n % 7, n * batch)).collect()])
        .collect();
    let query = |join: &str| {
        format!(
            "select coalesce(s.value, 'unknown') as key, coalesce(sum(t.value), 0) as value \
             from this t {join} shops s on s.key = t.key group by 1"
        )
    };
    for join in ["join", "left join", "right join", "full join"] {
        let got = run(&small(3, 4, 4), &input, |ctx, sales| {
            let table = MemTable::try_new(shops.schema(), vec![vec![shops.clone()]]).unwrap();
            ctx.register_table("shops", Arc::new(table));
            sales.sql::<Pair>(&query(join)).unwrap()
        });
        let wanted = each(&input, |rows| {
            plain::<Pair>(
                &[("this", batch_of(rows).unwrap()), ("shops", shops.clone())],
                &query(join),
            )
        });
        assert_eq!(sorted(got), sorted(wanted), "{join}");
    }
}

/// Values of types that cannot be keys of streams cross exchanges too.
#[test]
fn groups_and_joins_by_values_of_any_type() {
    let input: Vec<Interval<i64>> = vec![
        (0..9)
            .map(|n| (n..20).map(|m| m % 7 - 3).collect())
            .collect(),
    ];
    for kind in [
        "cast(value as decimal(10, 2))",
        "arrow_cast(cast(value as varchar), 'Binary')",
        "arrow_cast(cast(value as varchar), 'LargeUtf8')",
        "arrow_cast(cast(value as varchar), 'Dictionary(Int32, Utf8)')",
        "arrow_cast(value, 'Timestamp(Millisecond, None)')",
        "make_array(value, 1)",
        "named_struct('a', value, 'b', 'text')",
        "cast(value as double)",
        "cast(value as real)",
        "value > 0",
        "nullif(value, 2)",
    ] {
        let by = format!("(select {kind} as k, count(*) as n from this group by 1)");
        let query = format!("select a.n * 100 + b.n as value from {by} a join {by} b on a.k = b.k");
        let got = run(&small(3, 4, 4), &input, |_, numbers| {
            numbers.sql::<i64>(&query).unwrap()
        });
        let wanted = each(&input, |rows| {
            plain::<i64>(&[("this", batch_of(rows).unwrap())], &query)
        });
        assert!(wanted[0].1.len() > 1, "{kind}");
        assert_eq!(sorted(got), sorted(wanted), "{kind}");
    }
}

#[test]
fn a_query_without_streams_gives_the_same_in_each_batch() {
    let got = run(&small(2, 1, 1), &[vec![vec![1i64, 2]], vec![]], |ctx, _| {
        ctx.sql::<i64>(&[], "select 5 as value union all select 6")
            .unwrap()
    });
    assert_eq!(sorted(got), [(100, vec![5, 6]), (200, vec![5, 6])]);
}

#[test]
fn words_in_a_query_are_those_of_the_closure() {
    let line = |n: usize| {
        "to be\tor  not to be, a word of more than twelve bytes: antidisestablish ".repeat(n % 3)
    };
    let input: Vec<Interval<String>> = (0..3)
        .map(|n| vec![(0..n * 5).map(line).collect()])
        .collect();
    let by_query = run(&small(2, 4, 4), &input, |_, lines| {
        lines
            .sql::<(String, i64)>(
                "select word as key, count(*) as value from \
                 (select unnest(words(value)) as word from this) group by word",
            )
            .unwrap()
    });
    let by_closure = run(&small(2, 4, 4), &input, |_, lines| {
        let words = lines.flat_map::<String>(|line, out| {
            dstreams::text::words(line).for_each(|word| out.push(word));
        });
        words.keyed().agg(count()).unwrap().pairs()
    });
    assert!(by_query[2].1.len() > 5, "{by_query:?}");
    assert_eq!(sorted(by_query), sorted(by_closure));
}

#[test]
fn queries_over_windows_and_keyed_streams() {
    let input: Vec<Interval<Pair>> = (0..6i64)
        .map(|b| vec![(0..10).map(|n| (format!("k{}", n % 4), n + b)).collect()])
        .collect();
    let got = run(&small(2, 2, 3), &input, |ctx, pairs| {
        let keyed = pairs.by_key();
        let window = std::time::Duration::from_millis(300);
        let long = keyed.window_agg(window, window, count()).unwrap();
        let same = keyed.window_agg(window * 2, window, count()).unwrap();
        let query =
            "select l.key, l.value * 1000 + s.value as value from l join s on l.key = s.key";
        ctx.sql::<Pair>(&[("l", &long), ("s", &same)], query)
            .unwrap()
    });
    let row = |key: &str, n| (key.to_owned(), n);
    let first = vec![
        row("k0", 9009),
        row("k1", 9009),
        row("k2", 6006),
        row("k3", 6006),
    ];
    let second = vec![
        row("k0", 9018),
        row("k1", 9018),
        row("k2", 6012),
        row("k3", 6012),
    ];
    assert_eq!(sorted(got), [(300, first), (600, second)]);
}
