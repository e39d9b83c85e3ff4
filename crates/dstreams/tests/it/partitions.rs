//! Queries give the same with one partition and with four, and what plain DataFusion gives with one: also where it
//! depends on the order of rows, and where rows are equal in the order that is asked for.

use dstreams::agg::count;
use dstreams::record::batch_of;
use dstreams::{Config, DStream, StreamContext};
use proptest::prelude::*;
use proptest::sample::select;

use crate::plain::plain;
use crate::program::{Batches, Interval, Program, cases, run_all, small, sorted};

type Pair = (String, i64);

/// What plain DataFusion is asked for.
enum Plain {
    /// The same, and gives the same rows.
    Same,
    /// An order in which no two different rows are equal; our ties are told apart by the other columns, in their order.
    Total(&'static str),
    /// Nothing: any rows would be right.
    Any,
}

use Plain::{Any, Same, Total};

#[rustfmt::skip]
const QUERIES: &[(&str, Plain)] = &[
    ("select key, value from this limit 4", Same),
    ("select key, value from this limit 3 offset 2", Same),
    ("select key, value from this order by key limit 3", Total("select key, value from this order by key, value limit 3")),
    ("select key, value from this order by value desc limit 3", Total("select key, value from this order by value desc, key limit 3")),
    ("select key, value + 1 as value from this order by value % 2 limit 3", Total("select key, value + 1 as value from this order by value % 2, key, value limit 3")),
    ("select key, 1 as value from this order by value limit 2", Total("select key, 1 as value from this order by value, key limit 2")),
    ("select key, value from (select key, value from this limit 5) order by value limit 2", Total("select key, value from (select key, value from this limit 5) order by value, key limit 2")),
    ("select key, value from this where key = 'a' order by key limit 2", Total("select key, value from this where key = 'a' order by key, value limit 2")),
    ("select key, sum(value) as value from this group by key limit 2", Same),
    ("select key, count(*) as value from this group by key order by 2 desc limit 2", Total("select key, count(*) as value from this group by key order by 2 desc, 1 limit 2")),
    ("select distinct key, value from this limit 3", Same),
    ("select key, value from this where value in (select value from this limit 2)", Same),
    ("select key, value from this where value >= (select value from this limit 1)", Same),
    ("with t as (select key, value from this limit 3) select a.key, b.value from t a cross join t b", Same),
    ("(select key, value from this limit 2) union all (select key, value from this order by value limit 1)", Total("(select key, value from this limit 2) union all (select key, value from this order by value, key limit 1)")),
    ("select a.key, b.value from this a join this b on a.value = b.value limit 3", Any),
    ("select coalesce(a.key, 'none') as key, coalesce(b.value, 77) as value from this a full join (select * from this where value > 0) b on a.value = b.value limit 5", Any),
    ("select key, cast(row_number() over () as bigint) as value from this", Same),
    ("select key, cast(row_number() over (order by key) as bigint) as value from this", Total("select key, cast(row_number() over (order by key, value) as bigint) as value from this")),
    ("select key, cast(row_number() over (partition by key) as bigint) * 100 + value as value from this", Total("select key, cast(row_number() over (partition by key order by value) as bigint) * 100 + value as value from this")),
    ("select key, cast(row_number() over (partition by key order by value) as bigint) * 100 + value as value from this", Same),
    ("select key, cast(row_number() over (partition by key order by key) as bigint) * 100 + value as value from this where key = 'b'", Total("select key, cast(row_number() over (order by value) as bigint) * 100 + value as value from this where key = 'b'")),
    ("select key, cast(row_number() over (order by key) as bigint) * 100 + value as value from this where key = 'a'", Total("select key, cast(row_number() over (order by value) as bigint) * 100 + value as value from this where key = 'a'")),
    ("select key, coalesce(lag(value) over (order by key), 77) as value from this", Total("select key, coalesce(lag(value) over (order by key, value), 77) as value from this")),
    ("select key, coalesce(lead(value) over (), 77) as value from this", Same),
    ("select key, coalesce(first_value(value) over (partition by key order by key), 77) as value from this", Total("select key, coalesce(first_value(value) over (partition by key order by value), 77) as value from this")),
    ("select key, coalesce(last_value(value) over (partition by key), 77) as value from this", Total("select key, max(value) over (partition by key) as value from this")),
    ("select key, coalesce(first_value(value) over (), 77) as value from this", Same),
    ("select key, coalesce(sum(value) over (order by key rows between 1 preceding and current row), 77) as value from this", Total("select key, coalesce(sum(value) over (order by key, value rows between 1 preceding and current row), 77) as value from this")),
    ("select key, coalesce(sum(value) over (rows between 1 preceding and current row), 77) as value from this", Same),
    ("select key, coalesce(sum(value) over (order by key), 77) as value from this", Same),
    ("select key, coalesce(sum(value) over (), 77) as value from this", Same),
    ("select key, cast(rank() over (order by key) as bigint) * 10 + cast(dense_rank() over (order by value) as bigint) as value from this", Same),
    ("select key, cast(ntile(3) over (order by value) as bigint) as value from this", Total("select key, cast(ntile(3) over (order by value, key) as bigint) as value from this")),
    ("select key, coalesce(first_value(value), 77) as value from this group by key", Same),
    ("select key, coalesce(last_value(value), 77) as value from this group by key", Same),
    ("select 'all' as key, coalesce(nth_value(value, 2), 77) as value from this", Same),
    ("select coalesce(string_agg(key, ','), '') as key, value from this group by value", Same),
    ("select coalesce(array_to_string(array_agg(value), ','), '') as key, 1 as value from this", Same),
    ("select coalesce(array_to_string(array_agg(distinct value), ','), '') as key, 1 as value from this", Same),
    ("select coalesce(array_to_string(array_agg(value order by key), ','), '') as key, 1 as value from this", Total("select coalesce(array_to_string(array_agg(value order by key, value), ','), '') as key, 1 as value from this")),
    ("select key, unnest(array_agg(value)) as value from this group by key", Same),
    ("select distinct on (key) key, value from this order by key, value desc", Same),
    ("select distinct on (key) key, value from this", Any),
    ("select key, value from this except select key, value from this where value > 0", Same),
    ("select key, count(distinct value) as value from this group by key", Same),
    ("select key, cast(approx_distinct(value) as bigint) as value from this group by key", Same),
    ("select key, cast(coalesce(median(value), 0) as bigint) as value from this group by key", Same),
];

/// Over the number of records of each key: these come in an order of their partitions.
#[rustfmt::skip]
const OVER_COUNTS: &[&str] = &[
    "select key, value from this limit 2",
    "select key, cast(row_number() over () as bigint) as value from this",
    "select coalesce(string_agg(key, ','), '') as key, 1 as value from this",
    "select key, value from this order by value limit 2",
];

/// The results of each query, batch by batch; then those of queries over counts.
fn queries(config: &Config, input: &[Interval<Pair>]) -> Vec<Batches<Pair>> {
    run_all(config, input, |_, pairs| {
        let counts = pairs.by_key().agg(count()).unwrap().pairs();
        let over = QUERIES.iter().map(|(query, _)| (pairs.clone(), *query));
        let over = over.chain(OVER_COUNTS.iter().map(|query| (counts.clone(), *query)));
        over.map(|(stream, query)| match stream.sql::<Pair>(query) {
            Ok(stream) => stream,
            Err(error) => panic!("{query}: {error}"),
        })
        .collect()
    })
}

/// Over numbers that are none, of either sign, and both zeros: what is equal goes to one partition.
#[rustfmt::skip]
const OVER_FLOATS: &[&str] = &[
    "select 'n' as key, count(*) as value from (select distinct value from this)",
    "select 'n' as key, n as value from (select value, count(*) as n from this group by value)",
    "select a.key, count(*) as value from this a join this b on a.value = b.value group by a.key",
    "select a.key, count(b.key) as value from this a left join (select * from this where key = 'a') b on a.value = b.value group by a.key",
    "select key, cast(row_number() over (partition by value order by key) as bigint) as value from this",
    "select key, count(distinct value) as value from this group by key",
    "select key, 1 as value from this where value in (select value from this where key = 'a')",
    "select key, 1 as value from this order by value desc limit 2",
];

fn interval() -> impl Strategy<Value = Interval<Pair>> {
    let row = ("[abc]", -2..3i64);
    prop::collection::vec(prop::collection::vec(row, 1..6), 2..5)
}

proptest! {
    #![proptest_config(cases(3))]

    #[test]
    fn queries_give_the_same_whatever_the_number_of_partitions(input in prop::collection::vec(interval(), 2)) {
        let one = queries(&small(1, 2, 3), &input);
        let four = queries(&small(4, 2, 3), &input);
        let names = QUERIES.iter().map(|(query, _)| *query).chain(OVER_COUNTS.iter().copied());
        for ((query, one), four) in names.zip(&one).zip(&four) {
            let ordered = query.contains("limit") && !query.contains(" in (") && !query.contains(">=");
            if ordered {
                prop_assert_eq!(one, four, "{}", query);
            }
            prop_assert_eq!(sorted(one.clone()), sorted(four.clone()), "{}", query);
        }
        for ((query, expected), got) in QUERIES.iter().zip(four) {
            let query = match expected {
                Same => query,
                Total(query) => query,
                Any => continue,
            };
            for (interval, batch) in input.iter().zip(got) {
                let wanted = plain(&[("this", batch_of(interval.concat()).unwrap())], query);
                let at = batch.0;
                prop_assert_eq!(sorted(vec![batch]), sorted(vec![(at, wanted)]), "{}", query);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(4))]

    #[test]
    fn floating_point_numbers_that_are_equal_meet(
        rows in prop::collection::vec(("[ab]", select(vec![f64::NAN, -f64::NAN, 0.0, -0.0, f64::INFINITY, 1.0])), 3..14),
    ) {
        let input = [rows.chunks(3).map(<[_]>::to_vec).collect::<Vec<_>>()];
        let build = |_: &StreamContext, rows: &DStream<(String, f64)>| {
            OVER_FLOATS.iter().map(|query| rows.sql::<Pair>(query).unwrap()).collect()
        };
        let one = run_all(&small(1, 2, 3), &input, build);
        let four = run_all(&small(4, 2, 3), &input, build);
        for ((query, one), four) in OVER_FLOATS.iter().zip(one).zip(four) {
            prop_assert_eq!(sorted(one), sorted(four.clone()), "{}", query);
            if !query.contains("limit") {
                let wanted = plain(&[("this", batch_of(rows.clone()).unwrap())], query);
                prop_assert_eq!(sorted(four), sorted(vec![(100, wanted)]), "{}", query);
            }
        }
    }
}

#[test]
fn nondeterministic_queries_are_refused() {
    let mut program = Program::new(small(1, 1, 1));
    let (_, pairs) = program.ctx.queue::<(String, f64)>("in");
    for (query, name) in [
        (
            "select key, sum(distinct value) as value from this group by key",
            "sum(distinct",
        ),
        (
            "select key, avg(distinct value + 1) as value from this group by key",
            "avg(distinct",
        ),
        ("select key, random() as value from this", "random"),
    ] {
        let refused = pairs.sql::<(String, f64)>(query).err().unwrap().to_string();
        assert!(
            refused.contains(name) && refused.contains("same result"),
            "{refused}"
        );
    }
    let _ = pairs
        .sql::<(String, i64)>(
            "select key, sum(distinct cast(value as bigint)) as value from this group by key",
        )
        .unwrap();
}
