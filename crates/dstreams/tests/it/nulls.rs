//! Nulls of queries: refused when the graph is built if they are foreseeable, else reported with column and row;
//! never taken for numbers.

use std::sync::Arc;

use dstreams::agg::{count, max, min, sum};
use dstreams::datafusion::datasource::MemTable;
use dstreams::record::batch_of;
use dstreams::{Record, StreamContext};

use crate::program::{INTERVAL, Program, block_on, run, small};

/// A text, a number, a nullable number, a floating-point number.
type Row = (String, i64, Option<i64>, f64);

/// Whether a query may be a stream of texts and numbers without nulls; otherwise the refusal.
fn build<U: Record>(query: &str) -> Result<(), String> {
    let mut ctx = StreamContext::new(INTERVAL).unwrap();
    let (_, rows) = ctx.queue::<Row>("rows");
    let known = batch_of([(1i64, "one".to_owned(), Some(2i64))]).unwrap();
    let table = MemTable::try_new(known.schema(), vec![vec![known]]).unwrap();
    ctx.register_table("known", Arc::new(table));
    match rows.sql::<U>(query) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Queries for a text and a number.
const VALID: &[&str] = &[
    "select _1, _2 from this",
    "select _1, count(*) from this group by _1",
    "select 'all', count(_3) from this",
    "select _1, sum(_2) + 1 from this group by _1",
    "select _1, min(_2) from this group by _1 having max(_2) > 3",
    "select _1, coalesce(_3, 0) from this",
    "select 'all', coalesce(sum(_2), 0) from this",
    "select _1, _3 from this where _3 is not null",
    "select _1, -_3 from this where _3 > 2 and _2 > 1",
    "select _1, cast(char_length(_1) as bigint) from this",
    "select _1, case when _3 is null then 0 else _3 end from this",
    "select _1, _2 from this order by _3 limit 3",
    "select distinct _1, _2 from this",
    "select _1, cast(row_number() over (partition by _1 order by _2) as bigint) from this",
    "select _1, sum(_2) over (partition by _1 order by _2) from this",
    "select t._1, k._1 from this t join known k on t._2 = k._1",
    "select k._2, k._3 from this t join known k on t._2 = k._1 and k._3 = t._3",
    "select t._1, k.most from this t cross join (select max(_2) as most from this) k",
    "select t._1, t._2 from this t left join known k on t._2 = k._1",
    "select _1, _2 from this union all select _1, _2 + 1 from this",
    "select _1, (select max(_2) from this) + sum(_2) from this group by _1",
    "select t._1, coalesce(t._2, k._1) from this t full join known k on t._2 = k._1 where t._1 > ''",
    "select coalesce(k._2, 'none'), t._2 from this t left join known k on t._2 = k._1",
];

/// Queries for a text and a nullable number; with the reason for the refusal.
const REFUSED: &[(&str, &str)] = &[
    ("select _1, _3 from this", "`_3` of `this` may have nulls"),
    (
        "select 'all', sum(_2) from this",
        "`sum` of no rows is null",
    ),
    (
        "select 'all', max(_2) + 1 from this",
        "`max` of no rows is null",
    ),
    (
        "select _1, min(_3) from this group by _1",
        "`_3` of `this` may have nulls",
    ),
    (
        "select _1, sum(_2) filter (where _2 > 1) from this group by _1",
        "`sum` of no rows is null",
    ),
    ("select _1, nullif(_2, 0) from this", "`nullif` gives null"),
    (
        "select _1, case when _2 > 1 then _2 end from this",
        "`case` without `else` gives null",
    ),
    (
        "select _1, case when _2 > 1 then _2 else null end from this",
        "a null that the query names",
    ),
    (
        "select _1, try_cast(_1 as bigint) as n from this",
        "`try_cast` gives null",
    ),
    (
        "select _1, lag(_2) over (order by _2) from this",
        "`lag` without a default gives null",
    ),
    (
        "select t._1, k._1 from this t left join known k on t._2 = k._1",
        "no partner in the left join",
    ),
    (
        "select k._2, t._2 from this t right join known k on t._2 = k._1",
        "no partner in the right join",
    ),
    (
        "select t._1, t._2 from this t full join known k on t._2 = k._1",
        "no partner in the full join",
    ),
    ("select _2, _3 from known", "`_3` of `known` may have nulls"),
    (
        "select _1, _2 from this union all select _1, _3 from this",
        "`_3` of `this` may have nulls",
    ),
    (
        "select key, value from (select _1 as key, _3 as value from this) where key > 'a'",
        "`_3` of `this`",
    ),
];

#[test]
fn nullable_columns_are_refused_when_the_graph_is_built() {
    for query in VALID {
        assert_eq!(build::<(String, i64)>(query), Ok(()), "{query}");
    }
    for (query, reason) in REFUSED {
        let refusal = build::<(String, i64)>(query).unwrap_err();
        for part in [reason, "`sql`", "column `", "coalesce", "Option"] {
            assert!(refusal.contains(part), "{query}: {refusal}");
        }
        // With an `Option` each of them is a stream.
        assert_eq!(
            build::<(Option<String>, Option<i64>)>(query),
            Ok(()),
            "{query}"
        );
    }
    let refusal = build::<f64>("select var_samp(_4) as value from this group by _1").unwrap_err();
    assert!(refusal.contains("of one row is null"), "{refusal}");
}

/// An error of a batch names operator, column and row.
#[test]
fn an_unforeseen_null_is_named() {
    block_on(async {
        let mut program = Program::new(small(2, 1, 2));
        let (queue, pairs) = program.ctx.queue::<(String, i64)>("in");
        let query = "select key, cast(substr(key, nullif(value, 2)) as varchar) as value from this";
        let odd = pairs.sql::<(String, String)>(query).unwrap();
        odd.for_each_rdd(|_| {});
        let mut live = program.start().await;
        queue.push([("abc".to_owned(), 1)]).await.unwrap();
        live.batch().await;
        let rows = ["abc", "def", "ghi"].into_iter().zip(1..);
        let rows = rows.map(|(key, n)| (key.to_owned(), n));
        queue.push(rows).await.unwrap();
        let error = live.try_batch().await.unwrap_err().to_string();
        let row = r#"{"key":"def","value":null}"#;
        for part in ["`sql`", "column `value` is null", row, "try_sql"] {
            assert!(error.contains(part), "{error}");
        }
    });
}

/// A null that is replaced is an ordinary number, in a batch and over batches.
#[test]
fn replaced_nulls_are_right_in_aggregates() {
    let row = |key: &str, n| (key.to_owned(), n);
    let input = [
        vec![vec![row("a", 0), row("b", 3)]],
        vec![vec![row("a", 0)]],
    ];
    let query = "select key, coalesce(nullif(value, 0), 7) as value from this";
    for threads in [1, 3] {
        let got = run(&small(threads, 1, 2), &input, |_, pairs| {
            let pairs = pairs.sql::<(String, i64)>(query).unwrap().by_key();
            let all = (min::<i64>(), max::<i64>(), sum::<i64>(), count());
            let window = pairs.window_agg(2 * INTERVAL, INTERVAL, all).unwrap();
            window
                .pairs()
                .map(|(key, (a, b, c, d))| (key.to_owned(), a, b, c, d))
        });
        let row = |key: &str, n, sum, count| (key.to_owned(), n, n, sum, count);
        let first = vec![row("a", 7, 7, 1), row("b", 3, 3, 1)];
        let second = vec![row("a", 7, 14, 2), row("b", 3, 3, 1)];
        assert_eq!(crate::program::sorted(got), [(100, first), (200, second)]);
    }
}
